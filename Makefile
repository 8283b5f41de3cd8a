# make demo and make test are all that a newcomer needs; `make help` lists the rest.

VENV := .venv
EXPORT_VENV := .venv-export
TWINS := out/twins
RUN := $(VENV)/bin
LINTED := client deploy ensemble_python examples export_scripts loadtests tests
WORKERS := 2
# Each of them runs whole files, so that a file's server is started once.
PARALLEL = -n $(WORKERS) --dist loadfile
STAMPED := pyproject.toml constraints.txt deploy/setup.sh

.DEFAULT_GOAL := help
.PHONY: help setup demo rollout-demo serve test lint format unit e2e test-export test-packs bench bench-cold bench-cold-twins twins bench-models image image-lint test-image clean

help: ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/.demo: $(STAMPED)
	sh deploy/setup.sh $(VENV) client,server
	@touch $@

$(VENV)/.dev: $(STAMPED)
	sh deploy/setup.sh $(VENV) client,server,loadtests,dev
	@touch $@ $(VENV)/.demo

$(EXPORT_VENV)/.export: $(STAMPED)
	sh deploy/setup.sh $(EXPORT_VENV) client,server,export,insightface,dev
	@touch $@

setup: $(VENV)/.dev ## make .venv with everything but the exporter

demo: $(VENV)/.demo ## swap two faces through a real Triton, over gRPC and HTTP
	$(RUN)/python examples/demo.py --output out

rollout-demo: $(VENV)/.dev ## roll out a good and a bad detector under traffic (one minute)
	$(RUN)/python examples/rollout_demo.py

serve: $(VENV)/.demo ## start a server on the default ports
	$(RUN)/warmswap serve

test: lint unit e2e ## all tests but those of the exporter

lint: $(VENV)/.dev ## format, style, types, who may import whom
	$(RUN)/ruff format --check $(LINTED)
	$(RUN)/ruff check $(LINTED)
	$(RUN)/mypy
	$(RUN)/lint-imports

format: $(VENV)/.dev ## put the code into shape
	$(RUN)/ruff check --fix $(LINTED)
	$(RUN)/ruff format $(LINTED)

unit: $(VENV)/.dev ## tests that start no server
	$(RUN)/pytest $(PARALLEL) -m "not triton and not export and not gpu and not manifests and not image"

e2e: $(VENV)/.dev ## tests on the real Triton
	$(RUN)/pytest $(PARALLEL) -m "triton and not export and not gpu and not manifests and not image"

test-export: $(EXPORT_VENV)/.export ## tests of the exporter, some on the real Triton (needs PyTorch and npm)
	$(EXPORT_VENV)/bin/pytest $(PARALLEL) tests/export -m "export and not large"

test-packs: $(EXPORT_VENV)/.export ## export, verify and serve a twin of every large pack (20 GB of disk, half an hour)
	$(EXPORT_VENV)/bin/pytest tests/export -m large

bench: $(VENV)/.dev ## the server against a plain loop in one process
	$(RUN)/warmswap bench overhead

bench-cold: $(VENV)/.dev ## fresh replicas under load: naive, preloading, Triton as documented, warmswap (10 minutes)
	$(RUN)/warmswap bench cold --page-cache both --out out/cold

bench-cold-twins: $(VENV)/.dev twins ## the same with models as large as the published ones
	$(RUN)/warmswap bench cold --pack twin --repository $(TWINS)/repository --out out/cold-twins

twins: $(TWINS)/.made ## models as large as the published ones, with random weights (needs PyTorch)

# Twins have the architecture, the file layout and the cost of the published models, and random weights of a seed.
$(TWINS)/.made: $(EXPORT_VENV)/.export
	$(EXPORT_VENV)/bin/warmswap export buffalo_l+inswapper_128 --random-weights 1 --out $(TWINS)/repository --keep-twin-files $(TWINS)/published
	$(EXPORT_VENV)/bin/warmswap export buffalo_l+inswapper_128 --random-weights 1 --out $(TWINS)/repository --stage face_embedder --stage face_swapper --precision fp16 --version 2
	$(EXPORT_VENV)/bin/warmswap export scrfd_2.5g --random-weights 1 --out $(TWINS)/small --keep-twin-files $(TWINS)/small-published
	@touch $@

