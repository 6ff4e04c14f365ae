# setup installs into .venv; demo and test use it. `make demo test` from a fresh clone does everything.
PYTHON ?= python3.11
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: setup demo results test test-browser clean

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.txt)"
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

demo: setup
	$(RUN) main.py demo

# The experiments behind docs/report.md and the answers in README.md, from their own runs; what is done is not done again.
results: setup
	$(RUN) main.py results

test: setup
	$(RUN) -m pytest

# Headless Chromium: Debian's, or the one that CHROMIUM names.
test-browser: setup
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/browser/requirements.txt
	command -v "$${CHROMIUM:-chromium}" > /dev/null || { apt-get update -qq && apt-get install -y -qq chromium; }
	BROWSER=1 $(RUN) -m pytest tests/browser

clean:
	rm -rf data/runs/demo data/runs/demo-control data/runs/results data/runs/results-*
