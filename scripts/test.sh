#!/usr/bin/env bash
# Everything that must pass, in the order in which a failure is cheapest, with one summary at the end.
# Every step runs even when one before it failed, so that one run shows all that is wrong.
set -uo pipefail
cd "$(dirname "$0")/.."

start=$SECONDS
lines=()
failed=0

step() {
  local name=$1 began=$SECONDS verdict=ok
  shift
  echo "== $name: $*"
  if ! "$@"; then
    verdict=FAILED
    failed=$((failed + 1))
  fi
  lines+=("$(printf '%-8s %-8s %4d s' "$name" "$verdict" $((SECONDS - began)))")
}

step format cargo fmt --all --check
step lint cargo clippy --workspace --all-targets -- -D warnings
# The end-to-end tests try the binary that ships: what a compiler does to a release build, no other build shows.
step binary cargo build --release -p palisade-node
export PALISADE_BIN="${PALISADE_BIN:-${CARGO_TARGET_DIR:-$PWD/target}/release/palisade}"
if command -v cargo-nextest >/dev/null 2>&1; then
  step tests cargo nextest run --workspace --no-fail-fast
else
  step tests cargo test --workspace --no-fail-fast
fi
# The machines once more as they ship: optimisers have bugs too (dataplane/protocol/src/log/segments.rs).
step shipped cargo test -q --profile shipped -p palisade-protocol --no-fail-fast
step docs cargo test --workspace --doc -q

echo
echo "make test: summary"
printf '  %s\n' "${lines[@]}"
if [ "$failed" -ne 0 ]; then
  echo "make test: FAILED ($failed of ${#lines[@]} steps) in $((SECONDS - start)) s"
  exit 1
fi
echo "make test: PASSED in $((SECONDS - start)) s"
