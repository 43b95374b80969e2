#!/usr/bin/env bash
# Makes the machine's initramfs: busybox, the kernel modules it needs, the binary and the tests with the shared
# libraries that they were linked to.
#   image.sh WORK PALISADE TESTS
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$1 palisade=$2 tests=$3
tree=$work/tree
busybox=$work/busybox/bin/busybox

rm -rf "$tree"
mkdir -p "$tree"/{bin,proc,sys,dev,tmp,lib/modules}
cp "$busybox" "$tree/bin/busybox"
cp "$here/init" "$tree/init"
cp "$work/expected" "$tree/expected"
install -m 755 "$palisade" "$tree/bin/palisade"
install -m 755 "$tests" "$tree/bin/guest-tests"
# Line tables are a hundred times larger than what runs, and the machine unpacks everything into its memory.
strip --strip-debug "$tree/bin/palisade" "$tree/bin/guest-tests"

# Shared libraries at the places where the loader finds them here.
ldd "$palisade" "$tests" | sed -n 's/.* => \(\/[^ ]*\) (.*/\1/p; s/^\s*\(\/[^ ]*ld-linux[^ ]*\) (.*/\1/p' | sort -u |
  while read -r library; do
    mkdir -p "$tree$(dirname "$library")"
    cp -L "$library" "$tree$library"
  done

# Modules, with those that they depend on, in the order in which they are loaded.
modules=$(find "$work/kernel" -type d -path '*/lib/modules/*' -prune | head -1)
load() {
  local name=$1 line path
  line=$(grep -E "(^|/)$name\.ko[^/]*:" "$modules/modules.dep" | head -1) || {
    echo "guest: the kernel has no module $name; taken as built in"
    return 0
  }
  # Dependencies stand behind their user, the innermost last.
  for path in $(tr ' ' '\n' <<<"${line/:/}" | tac); do
    local to=$tree/lib/modules/${path##*/}
    to=${to%.xz}
    to=${to%.zst}
    [ ! -e "$to" ] || continue
    case $path in
      *.xz) "$busybox" xzcat "$modules/$path" >"$to" ;;
      *.zst) zstd -q -d "$modules/$path" -o "$to" ;;
      *) cp "$modules/$path" "$to" ;;
    esac
    echo "${to##*/}" >>"$tree/lib/modules/order"
  done
}
: >"$tree/lib/modules/order"
# Some ask for an algorithm by name, which modules.dep does not know: crc64-rocksoft, ext4.
for module in crc64_rocksoft_generic crct10dif_generic crc32c_generic nvme ext4 vfio_iommu_type1 vfio-pci; do load "$module"; done

(cd "$tree" && find . | "$busybox" cpio -o -H newc 2>/dev/null) >"$work/initramfs"
