# Palisade: up · test · bench · sim · guest · lint. Every target says what it does; all logic that is
# longer than a few lines lives in scripts/.
.PHONY: help up test bench faults sim guest lint deps tidy

CONFIG ?= configs/one-box.toml

help:
	@echo "make up      install what is missing, build, start the rack of $(CONFIG)"
	@echo "make test    format, lints, every test (one summary at the end)"
	@echo "make bench   figures and ratios against the peers, in one run"
	@echo "make faults  real processes hurt in every way under verified load; writes perf/FAULTS.md and perf/faults/"
	@echo "make sim     SECONDS=n: fresh simulator seeds for that time;  SEED=n [MOVING=1|DENSE=1|LONE=1|REPLACED=1]: replay one"
	@echo "make lint    format check, clippy and the house rules only"
	@echo "make guest   the user-space NVMe driver on PCI functions, in a virtual machine that it boots;  ONLY=text: some tests"

deps:
	@scripts/deps.sh

up: deps
	cargo build --release
	@echo "up: starting $(CONFIG); Ctrl-C stops it cleanly"
	@exec target/release/palisade up $(CONFIG)

test: deps
	@scripts/test.sh

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo test -q -p palisade-tidy

tidy:
	cargo test -q -p palisade-tidy

bench: deps
	cargo build --release
	@target/release/palisade perf bench $(BENCH)

faults: deps
	cargo build --release -p palisade-node
	@target/release/palisade perf faults --kills 50 --others 5 --stops 1,5,60 --out perf $(FAULTS)

sim:
	@if [ -n "$(SEED)" ]; then \
		cargo run --release -q -p palisade-sim --example sim -- --seed $(SEED) $(if $(MOVING),--moving)$(if $(DENSE),--dense)$(if $(LONE),--lone)$(if $(REPLACED),--replaced)$(if $(TRACE), --trace); \
	else \
		cargo run --release -q -p palisade-sim --example sim -- --seconds $(or $(SECONDS),60); \
	fi

guest: deps
	@scripts/guest.sh
