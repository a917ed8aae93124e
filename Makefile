# Everything a person runs. Each target makes what it needs; all downloads and builds go to one cache (SPECOP_CACHE).

PYTHON ?= python3
# The project's environment, made on first use, with the project itself importable.
IN_ENV := env="$$($(PYTHON) -m local env)" && PYTHONPATH=src:. PATH="$$env/venv/bin:$$PATH"

.PHONY: help check test demo demo-down local-up local-down crds lock clean
.PHONY: bench-operator bench-train bench-scaling bench-data bench-families bench-agreement bench-quality

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

check: ## style, types, layers, generated files: under a minute
	@$(IN_ENV) sh -ec 'ruff check .; ruff format --check .; mypy; lint-imports; python -m specop.api.crdgen --check'

test: ## all tests; build/test/times.json says how long they took
	@$(PYTHON) -m tests.run

demo: ## the whole loop on this machine, with a real model (root)
	@$(PYTHON) -m demo

demo-down: ## take the demo away
	@$(PYTHON) -m demo down

local-up: ## a small real Kubernetes with a node, and object storage (root)
	@$(PYTHON) -m local up --detach

local-down: ## take it away
	@$(PYTHON) -m local down

bench-operator: ## the operator at 100 and 1000 endpoints: build/bench/operator.json
	@$(IN_ENV) python -m benchmarks.operator

bench-train: ## the trainer beside its best open peer: build/bench/train.json (ARGS=--quick: some minutes)
	@$(IN_ENV) python -m benchmarks.train $(ARGS)

bench-scaling: ## memory against vocabulary, draft steps and length, speed of two processes (ARGS=--quick: some minutes)
	@$(IN_ENV) python -m benchmarks.scaling $(ARGS)

bench-data: ## datasets beside Hugging Face datasets: build/bench/data.json (ARGS=--quick: some minutes)
	@$(IN_ENV) python -m benchmarks.data $(ARGS)

bench-quality: ## drafters for equal time and tokens, and of our own kinds, in about two hours: build/bench/quality.json
	@$(IN_ENV) python -m benchmarks.quality $(ARGS)

bench-families: ## trainer and engine on tiny targets of every proven family: build/bench/families.json
	@$(IN_ENV) python -m tests.trainer.families build/bench/families.json

bench-agreement: ## exported drafters read by speculators: build/bench/agreement.json
	@$(IN_ENV) python -m benchmarks.agreement

crds: ## generate CRDs and the field reference from the models
	@$(IN_ENV) python -m specop.api.crdgen --write

lock: ## resolve requirements anew into requirements/*.lock
	@$(PYTHON) -m local lock

clean: ## remove what was built here; the cache stays
	rm -rf build
