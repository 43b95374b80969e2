#!/usr/bin/env bash
# Installs what the build and the tests need on a Debian host, and nothing when all of it is there.
# Runs apt-get as root, through sudo for others. Without a network it works as long as nothing is missing.
set -euo pipefail

# One line per need: the package, how to see that it is there, what it is for.
needs() {
  cat <<'LIST'
gcc|command -v cc|linker of the Rust build
pkg-config|command -v pkg-config|finds ISA-L
libisal-dev|pkg-config --exists libisal|erasure code and CRC (build)
fio|command -v fio|verified load and bench client (tests, bench)
qemu-utils|command -v qemu-io && command -v qemu-img|pattern reads and writes (tests)
nbdkit|command -v nbdkit|peer of the NBD export (bench)
libnbd-bin|command -v nbdinfo && command -v nbdcopy|NBD clients (tests)
python3-libnbd|command -v nbdsh|scripted NBD client (tests)
etcd-server|command -v etcd|several-host store of control (tests); its own service is not wanted
valgrind|command -v valgrind|instruction counts (bench)
LIST
}

missing=()
while IFS='|' read -r package probe purpose; do
  if ! sh -c "$probe" >/dev/null 2>&1; then
    echo "deps: $package is missing: $purpose"
    missing+=("$package")
  fi
done < <(needs)

if ! command -v cargo >/dev/null 2>&1; then
  echo "deps: no Rust toolchain (cargo) in PATH; install one from https://rustup.rs and come back" >&2
  exit 1
fi
if [ ${#missing[@]} -eq 0 ]; then
  echo "deps: all there"
  exit 0
fi
if ! command -v apt-get >/dev/null 2>&1; then
  echo "deps: this host has no apt-get; install by hand what gives: ${missing[*]}" >&2
  exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null 2>&1; then
    echo "deps: neither root nor sudo; as root run: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
echo "deps: apt-get update, then apt-get install --no-install-recommends ${missing[*]}"
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -q
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
case " ${missing[*]} " in
  *" etcd-server "*)
    # Tests start members of their own; the package's service would listen for nobody.
    if command -v systemctl >/dev/null 2>&1; then
      "${as_root[@]}" systemctl disable --now etcd >/dev/null 2>&1 || echo "deps: the etcd service was not running"
    fi
    ;;
esac
echo "deps: installed ${missing[*]}"
