# Every target installs what it needs on a machine that has a Rust toolchain, make and apt; PG_CONFIG chooses another
# PostgreSQL than the distribution's 15.

PG_CONFIG ?= /usr/lib/postgresql/15/bin/pg_config
export PG_CONFIG
export PGRX_HOME := $(CURDIR)/target/pgrx

# Known only once `setup` has run.
MAJOR = $(shell $(PG_CONFIG) --version | sed 's/^PostgreSQL \([0-9]*\).*/\1/')
FEATURES = --no-default-features --features pg$(MAJOR)
SUDO = $(shell [ -w "$$($(PG_CONFIG) --pkglibdir)" ] && [ -w "$$($(PG_CONFIG) --sharedir)/extension" ] || echo --sudo)

.PHONY: help
help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "  make %-10s %s\n", $$1, $$2 }'

.PHONY: setup
setup: ## Install what building needs: PostgreSQL, its headers, libclang, cargo-pgrx
	@scripts/setup

.PHONY: install
install: setup ## Build the extension and install it into the PostgreSQL of PG_CONFIG
	cargo pgrx install --release --pg-config $(PG_CONFIG) $(FEATURES) $(SUDO)

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
	cargo test $(FEATURES) --no-fail-fast

.PHONY: soak
soak: install ## Run each test of the soak for TEMPTOKEN_SOAK seconds (600 unless told)
	TEMPTOKEN_SOAK=$${TEMPTOKEN_SOAK:-600} cargo test $(FEATURES) --test soak -- --nocapture --test-threads=1

TOKENS ?= 1000000

.PHONY: bench
bench: install ## Measure ratios to what else would do the job, side by side (TOKENS=1000000)
	@scripts/setup --bench
	cargo bench --bench ratios $(FEATURES) -- $(TOKENS)

.PHONY: lint
lint: setup ## Check format, clippy, and the install script with pgspot
	@scripts/setup --lint
	cargo fmt --check
	cargo clippy --all-targets $(FEATURES) -- -D warnings
	cat sql/tables.sql sql/functions.sql sql/stats.sql sql/sweep.sql sql/roles.sql sql/privileges.sql | target/pgspot/bin/pgspot

.PHONY: clean
clean: ## Remove the demo's cluster and everything that was built
	@if [ -x "$(PG_CONFIG)" ]; then scripts/cluster destroy; fi
	cargo clean

SHELL := /bin/bash
