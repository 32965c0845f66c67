# Works with GNU make 3.81 (macOS) and newer. `make` alone says what there is.

PYTHON ?= python3
VENV   ?= .venv
PORT   ?=
ARGS   ?=
# What our images are built from. Pinned by its digest where that matters (docs/reference/dependencies.md):
#   make image image-analyst control-image BASE_IMAGE=python:3.11-slim-bookworm@sha256:...
BASE_IMAGE ?= $(or $(AGCLUSTER_BASE_IMAGE),python:3.11-slim-bookworm)
AGENT_IMAGE ?= agcluster-agent:0.1.0
# Most of a test run is waiting: for containers, leases, deadlines.
JOBS   ?= 2

BIN := $(VENV)/bin
# With uv where it is there, which is several times as fast; with pip where uv cannot do it, as behind
# an index that only pip knows of.
# Not written where they are used: their commas would separate arguments.
SMALL := '.[embedded]'
EVERYTHING := '.[embedded,analyst,dev]'
UV := $(shell command -v uv 2>/dev/null)
installed = $(if $(UV),$(UV) pip install -q --python $(BIN)/python $(1) || )$(BIN)/python -m pip install -q --disable-pip-version-check $(1)
# Tools that look at the dependencies do not add to them.
SUPPLY := $(VENV)/supply
# The client libraries pin what we do not: they have an environment of their own.
CLIENTS := $(VENV)/clients
# Open WebUI is large (3 GB) and pins everything.
WEBUI := $(VENV)/open-webui
# What draws the terminal cast.
CAST := $(VENV)/cast
# What the environment depends on. The install is editable, so the code itself is not among it.
INPUTS := pyproject.toml
# Real parts take their time (contracts run on the fakes here, on both in `make test`); `check` is for
# the minute after every change.
QUICK := not slow and not redis and not docker and not bwrap and not sdk and not compose

# Tests start hundreds of our programs. Where this is set, each would be compiled each time.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help cast run test check static static-format static-lint static-types static-borders fmt docs docs-site release-compose image control-image env compose rollout ops redis-cli compose-down bench bench-burst bench-fleet model soak fuzz clean lock sbom audit licenses test-runsc test-clients test-open-webui

help: ## say what there is
	@echo "AgCluster:"
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1|\2/p' Makefile \
	  | awk -F'|' '{printf "  make %-14s %s\n", $$1, $$2}'

run: $(VENV)/.embedded ## run everything on this machine (PORT=8001, ARGS=--demo)
	@exec $(BIN)/agcluster up $(if $(PORT),--port $(PORT)) $(ARGS)

test: $(VENV)/.dev static ## every ring this machine can run (with CI=true nothing is skipped)
	$(BIN)/pytest --real-parts --second-try -n $(JOBS) --dist loadgroup --no-loadscope-reorder $(ARGS)

test-runsc: $(VENV)/.dev ## the container tests under gVisor, where the engine has the runtime runsc
	AGCLUSTER_CONTAINER_RUNTIME=runsc CI=true $(BIN)/pytest -k docker tests/contract/hosts/test_hardening.py \
	  tests/contract/hosts/test_container_hosts.py $(ARGS)

test-clients: $(VENV)/.dev $(CLIENTS)/.made ## the client libraries that programs use, on Docker and bubblewrap (minutes)
	AGCLUSTER_TEST_CLIENTS="$(abspath $(CLIENTS))" CI=true $(BIN)/pytest -n 0 tests/clients $(ARGS)

test-open-webui: $(VENV)/.dev $(WEBUI)/.made ## Open WebUI itself in headless Chromium (3 GB, minutes; PICTURES=docs/pictures renews those)
	AGCLUSTER_TEST_OPEN_WEBUI="$(abspath $(WEBUI))" AGCLUSTER_TEST_PICTURES="$(PICTURES)" CI=true \
	  $(BIN)/pytest -n 0 --timeout 600 tests/open_webui $(ARGS)

check: $(VENV)/.dev static ## format, lint, types, import borders, unit and contract tests
	$(BIN)/pytest -q -n logical --dist worksteal -m "$(QUICK)" tests/unit tests/contract

static: $(VENV)/.dev
	$(MAKE) --no-print-directory -j4 --keep-going static-format static-lint static-types static-borders

static-format:
	$(BIN)/ruff format --check .

static-lint:
	$(BIN)/ruff check .

