# The two words of the README are `demo` and `test`; both set everything up first.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/
RUNS ?= runs
# Empty: Python keeps what it compiled, whatever the shell says. Half of a start is compiling otherwise (13 s against 6 s).
export PYTHONDONTWRITEBYTECODE :=

.PHONY: install demo test check gpu ui report referee clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python 3.11 or newer is needed, this is {v.major}.{v.minor}; try: make install PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(RUN)python -m pip install --quiet --disable-pip-version-check uv
	$(RUN)uv pip install --python $(RUN)python --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install  ## one question, answered: the queue-size ablation on the digits, with its table and figure
	MOCO_RUNS=$(RUNS) $(RUN)python sweeps/queue_size.py --yes
	@mkdir -p $(RUNS)/answers
	MOCO_RUNS=$(RUNS) $(RUN)python -m analysis table queue_size --out $(RUNS)/answers/queue_size.md
	MOCO_RUNS=$(RUNS) $(RUN)python -m analysis table queue_size --out $(RUNS)/answers/queue_size.csv
	MOCO_RUNS=$(RUNS) $(RUN)python -m analysis table queue_size --out $(RUNS)/answers/queue_size.html
	MOCO_RUNS=$(RUNS) $(RUN)python -m analysis plot queue_size --out $(RUNS)/answers/queue_size.png

test: install  ## all tests; plain `pytest` is the quick set, without servers
	$(RUN)python -m pytest -n 2 -m ""

check: install
	$(RUN)ruff check .
	$(RUN)ruff format --check .
	$(RUN)mypy

gpu: install  ## for a machine with CUDA: its tests, then what is measured there, the most important first, within 8 minutes
	$(RUN)python -m tests.benchmarks.gpu --total 470 $(if $(CIFAR),--cifar $(CIFAR))

ui: install
	MOCO_RUNS=$(RUNS) $(RUN)python -m experiments ui

report: install
	MOCO_RUNS=$(RUNS) $(RUN)python -m analysis report queue_size --out $(RUNS)/answers/queue_size_report.html

referee: install  ## how often the rule for a claim is wrong, simulated; about ten minutes on one core
	$(RUN)python -m tests.benchmarks.referee --write

clean:  ## build products and caches; never runs
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
