# The index of commands. `make run` first.

CARGO ?= cargo
# The local product needs no cloud SDK; `make FEATURES= run` builds with everything.
FEATURES ?= --no-default-features
LISTEN ?= 127.0.0.1:8000

.DEFAULT_GOAL := help
.PHONY: help run build onnxruntime test lint bench model-figures clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

run: build onnxruntime ## build and serve on http://127.0.0.1:8000 (LISTEN=ADDRESS for another)
	@target_dir=$$($(CARGO) metadata --no-deps --format-version 1 | sed -E 's/.*"target_directory":"([^"]*)".*/\1/'); \
	exec "$$target_dir/release/eirs" local --listen $(LISTEN)

build: ## build the release binaries
	$(CARGO) build --release --workspace --locked $(FEATURES)

onnxruntime: ## fetch the ONNX Runtime library, where Python is there
	@sh worker/fetch-onnxruntime.sh

test: onnxruntime ## run every test
	sh .ci/test.sh

lint: ## formatting and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

bench: build onnxruntime ## measure this machine (MODEL=, LABELS=, IMAGES= for other data; ONLY=bare,noop,... for a part)
	@target_dir=$$($(CARGO) metadata --no-deps --format-version 1 | sed -E 's/.*"target_directory":"([^"]*)".*/\1/'); \
	exec "$$target_dir/release/eirs" bench $(if $(MODEL),--model-file "$(MODEL)") $(if $(LABELS),--labels "$(LABELS)") \
	    $(if $(IMAGES),--image-folder "$(IMAGES)") $(if $(ONLY),--only "$(ONLY)") --out "$$target_dir/bench"

model-figures: ## reproduce the figures of the built-in model
	cd models/shapes && python3 -m venv "$${XDG_CACHE_HOME:-$$HOME/.cache}/eirs/shapes-python" \
	    && . "$${XDG_CACHE_HOME:-$$HOME/.cache}/eirs/shapes-python/bin/activate" \
	    && pip install --quiet -r requirements.txt && python evaluate.py

clean: ## remove what was built
	$(CARGO) clean