static-types:
	$(BIN)/mypy

static-borders:
	$(BIN)/lint-imports

fmt: $(VENV)/.dev ## format the code and mend what the linter can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.dev ## renew what is generated: .env.example, docs/reference/settings.md, docs/reference/failures.md, ARCHITECTURE.md
	$(BIN)/python -m infra.reference.settings --write
	$(BIN)/python -m infra.reference.diagrams --write
	$(BIN)/python -m infra.reference.profiles --write
	$(BIN)/python -m infra.reference.metrics --write
	$(BIN)/python -m infra.reference.pages --write
	$(BIN)/python -m infra.reference.included --write
	$(BIN)/python -m infra.reference.pictures --write
	$(BIN)/python -m worker.diagrams --write
	$(BIN)/python -m tests.failures --write
	$(BIN)/python -m tests.threats --write
	$(BIN)/python -m tests.compatibility --write
	$(BIN)/python -m tests.errors --write
	$(BIN)/python -m tests.api_reference --write

docs-site: $(VENV)/.dev ## build the site of the documents into build/site (ARGS=: what mkdocs takes)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build $(ARGS)

cast: $(VENV)/.embedded ## record the first minute with the demo again, into docs/pictures/first-minute.svg
	@test -x $(CAST)/bin/termtosvg || { $(PYTHON) -m venv $(CAST) && $(CAST)/bin/pip install -q 'termtosvg>=1.1,<2' setuptools; }
	@mkdir -p build && $(BIN)/python -m infra.reference.first_minute build/first-minute.cast
	@$(CAST)/bin/termtosvg render build/first-minute.cast docs/pictures/first-minute.svg

