# The index of commands. `make run` first.

CARGO ?= cargo
# The local product needs no cloud SDK; `make FEATURES= run` builds with everything.
FEATURES ?= --no-default-features
LISTEN ?= 127.0.0.1:8000

# Where built programs lie. `sudo make install` needs no cargo.
TARGET_DIR ?= $(or $(CARGO_TARGET_DIR),target)
PROGRAMS ?= $(TARGET_DIR)/release
CACHE = $(or $(XDG_CACHE_HOME),$(or $(shell getent passwd "$(SUDO_USER)" | cut -d: -f6),$(HOME))/.cache)/eirs
PREFIX ?= /usr
CARGO_DEB_VERSION = 3.8.0
CARGO_DEB = $(CACHE)/cargo-deb-$(CARGO_DEB_VERSION)/bin/cargo-deb

.DEFAULT_GOAL := help
.PHONY: help run build onnxruntime install uninstall package package-built cargo-deb test lint soak fuzz bench bench-aws model-figures clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

run: build onnxruntime ## build and serve on http://127.0.0.1:8000 (LISTEN=ADDRESS for another)
	@target_dir=$$($(CARGO) metadata --no-deps --format-version 1 | sed -E 's/.*"target_directory":"([^"]*)".*/\1/'); \
	exec "$$target_dir/release/eirs" local --listen $(LISTEN)

build: ## build the release binaries
	$(CARGO) build --release --workspace --locked $(FEATURES)

onnxruntime: ## fetch the ONNX Runtime library, where Python is there
	@sh worker/fetch-onnxruntime.sh

install: ## install what was built, with its units (DESTDIR=, PREFIX=/usr); edited settings stay
	@DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" PROGRAMS="$(PROGRAMS)" ONNXRUNTIME="$(CACHE)/onnxruntime" sh systemd/install.sh install

uninstall: ## remove it; edited settings and the state folder stay
	@DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" sh systemd/install.sh uninstall

package: build onnxruntime package-built ## build and make a Debian package (DEB_VERSION=, DEB_OUT=)

package-built: cargo-deb
	@rm -rf target/package
	@$(MAKE) --no-print-directory install DESTDIR=target/package PREFIX=/usr
	@$(CARGO_DEB) --package eirs --quiet --no-build --no-strip --no-dbgsym $(DEB_FLAGS) \
	    $(if $(DEB_VERSION),--deb-version "$(DEB_VERSION)") --output "$(or $(DEB_OUT),target/debian/)"

# About a minute, once.
cargo-deb:
	@test -x $(CARGO_DEB) || CARGO_TARGET_DIR=$(CACHE)/cargo-deb-build \
	    $(CARGO) install cargo-deb --quiet --locked --version $(CARGO_DEB_VERSION) --root $(CACHE)/cargo-deb-$(CARGO_DEB_VERSION)
	@rm -rf $(CACHE)/cargo-deb-build

test: onnxruntime ## run every test
	sh .ci/test.sh

lint: ## formatting, lints, unused dependencies, spelling, licences
	$(CARGO) fmt --all --check
	@testing/lint/run
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) clippy --workspace --all-targets --locked --no-default-features -- -D warnings

# Bounded in time: `timeout` ends it, and so does any wait of its own that is in vain.
soak: ## kill everything every few seconds for 50,000 uploads at full speed: nothing is lost
	$(CARGO) build --release --workspace --locked $(FEATURES)
	timeout 1800 $(CARGO) test --release -p eirs --locked $(FEATURES) --test service kills::fifty_thousand -- --include-ignored --nocapture

# Needs cargo-fuzz (`cargo install --locked cargo-fuzz`). The sanitizer of addresses needs a nightly compiler, and this code has next to no `unsafe`.
fuzz: ## drive a parser with random input: make fuzz TARGET=form SECONDS=60 (targets: see fuzz/README.md)
	cp Cargo.lock fuzz/Cargo.lock
	cd fuzz && $(CARGO) fuzz run --sanitizer none $(TARGET) -- -max_total_time=$(or $(SECONDS),60) -timeout=10 -rss_limit_mb=2048

bench: build onnxruntime ## measure this machine (MODEL=, LABELS=, IMAGES= for other data; ONLY=bare,noop,... for a part)
	@target_dir=$$($(CARGO) metadata --no-deps --format-version 1 | sed -E 's/.*"target_directory":"([^"]*)".*/\1/'); \
	exec "$$target_dir/release/eirs" bench $(if $(MODEL),--model-file "$(MODEL)") $(if $(LABELS),--labels "$(LABELS)") \
	    $(if $(IMAGES),--image-folder "$(IMAGES)") $(if $(ONLY),--only "$(ONLY)") --out "$$target_dir/bench"

# Counts, so that no release build is needed.
bench-aws: ## count what a load, a burst and an idle minute ask of AWS, and set up with late descriptions, at the emulator (`make test` first)
	$(CARGO) build --workspace --locked
	$(CARGO) test --workspace --locked --test aws -- figures:: half_a_minute --include-ignored --nocapture --test-threads=1

model-figures: ## reproduce the figures of the built-in model
	cd models/shapes && python3 -m venv "$${XDG_CACHE_HOME:-$$HOME/.cache}/eirs/shapes-python" \
	    && . "$${XDG_CACHE_HOME:-$$HOME/.cache}/eirs/shapes-python/bin/activate" \
	    && pip install --quiet -r requirements.txt && python evaluate.py

clean: ## remove what was built
	$(CARGO) clean
