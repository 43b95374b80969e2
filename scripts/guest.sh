#!/usr/bin/env bash
# Kernel-bypass tests on emulated hardware: boots a virtual machine that has an IOMMU and NVMe controllers, and
# runs tests/guest in it. Nothing of this host's hardware is touched.
#
#   ONLY=text     runs only the tests whose names contain the text
#   REPEAT=n      runs each of them n times
#   ACCEL=kvm     other than the default, tcg,thread=single, which needs nothing of the host
#   LIMIT=seconds after which the machine is ended (default 1800)
#
# Where QEMU or the kernel cannot be had it is skipped, aloud. Passes only when every test that the test program
# lists was reported as passed by the machine.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-$PWD/target}
work=$target/guest
log=$work/console.log
mkdir -p "$work"

say() { echo "guest: $*"; }
die() { echo "guest: $*" >&2; exit 1; }

code=0
scripts/guest/fetch.sh "$work" || code=$?
if [ "$code" -eq 77 ]; then
  say "SKIPPED: this host cannot have what the machine needs; the reason stands above"
  exit 0
fi
[ "$code" -eq 0 ] || exit "$code"

say "building the binary and the tests that run in the machine"
cargo build --release -p palisade-node
cargo test --release --no-run -p palisade-guest --test nvme 2> >(tee "$work/build.log" >&2)
tests=$(sed -n 's/^ *Executable .*tests\/nvme\/main\.rs (\(.*\))$/\1/p' "$work/build.log" | tail -1)
[ -n "$tests" ] && [ -x "$tests" ] || die "cargo did not say where the tests are; see $work/build.log"

# What has to pass, from the program itself.
"$tests" --list --ignored --format terse | sed -n 's/: test$//p' | grep -F -- "${ONLY:-}" >"$work/expected" || true
[ -s "$work/expected" ] || die "no test has '${ONLY:-}' in its name"

scripts/guest/image.sh "$work" "$target/release/palisade" "$tests"

# The disks: contents of an earlier run must not make a test pass.
disk() { rm -f "$work/$1"; truncate -s "$2" "$work/$1"; }
disk plain.img 256M
disk wide.img 128M
disk bad.img 16M
printf '[inject-error]\nevent = "read_aio"\nerrno = "5"\nsector = "5000"\n' >"$work/bad.conf"
disk twin-a.img 16M
disk twin-b.img 16M
# A rack: the logs of three heads, six sleds.
rack=()
slots=(0a 0b 0c 10 11 12 13 14 15)
for slot in "${slots[@]}"; do
  disk "rack-$slot.img" 128M
  rack+=(-drive "file=$work/rack-$slot.img,if=none,id=rack-$slot,format=raw,cache=unsafe"
    -device "nvme,drive=rack-$slot,serial=palisade-rack-$slot,addr=$slot.0")
done

# The places of the functions are those of tests/guest/src/lib.rs. The third slot has two controllers that the IOMMU
# cannot tell apart.
# One thread for both processors: with a thread each, QEMU (10.0) ends in an assertion (iotlb_to_section) when one of
# them maps a function's registers while the other one uses registers, and loses timer interrupts under load.
machine=(
  -machine q35,kernel-irqchip=split -accel "${ACCEL:-tcg,thread=single}" -cpu max -smp 2 -m 2048
  -nodefaults -no-user-config -no-reboot -display none -serial stdio -monitor none
  -device intel-iommu,intremap=on,caching-mode=on
  -drive "file=$work/plain.img,if=none,id=plain,format=raw,cache=unsafe"
  -device nvme,drive=plain,serial=palisade-plain,addr=05.0
  -drive "file=$work/wide.img,if=none,id=wide,format=raw,cache=unsafe"
  -device nvme,serial=palisade-wide,mdts=4,id=wide-controller,addr=06.0
  -device nvme-ns,drive=wide,bus=wide-controller,nsid=1,logical_block_size=4096,physical_block_size=4096
  -drive "file=$work/twin-a.img,if=none,id=twin-a,format=raw,cache=unsafe"
  -device nvme,drive=twin-a,serial=palisade-twin-a,addr=07.0,multifunction=on
  -drive "file=$work/twin-b.img,if=none,id=twin-b,format=raw,cache=unsafe"
  -device nvme,drive=twin-b,serial=palisade-twin-b,addr=07.1
  -drive "driver=raw,if=none,id=bad,file.driver=blkdebug,file.config=$work/bad.conf,file.image.driver=file,file.image.filename=$work/bad.img"
  -device nvme,drive=bad,serial=palisade-bad,addr=08.0
  -drive driver=null-co,if=none,id=slow,size=16M,read-zeroes=on,latency-ns=1500000000
  -device nvme,drive=slow,serial=palisade-slow,addr=09.0
  "${rack[@]}"
  -kernel "$work/kernel/vmlinuz" -initrd "$work/initramfs"
  -append "console=ttyS0 intel_iommu=on iommu=strict loglevel=3 panic=-1 repeat=${REPEAT:-1}"
)
say "booting; the console goes to $log, what QEMU says to $work/qemu.log"
began=$SECONDS
set +e
timeout --kill-after=10 "${LIMIT:-1800}" qemu-system-x86_64 "${machine[@]}" </dev/null 2>"$work/qemu.log" | tee "$log" |
  grep --line-buffered '^guest: '
code=${PIPESTATUS[0]}
set -e
[ "$code" -ne 124 ] || say "the machine did not end by itself within ${LIMIT:-1800} s"

# Without a pipe: one whose reader has seen enough counts as failed.
tr -d '\r' <"$log" >"$work/said"
failed=0
while read -r test; do
  if ! grep -qxF "guest: ok $test" "$work/said"; then
    say "NOT PASSED: $test"
    failed=$((failed + 1))
  fi
done <"$work/expected"
count=$(wc -l <"$work/expected")
if [ "$failed" -ne 0 ] || [ "$code" -ne 0 ] || ! grep -qxF 'guest: done' "$work/said"; then
  die "FAILED: $failed of $count tests not passed, the machine ended with $code, after $((SECONDS - began)) s; see $log"
fi
say "PASSED: $count tests in $((SECONDS - began)) s"
