# setup installs into .venv; demo and test use it. `make demo test` from a fresh clone does everything.
PYTHON ?= python3.11
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: setup demo test clean

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

clean:
	rm -rf data/runs/demo data/runs/demo-control
