#!/usr/bin/env bash
# What `make guest` needs beside the build: QEMU from the host's packages, and, unpacked below the directory that is
# given and not installed, a kernel with its modules and a static busybox. Does nothing when all of it is there.
set -euo pipefail
work=$1

say() { echo "guest: $*"; }
# What this host cannot have is no failure of what would be tested.
die() { echo "guest: $*" >&2; exit 77; }

as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
root() {
  if [ ${#as_root[@]} -gt 0 ] && ! command -v sudo >/dev/null 2>&1; then
    die "neither root nor sudo; as root run: $*"
  fi
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive "$@"
}

updated=
update() {
  [ -z "$updated" ] || return 0
  say "apt-get update"
  root apt-get update -q
  updated=1
}

# Debian's QEMU for this release; where the host's qemu-utils come from backports, QEMU must, too.
install_qemu() {
  command -v apt-get >/dev/null 2>&1 || die "this host has no apt-get; install qemu-system-x86_64 by hand"
  (update) || die "QEMU is not here, and package lists cannot be had"
  updated=1
  local from=()
  if ! apt-get install -s --no-install-recommends --no-remove qemu-system-x86 >/dev/null 2>&1; then
    # shellcheck source=/dev/null
    local codename; codename=$(. /etc/os-release && echo "${VERSION_CODENAME:?}")
    from=(-t "$codename-backports")
    if ! apt-cache policy | grep -q "$codename-backports"; then
      local list=/etc/apt/sources.list.d/palisade-backports.list
      say "QEMU of $codename does not fit the packages of this host; adding $list"
      echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $codename-backports main" |
        root tee "$list" >/dev/null
      updated=
      update
    fi
  fi
  say "apt-get install --no-install-recommends ${from[*]} qemu-system-x86"
  root apt-get install -q -y --no-install-recommends --no-remove "${from[@]}" qemu-system-x86 ||
    die "QEMU cannot be installed"
}

# Downloads a package and unpacks it; the second argument is where to.
unpack() {
  local package=$1 to=$2
  apt-cache show "$package" >/dev/null 2>&1 || (update) || die "package lists cannot be had"
  say "downloading $package"
  rm -rf "$to.new" && mkdir -p "$to.new/deb"
  (cd "$to.new/deb" && apt-get download -q "$package" 2>/dev/null) || die "$package cannot be downloaded"
  dpkg-deb -x "$to.new"/deb/*.deb "$to.new"
  rm -rf "$to.new/deb" "$to"
  mv "$to.new" "$to"
}

command -v qemu-system-x86_64 >/dev/null 2>&1 || install_qemu
[ -x "$work/busybox/bin/busybox" ] || unpack busybox-static "$work/busybox"
if [ ! -e "$work/kernel/vmlinuz" ]; then
  apt-cache show linux-image-amd64 >/dev/null 2>&1 || (update) || die "package lists cannot be had"
  image=$(apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -1)
  [ -n "$image" ] || die "no package linux-image-amd64: the machine wants a Debian kernel"
  unpack "$image" "$work/kernel"
  modules=$(find "$work/kernel" -type d -path '*/lib/modules/*' -prune | head -1)
  "$work/busybox/bin/busybox" depmod -b "${modules%/lib/modules/*}" "${modules##*/}"
  cp "$work"/kernel/boot/vmlinuz-* "$work/kernel/vmlinuz"
fi