$(VENV)/.insightface: $(VENV)/.dev
	sh deploy/setup.sh $(VENV) client,server,loadtests,insightface,dev
	@touch $@

bench-models: $(VENV)/.insightface $(TWINS)/.made ## batches, detection and pasting against insightface (needs PyTorch)
	$(RUN)/warmswap bench batching --repository $(TWINS)/repository
	$(RUN)/warmswap bench detect --repository $(TWINS)/repository --published $(TWINS)/published/det_10g.onnx
	$(RUN)/warmswap bench detect --repository $(TWINS)/small --published $(TWINS)/small-published/scrfd_2.5g.onnx
	$(RUN)/warmswap bench paste --out out/paste

MANIFEST_VENV := .venv-manifests
CHECKOV_VENV := .venv-checkov
.PHONY: manifests check-manifests checkov test-manifests

$(MANIFEST_VENV)/.made: deploy/kubernetes/requirements.txt
	python3 -m venv $(MANIFEST_VENV)
	$(MANIFEST_VENV)/bin/python -m pip install --quiet -r $<
	@touch $@

$(CHECKOV_VENV)/.made: deploy/kubernetes/requirements-checkov.txt
	python3 -m venv $(CHECKOV_VENV)
	$(CHECKOV_VENV)/bin/python -m pip install --quiet -r $<
	@touch $@

manifests: $(MANIFEST_VENV)/.made ## render the chart's profiles, validate them for Kubernetes 1.29 to the newest (needs npm)
	$(MANIFEST_VENV)/bin/python deploy/kubernetes/argo_schema.py
	$(MANIFEST_VENV)/bin/python deploy/kubernetes/manifests.py
	$(MAKE) checkov

check-manifests: $(MANIFEST_VENV)/.made ## the same, but fail if what is committed differs
	$(MANIFEST_VENV)/bin/python deploy/kubernetes/argo_schema.py --check
	$(MANIFEST_VENV)/bin/python deploy/kubernetes/manifests.py --check
	$(MAKE) checkov

# One run for each folder: given two, checkov 3.3 reads the first twice.
checkov: $(CHECKOV_VENV)/.made
	$(CHECKOV_VENV)/bin/checkov --config-file deploy/kubernetes/checkov.yaml -d deploy/kubernetes/rendered
	$(CHECKOV_VENV)/bin/checkov --config-file deploy/kubernetes/checkov.yaml -d deploy/kubernetes/rollouts

test-manifests: $(VENV)/.dev $(MANIFEST_VENV)/.made ## Helm with wrong values, with everything on, twice in a namespace
	$(MANIFEST_VENV)/bin/python -c "import sys; sys.path.insert(0, 'deploy/kubernetes'); import manifests; manifests.unpack_tools()"
	$(MANIFEST_VENV)/bin/python deploy/kubernetes/argo_schema.py --check
	$(RUN)/pytest tests/deploy -m manifests

image: $(VENV)/.dev ## build the CPU images, run one, print its size by layer (root on Debian; no container engine needed)
	$(RUN)/python -m images

image-lint: $(VENV)/.dev ## hadolint over the Dockerfiles
	$(RUN)/python -m images --lint

test-image: $(VENV)/.dev ## tests that build and run images (root on Debian)
	$(RUN)/pytest -m image

clean: ## remove what make made
	! mountpoint --quiet out/image/storage/overlay || umount --recursive out/image/storage/overlay
	rm -rf $(VENV) $(EXPORT_VENV) $(MANIFEST_VENV) $(CHECKOV_VENV) out .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