release-compose: $(VENV)/.embedded ## the compose file of a release, which needs no clone, into build/release
	@mkdir -p build/release && cp infra/images/make-env.sh build/release/ && cp .env.example build/release/env.example
	@$(BIN)/python -m infra.reference.release_compose >build/release/compose.yaml && ls build/release/*

image: $(VENV)/.embedded ## build the agents' image (BASE_IMAGE=...)
	AGCLUSTER_BASE_IMAGE=$(BASE_IMAGE) $(BIN)/agcluster build-image

image-analyst: image ## build the image of the agent data-analyst, with pandas and matplotlib, on top of the agents'
	docker build -t agcluster-analyst:0.1.0 --build-arg AGENT_IMAGE=$(AGENT_IMAGE) \
	  -f infra/images/analyst.Dockerfile .

control-image: ## build the image of api, worker, gateway and engine proxy (BASE_IMAGE=...)
	docker build -t agcluster-control:0.1.0 --build-arg BASE_IMAGE=$(BASE_IMAGE) \
	  -f infra/images/control.Dockerfile .

lock: $(SUPPLY)/.made ## pin what the images install, with hashes (UPGRADE=1: the newest that fit)
	UPGRADE=$(UPGRADE) sh infra/images/lock.sh "$(abspath $(SUPPLY)/bin/python)" "$(abspath $(SUPPLY)/bin/uv)"

sbom: $(VENV)/.dev $(SUPPLY)/.made ## bills of materials (CycloneDX): the images and this environment, into build/sbom
	@mkdir -p build/sbom
	@for image in agent analyst control; do \
	  $(SUPPLY)/bin/cyclonedx-py requirements --validate --of JSON -o build/sbom/$$image.json \
	    infra/images/$$image.requirements.txt || exit 1; \
	done
	@$(SUPPLY)/bin/cyclonedx-py environment --validate --of JSON --pyproject pyproject.toml \
	  -o build/sbom/environment.json $(BIN)/python
	@ls build/sbom/*.json

audit: $(SUPPLY)/.made ## look for known holes in what the images install (needs the internet)
	@sh infra/images/audit.sh "$(SUPPLY)/bin/pip-audit"

licenses: $(VENV)/.dev $(SUPPLY)/.made ## renew docs/reference/licenses.md
	@$(SUPPLY)/bin/pip-licenses --python $(BIN)/python --from mixed --format json \
	  | $(BIN)/python -m infra.reference.licenses > build-licenses.md.new \
	  && mv build-licenses.md.new docs/reference/licenses.md || { rm -f build-licenses.md.new; exit 1; }

env: ## make a .env with fresh secrets for `docker compose up`
	@sh infra/images/make-env.sh .env

compose: ## the production-like deployment, in the foreground
	@test -f .env || sh infra/images/make-env.sh .env
	docker compose up --build $(ARGS)

rollout: ## bring a changed .env or new images to what `make compose` started, one service after the other
	@sh infra/images/rollout.sh

ops: ## a shell beside the composed deployment, with agcluster and redis-cli (docs/reference/operations.md)
	@docker compose run --rm ops

redis-cli: ## its Redis as the user who only looks (ARGS="HGETALL agc:conv:...")
	@docker compose exec redis sh /etc/agcluster/start-redis.sh cli $(ARGS)

compose-down: ## end it for good, agents included (ARGS=-v: forget what Redis knows, too)
	@sh infra/images/compose-down.sh $(ARGS)

bench: $(VENV)/.dev ## our overhead, side by side with the direct stream and LiteLLM
	$(BIN)/python -m tests.bench $(ARGS)

bench-burst: $(VENV)/.dev ## a hundred new conversations at once (ARGS="--size 12 --isolation bubblewrap")
	$(BIN)/python -m tests.bench.burst $(ARGS)

model: $(VENV)/.dev ## the cluster model under thousands of schedules, for a night (ARGS="--seeds 20000")
	$(BIN)/python -m tests.unit.cluster_model $(ARGS)

bench-fleet: $(VENV)/.dev ## what a thousand workers cost Redis while nobody asks (ARGS="--workers 10")
	$(BIN)/python -m tests.bench.fleet_cost $(ARGS)

soak: $(VENV)/.dev ## random faults in a cluster for half an hour, then walks and odd bytes (ARGS="--minutes 5 --agents light", FUZZ_MINUTES=5)
	$(BIN)/python -m tests.chaos.soak $(ARGS)
	$(BIN)/python -m tests.walks --minutes 10
	FUZZ_MINUTES=$(or $(FUZZ_MINUTES),10) $(BIN)/pytest -q -n0 --timeout 0 tests/fuzz

fuzz: $(VENV)/.dev ## odd bytes over every socket that somebody hostile can reach (EXAMPLES=20000, ARGS="-k model_socket")
	FUZZ_EXAMPLES=$(or $(EXAMPLES),20000) $(BIN)/pytest -n0 --timeout 0 tests/fuzz $(ARGS)

clean: ## remove the environment and everything that was made
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .import_linter_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One environment, two amounts of it: .dev includes all of .embedded.
$(VENV)/.embedded: $(VENV)/.made $(INPUTS)
	@echo "==> installing AgCluster into $(VENV) (a minute, the first time)"
	@$(call installed,-e $(SMALL))
	@touch $@

$(VENV)/.dev: $(VENV)/.made $(INPUTS)
	@echo "==> installing AgCluster with its tools into $(VENV) (a minute, the first time)"
	@$(call installed,-e $(EVERYTHING))
	@touch $(VENV)/.embedded $@

$(SUPPLY)/.made: $(VENV)/.made $(INPUTS)
	@$(BIN)/python -m venv $(SUPPLY)
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["supply"], sep="\n")' > $(SUPPLY)/wanted.txt
	@$(SUPPLY)/bin/python -m pip install -q --disable-pip-version-check -r $(SUPPLY)/wanted.txt
	@touch $@

$(CLIENTS)/.made: tests/clients/requirements.txt tests/clients/package.json $(VENV)/.dev
	@echo "==> installing the client libraries into $(CLIENTS) (minutes, the first time)"
	@$(BIN)/python -m venv $(CLIENTS)
	@$(CLIENTS)/bin/python -m pip install -q --disable-pip-version-check -r tests/clients/requirements.txt
	@$(BIN)/python -m tests.clients.install $(CLIENTS)
	@touch $@

$(WEBUI)/.made: tests/open_webui/requirements.txt $(VENV)/.made
	@echo "==> installing Open WebUI into $(WEBUI) (3 GB, minutes)"
	@$(BIN)/python -m venv $(WEBUI)
	@$(WEBUI)/bin/python -m pip install -q --disable-pip-version-check -r tests/open_webui/requirements.txt
	@touch $@

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "AgCluster needs Python 3.11 or newer as \`$(PYTHON)\`; found:" \
	    "$$($(PYTHON) --version 2>&1 || true). Another one: make PYTHON=python3.12 ..." >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "This Python cannot make virtual environments. On Debian and Ubuntu:" \
	    "apt install python3-venv" >&2; \
	  exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@
