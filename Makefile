# setup installs into .venv; demo and test use it. `make demo test` from a fresh clone does everything.
PYTHON ?= python3.11
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: setup demo test test-browser clean

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.txt)"
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

demo: setup
	$(RUN) main.py demo

test: setup
	$(RUN) -m pytest

# Headless Chromium: Debian's, or the one that CHROMIUM names.
test-browser: setup
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/browser/requirements.txt
	command -v "$${CHROMIUM:-chromium}" > /dev/null || { apt-get update -qq && apt-get install -y -qq chromium; }
	BROWSER=1 $(RUN) -m pytest tests/browser

clean:
	rm -rf data/runs/demo data/runs/demo-control
