#!/usr/bin/env bash
# Unpacks Debian's kernel for virtual machines, whatever version is the newest one, into bin/qemu-kernel, and prints that
# directory. Nothing is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$PWD/bin/qemu-kernel

package() { apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '$1 == "Depends:" { print $2; exit }'; }

if ! compgen -G "$dir/boot/vmlinuz-*" >/dev/null; then
	package=$(package)
	if [ -z "$package" ] && [ "$(id -u)" = 0 ]; then
		apt-get -q update >&2
		package=$(package)
	fi
	if [ -z "$package" ]; then
		echo "qemu-kernel: apt knows no linux-image-cloud-amd64: run apt-get update, on Debian" >&2
		exit 1
	fi
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	(cd "$work" && apt-get -q download "$package" >&2)
	rm -rf "$dir"
	mkdir -p "$dir"
	dpkg -x "$work"/*.deb "$dir"
	for modules in "$dir"/lib/modules/*; do
		depmod -b "$dir" "${modules##*/}"
	done
fi
echo "$dir"
