# One command per task; CI runs the same ones.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
ARGS ?=

.PHONY: run test test-engines offline lint type docs bench bench-engine bench-verify bench-growth bench-page bench-peers soak fuzz lock clean

run: $(VENV)/.run  ## Serve the default model on this machine; prints a curl line that talks to it.
	@exec $(BIN)/confide serve --tee dev --print-curl $(ARGS)

# The halves of the tests, which run at once: most of them wait for one core. What isn't named here is in the second.
FIRST := $(addprefix tests/,api attest cli client clients engine engines identity load model) $(wildcard tests/test_*.py)

test: $(VENV)/.dev  ## All tests, with coverage. Needs Node 20 or later for the TypeScript clients. ARGS="-k name" runs some.
	rm -f .coverage .coverage.*
	$(if $(ARGS),$(BIN)/coverage run -m pytest $(ARGS),$(MAKE) --no-print-directory -k -j2 .first .second)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

.PHONY: .first .second
.first:
	$(BIN)/coverage run -m pytest -p no:cacheprovider $(FIRST)
.second:
	$(BIN)/coverage run -m pytest -p no:cacheprovider tests $(addprefix --ignore=,$(FIRST))

test-engines: $(VENV)/.dev .venvs/engines/.made  ## Real vLLM, llama-server and transformers behind the server: 4 GB, and the better part of an hour.
	$(BIN)/python -m pytest -m engines tests/engines $(ARGS)

offline: $(VENV)/.dev  ## The verifier's tests where there is no network at all (Linux namespaces).
	unshare --user --map-root-user --net $(BIN)/python -m pytest -q -p no:cacheprovider tests/verify tests/wire tests/seal

lint: $(VENV)/.dev  ## Style, and the direction of imports between rooms.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

type: $(VENV)/.dev  ## mypy, strict.
	$(BIN)/mypy

docs: $(VENV)/.dev  ## Write the generated parts of the reference anew.
	$(BIN)/python docs/generate.py

.PHONY: site
site: .venvs/site/.made  ## The documentation as pages that need no network, in build/site; a warning is an error.
	.venvs/site/bin/sphinx-build -q -E -W --keep-going -b html docs build/site

.venvs/site/.made: requirements/site.lock
	$(PYTHON) -m venv .venvs/site
	.venvs/site/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements/site.lock
	@touch $@

bench: $(VENV)/.dev  ## What the proof costs: our request path beside a floor and nginx; writes docs/benchmarks.md.
	$(BIN)/python -m benchmarks.gateway --write docs/benchmarks.md $(ARGS)

bench-engine: $(VENV)/.dev  ## Our server beside llama.cpp's own, in one run; writes docs/benchmarks-engine.md.
	$(BIN)/python benchmarks/engine.py --write docs/benchmarks-engine.md $(ARGS)

bench-verify: $(VENV)/.dev  ## What verification and audits cost, beside bare signatures; writes docs/benchmarks-verify.md.
	$(BIN)/python benchmarks/verify.py --write docs/benchmarks-verify.md $(ARGS)

bench-growth: $(VENV)/.dev  ## Whether cost grows with what is stored; writes docs/benchmarks-growth.md. Needs 25 GB, or ARGS="--largest 1000000".
	$(BIN)/python benchmarks/growth.py --write docs/benchmarks-growth.md $(ARGS)

bench-page: $(VENV)/.dev  ## How fast the page paints and streams; needs Chromium; writes docs/benchmarks-page.md.
	$(BIN)/python benchmarks/page.py --write docs/benchmarks-page.md

bench-peers: $(VENV)/.dev .venvs/peers/.made  ## LiteLLM's proxy beside ours; writes docs/benchmarks-peers.md. Installs 700 MB.
	$(BIN)/python -m benchmarks.peers .venvs/peers/bin/litellm --write docs/benchmarks-peers.md $(ARGS)

soak: $(VENV)/.dev  ## The load tests at full length.
	CONFIDE_SOAK=1000 $(BIN)/python -m pytest tests/load $(ARGS)

fuzz: .venvs/fuzz/.made  ## Every parser and verifier, with coverage feedback; ARGS="--runs 10000000 tdx-quote" for one, longer.
	.venvs/fuzz/bin/python -m tests.fuzz.run $(ARGS)

.venvs/fuzz/.made: requirements/fuzz.txt requirements/dev.lock pyproject.toml
	$(PYTHON) -m venv .venvs/fuzz
	.venvs/fuzz/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements/dev.lock
	.venvs/fuzz/bin/python -m pip --disable-pip-version-check install --quiet -r requirements/fuzz.txt
	.venvs/fuzz/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.venvs/engines/.made: requirements/engines.txt
	$(PYTHON) -m venv .venvs/engines
	.venvs/engines/bin/python -m pip --disable-pip-version-check install --quiet --no-deps -r $<
	.venvs/engines/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --target .venvs/engines/beside torchvision==0.28.0
	@touch $@

.venvs/peers/.made: requirements/peers.txt
	$(PYTHON) -m venv .venvs/peers
	.venvs/peers/bin/python -m pip --disable-pip-version-check install --quiet --no-deps -r $<
	@touch $@

lock:  ## Pin dependencies anew (needs uv).
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--extra local --extra hub pyproject.toml requirements/build.in -o requirements/run.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--extra local --extra hub --extra gpu --extra acme --extra postgres pyproject.toml requirements/build.in \
		-c requirements/run.lock -o requirements/image.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--all-extras pyproject.toml requirements/build.in -c requirements/run.lock -o requirements/dev.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		requirements/site.in -o requirements/site.lock

clean:
	rm -rf $(VENV) .venvs build .cache node_modules

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "confide needs Python 3.11 or later; set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements/run.lock pyproject.toml | $(BIN)/python
	@echo "Installing what the server needs into $(VENV), once ..."
	$(PIP) install --progress-bar on --require-hashes -r requirements/run.lock
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.lock pyproject.toml | $(BIN)/python
	$(PIP) install --quiet --require-hashes -r requirements/dev.lock
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@ $(VENV)/.run
