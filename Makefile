# On a machine with Python and a C compiler, `make train` and `make test` do all there is.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

.PHONY: help install train test test-slow lint docs simd clean

help: ## Print this help
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

install: $(VENV)/installed-cli ## Create .venv and install the package into it, with its commands

$(VENV)/installed-%: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --upgrade pip
	$(VENV)/bin/pip install --quiet --editable '.[$*]'
	touch $@

train: $(VENV)/installed-cli ## Train on the digits; overrides in ARGS, for instance ARGS='augmix.severity=5'
	$(VENV)/bin/augmix-train $(ARGS)

test: $(VENV)/installed-test ## Run the tests but for the slow ones; pytest's arguments in ARGS, for instance ARGS="-k callback"
	$(VENV)/bin/pytest -n auto --dist worksteal --cov -m "not slow" $(ARGS)

test-slow: $(VENV)/installed-test ## Run the slow tests: worker processes, ranks, real libraries
	$(VENV)/bin/pytest -n auto --dist worksteal -m slow $(ARGS)

lint: $(VENV)/installed-test ## Check style and types
	$(VENV)/bin/pip install --quiet --editable '.[lint]'
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: $(VENV)/installed-docs ## Build the site into site/; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

# Both packages own the folder PIL, so one has to go before the other comes; pip then says that torchvision misses
# pillow, which is only the name. Needs the headers of zlib and libjpeg.
simd: $(VENV)/installed-test ## Replace Pillow by Pillow-SIMD in .venv, built for AVX2 where the processor has it
	$(VENV)/bin/pip uninstall --quiet --yes pillow pillow-simd
	CC="cc $$(grep -qsw avx2 /proc/cpuinfo && echo -mavx2)" \
		$(VENV)/bin/pip install --quiet --no-cache-dir --no-binary pillow-simd pillow-simd
	$(VENV)/bin/python -c "import PIL; print('Pillow-SIMD', PIL.__version__)"

clean: ## Remove .venv and everything that was built or measured
	rm -rf $(VENV) build dist site outputs multirun .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis
