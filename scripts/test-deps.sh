#!/usr/bin/env bash
# Makes sure that the programs are there that tests use besides Go; with the argument `install`, those of `make test-install`,
# with `vm-qemu` those of `make test-vm-qemu`. On Debian as root it installs what is missing; otherwise it names it and fails.
set -euo pipefail

# A program and the Debian package that has it.
wanted=(
	fio:fio
	nbdkit:nbdkit
	nbdinfo:libnbd-bin
	nbdcopy:libnbd-bin
	nbdsh:python3-libnbd
	qemu-img:qemu-utils
	qemu-io:qemu-utils
	mkfs.ext4:e2fsprogs
	mkfs.xfs:xfsprogs
	mkfs.btrfs:btrfs-progs
	busybox:busybox-static
	python3:python3
	linux.uml:user-mode-linux
	dmsetup:dmsetup
	sfdisk:fdisk
	setpriv:util-linux
	losetup:util-linux
	ip:iproute2
	tc:iproute2
	nft:nftables
	gcc:gcc # the race detector needs a C compiler
)
if [ "${1-}" = install ]; then
	wanted=(
		debootstrap:debootstrap
		dpkg-deb:dpkg
		lintian:lintian
		rpm:rpm
		rpmlint:rpmlint
		shellcheck:shellcheck
		systemd-analyze:systemd
		systemd-nspawn:systemd-container
	)
fi
if [ "${1-}" = vm-qemu ]; then
	wanted+=(
		qemu-system-x86_64:qemu-system-x86
		depmod:kmod
		cpio:cpio
	)
fi

PATH=$PATH:/usr/sbin:/sbin
missing() {
	local entry
	for entry in "${wanted[@]}"; do
		command -v "${entry%%:*}" >/dev/null || echo "${entry##*:}"
	done | sort -u
}

packages=$(missing)
if [ -z "$packages" ]; then
	echo "test-deps: all programs are there"
	exit 0
fi
# shellcheck disable=SC2086 # several words are meant
set -- $packages
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
	echo "test-deps: missing Debian packages: $*" >&2
	echo "test-deps: install them, on Debian with: sudo apt-get install --no-install-recommends $*" >&2
	exit 1
fi
echo "test-deps: installing the Debian packages $*"
export DEBIAN_FRONTEND=noninteractive
apt-get -q update
apt-get -q install --yes --no-install-recommends "$@"

still=$(missing)
if [ -n "$still" ]; then
	echo "test-deps: still missing after the installation:" "$still" >&2
	exit 1
fi
