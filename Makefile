# Every target installs what it needs on a machine that has a Rust toolchain, make and apt. PG_CONFIG chooses the
# PostgreSQL; without it, scripts/pg-config does.

SHELL := /bin/bash

# Looked up anew for each target: there may be none until `setup` has run.
PG_CONFIG ?= $(shell scripts/pg-config)
export PG_CONFIG
CARGO_TARGET_DIR ?= target
export CARGO_TARGET_DIR
export PGRX_HOME := $(abspath $(CARGO_TARGET_DIR))/pgrx

MAJOR = $(shell $(PG_CONFIG) --version | sed 's/^PostgreSQL \([0-9]*\).*/\1/')
FEATURES = --no-default-features --features pg$(MAJOR)

VERSION := $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' Cargo.toml)
# The install script is these, one after the other. src/lib.rs has the list, for cargo-pgrx.
SQL := $(shell sed -n 's|^pgrx::extension_sql_file!.*"../\(sql/[^"]*\)".*|\1|p' src/lib.rs)
UPGRADES := $(wildcard sql/temptoken--*--*.sql)
BUILT = $(CARGO_TARGET_DIR)/release

LIBRARIES = $(shell $(PG_CONFIG) --pkglibdir)
EXTENSIONS = $(shell $(PG_CONFIG) --sharedir)/extension
SUDO = $(shell [ "$$(id -u)" = 0 ] || { [ -w $(LIBRARIES) ] && [ -w $(EXTENSIONS) ]; } || echo sudo)

# Most tests wait for a server most of the time. Each has one of its own.
export RUST_TEST_THREADS ?= $(shell threads=$$((3 * $$(nproc))); echo $$((threads < 24 ? threads : 24)))

.PHONY: help
help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "  make %-13s %s\n", $$1, $$2 }'

.PHONY: setup
setup: ## Install what building needs: PostgreSQL, its headers, libclang
	@scripts/setup

.PHONY: build
build: setup ## Build the extension for the PostgreSQL of PG_CONFIG
	@echo "Building for PostgreSQL $(MAJOR): the first time two minutes on two cores, then seconds"
	cargo build --release --lib $(FEATURES)
	@cat $(SQL) >$(BUILT)/temptoken--$(VERSION).sql
	@sed 's/@CARGO_VERSION@/$(VERSION)/' temptoken.control >$(BUILT)/temptoken.control

.PHONY: install
install: build ## Build the extension and install it into the PostgreSQL of PG_CONFIG
	$(SUDO) install -m 755 $(BUILT)/libtemptoken.so $(LIBRARIES)/temptoken.so
	$(SUDO) install -m 644 $(BUILT)/temptoken.control $(BUILT)/temptoken--$(VERSION).sql $(UPGRADES) $(EXTENSIONS)

.PHONY: demo
demo: install ## Play the main job on a throwaway cluster: SQL, then the answer
	@scripts/demo

.PHONY: psql
psql: install ## Open a prompt on the demo's cluster, with the extension loaded
	@scripts/cluster start
	@scripts/cluster psql -q -c 'CREATE EXTENSION IF NOT EXISTS temptoken'; scripts/cluster psql; scripts/cluster stop

.PHONY: test
test: lint install ## Run every check and test
	@scripts/setup --test
	@scripts/test $(FEATURES) --no-fail-fast

.PHONY: test-sql
test-sql: install ## Run the regression files, or one of them: FILE=mint
	TEMPTOKEN_SQL_FILE=$(FILE) cargo test $(FEATURES) --test sql regression_files -- --exact

.PHONY: example
example: install ## Run the example application, to be clicked: PORT=8080
	@scripts/setup --example
	@scripts/example

.PHONY: test-examples
test-examples: install test-package ## Test the example in a browser, middleware, code of how-to pages, packages, monitoring
	@scripts/setup --test-examples
	@scripts/test-examples

.PHONY: package
package: build ## Write a Debian package, a tarball, and the zip for PGXN into target/package
	@scripts/setup --package
	@scripts/package

.PHONY: test-package
test-package: package ## Install the Debian package on a Debian without a compiler, and run the regression files there
	@scripts/setup --test-package
	@scripts/test-package

.PHONY: test-all
test-all: ## Run lint and suite on every major that is installed, or on those of PG_CONFIGS="..."
	@scripts/test-all $(PG_CONFIGS)

.PHONY: soak
soak: install ## Run each test of the soak for TEMPTOKEN_SOAK seconds (600 unless told), and the races for longer
	TEMPTOKEN_SOAK=$${TEMPTOKEN_SOAK:-600} cargo test $(FEATURES) --test soak -- --nocapture --test-threads=1
	TEMPTOKEN_ROUNDS=1000 cargo test $(FEATURES) --test server uses::

TOKENS ?= 1000000

.PHONY: bench
bench: install ## Measure ratios to what else would do the job, side by side (TOKENS=1000000)
	@scripts/setup --bench
	cargo bench --bench ratios $(FEATURES) -- $(TOKENS)

.PHONY: bench-scale
bench-scale: install ## Measure what standbys cost, and Citus where PostgreSQL has it
	cargo bench --bench scale $(FEATURES)

.PHONY: lint
lint: setup ## Check format, clippy, and the install script with pgspot
	@scripts/setup --lint
	cargo fmt --check
	cargo clippy --all-targets $(FEATURES) -- -D warnings
	@# pgspot reads bodies as strings only.
	cat $(SQL) | sed 's/^BEGIN ATOMIC$$/AS $$$$/; s/^END;$$/$$$$;/' | target/pgspot/bin/pgspot
	@! grep -rn pg_sys src | grep -vE '^src/(pg/|sweep/|counters\.rs|settings\.rs)' || \
		{ echo "lint: these rooms reach the server through src/pg alone" >&2; false; }

.PHONY: clean
clean: ## Remove the demo's cluster and everything that was built
	@if [ -x "$(PG_CONFIG)" ]; then scripts/cluster destroy; fi
	cargo clean
