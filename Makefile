# `make help` lists what there is. Needs Python >= 3.11 and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
STAMP := $(VENV)/.stamp
RELEASE := $(VENV)/.release
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: help demo test torture scanners lint format serve wheel image lock sbom audit clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(INSTALLED): pyproject.toml hatch_build.py $(wildcard tes_server/step/*.c tes_server/step/*.h)
	@$(PYTHON) -c 'import sys; sys.exit("make: Python 3.11 or newer is needed; this is " + sys.version.split()[0] + " (set PYTHON=...)" if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV): downloads some 40 packages, which takes minutes on a slow line ..."
	@$(PIP) install --editable .
	@touch $@

$(STAMP): $(INSTALLED)
	@echo "adding what tests and checks need ..."
	@$(PIP) install --editable '.[dev]'
	@touch $@

demo: $(INSTALLED) ## run a real task end to end in the sandbox and show its outputs
	@PATH="$(CURDIR)/$(BIN):$$PATH" examples/demo.sh

test: $(STAMP) ## lint, types, structure and tests (integration tests run where their services answer)
	@$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

TORTURE_SECONDS ?= 300

torture: $(STAMP) ## kills, full disks, clock jumps and crowds; TORTURE_SECONDS=300 and a printed TORTURE_SEED tell how long and in which order
	TORTURE_SECONDS=$(TORTURE_SECONDS) $(BIN)/python -m pytest tests/torture tests/acceptance/test_images.py

scanners: $(STAMP) ## image scans by a real Trivy and a real Grype, made from their Go modules (a quarter of an hour, once); needs Go, Docker, docker-registry
	REAL_SCANNERS=1 $(BIN)/python -m pytest tests/acceptance/test_trivy.py tests/acceptance/test_grype.py

lint: $(STAMP) ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## let ruff format and mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

serve: $(INSTALLED) ## a server on http://127.0.0.1:8000 for this directory's files
	$(BIN)/tes-server serve --allow-host --root "$(CURDIR)" $(ARGS)

wheel: $(INSTALLED) ## build the wheel into dist/
	$(PIP) wheel --no-deps --wheel-dir dist .

IMAGE ?= tes-server:latest

image: ## build the container image IMAGE (from BASE, if given) with docker; PIP_CERT is trusted meanwhile
	@if [ -n "$$PIP_CERT" ]; then cp "$$PIP_CERT" deploy/certificates/pip.crt; fi
	docker build --network=host --ulimit nofile=16384:16384 $(if $(BASE),--build-arg BASE=$(BASE)) -t $(IMAGE) .; \
	  status=$$?; rm -f deploy/certificates/pip.crt; exit $$status

$(RELEASE): pyproject.toml | $(INSTALLED)
	@$(PIP) install --editable '.[release]'
	@touch $@

# No address of the index that was asked: whoever builds elsewhere asks another one for the same hashes.
COMPILE = $(BIN)/uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url --no-emit-find-links $(LOCK)

lock: $(RELEASE) ## pin what the image is made of (requirements/*.lock); LOCK=--upgrade takes the newest versions
	$(COMPILE) --extra aws --extra azure --extra kubernetes --extra mongo --output-file requirements/image.lock pyproject.toml
	$(COMPILE) --output-file requirements/build.lock requirements/build.in

sbom: $(RELEASE) ## dist/sbom.cdx.json: what requirements/image.lock has, as a CycloneDX bill of materials (the image has its own, /opt/tes-server/sbom.cdx.json)
	@mkdir -p dist
	$(BIN)/cyclonedx-py requirements --output-reproducible --pyproject pyproject.toml --output-file dist/sbom.cdx.json requirements/image.lock

audit: $(RELEASE) ## ask PyPI for known vulnerabilities of what is pinned; fails where a package could not be looked up, too
	$(BIN)/pip-audit --strict --disable-pip --require-hashes --requirement requirements/image.lock
	$(BIN)/pip-audit --strict --disable-pip --require-hashes --requirement requirements/build.lock

clean: ## remove what the targets above made
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache tes_server/step/bin
