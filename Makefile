# setup installs into .venv; demo and test use it. `make demo test` from a fresh clone does everything.
PYTHON ?= python3.11
VENV := .venv
RUN := $(VENV)/bin/python

# Keep compiled modules, rewritten tests among them: every process that starts saves seconds.
unexport PYTHONDONTWRITEBYTECODE

INSTALLED := $(VENV)/.installed

.PHONY: setup demo results check test test-portable test-avx2 test-scalar test-browser test-cluster clean

# The packages, and the real subject: 93 MB, converted once, in a minute. Where it cannot be had, the demo says so and runs on the small model of Python.
setup: $(INSTALLED)
	-$(RUN) -m core.subject.smollm2

$(INSTALLED): requirements.txt requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.txt)"
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	touch $@

demo: setup
	$(RUN) main.py demo

# The experiments behind docs/report.md and the answers in README.md, from their own runs; what is done is not done again.
results: setup
	$(RUN) main.py results

# Style, types and the fast tests.
check: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 -m "not slow and not numeric and not browser and not cluster and not server"

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2

# The numeric tests as older processors would run them: torch, oneDNN, MKL and OpenBLAS each pick instructions by
# themselves. `make -j2 -O test-portable` runs both at once, on one thread each.
test-portable: test-avx2 test-scalar

test-avx2: $(INSTALLED)
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 OPENBLAS_CORETYPE=Haswell \
		OMP_NUM_THREADS=1 $(RUN) -m pytest -m numeric

test-scalar: $(INSTALLED)
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE OPENBLAS_CORETYPE=Nehalem \
		OMP_NUM_THREADS=1 $(RUN) -m pytest -m numeric

# Headless Chromium: Debian's, or the one that CHROMIUM names.
test-browser: $(INSTALLED)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/browser/requirements.txt
	command -v "$${CHROMIUM:-chromium}" > /dev/null || { apt-get update -qq && apt-get install -y -qq chromium; }
	BROWSER=1 $(RUN) -m pytest tests/browser

# A Ray cluster on this machine: every stage on it, and machines killed at random moments (ROUNDS of them).
test-cluster: $(INSTALLED)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements-cluster.txt
	CLUSTER=1 OMP_NUM_THREADS=1 $(RUN) -m pytest -m cluster

clean:
	rm -rf data/runs/demo data/runs/demo-* data/runs/results data/runs/results-*
