#!/bin/sh
# Installs flotilla on this host, from a checkout or from an unpacked archive of `make packages`, or takes it away again.
#
#   scripts/install.sh [--prefix DIR] [--binary FILE]    install, or replace what an earlier run installed
#   scripts/install.sh --uninstall                       take away all that was installed, but no state and no key
#   scripts/install.sh --root DIR --prefix /usr          only put the files below DIR, for packages and images
#
# It neither starts nor restarts the agent: whoever uses a volume waits for it. Everything it makes is written into
# PREFIX/share/flotilla/installed, which --uninstall goes by.
set -eu

prefix=/usr/local
root=
binary=
run=
action=install

say() { printf '%s\n' "$*"; }
fail() {
	printf 'install.sh: %s\n' "$*" >&2
	exit 1
}
misused() {
	printf 'install.sh: %s; see install.sh --help\n' "$*" >&2
	exit 2
}

help() {
	cat <<'EOF'
install.sh [flags]: install flotilla on this host

  --prefix DIR    where it goes (default /usr/local; with /usr, files of the host go below /usr/lib instead of /etc)
  --binary FILE   the program (default: beside this script, or bin/flotilla of the checkout, which is built if need be)
  --uninstall     take away what was installed; state, keys and a changed agent.yaml stay
  --root DIR      put the files below DIR and do nothing else, for packages and images
  --run FILE      program that writes the manual pages, if that of --binary does not run on this machine

Exit codes: 0 done, 1 refused or failed, 2 wrong usage.
EOF
}

while [ $# -gt 0 ]; do
	case $1 in
	--prefix | --binary | --root | --run)
		[ $# -ge 2 ] || misused "$1 wants a value"
		case $1 in
		--prefix) prefix=${2%/} ;;
		--binary) binary=$2 ;;
		--root) root=${2%/} action=stage ;;
		--run) run=$2 ;;
		esac
		shift
		;;
	--uninstall) action=uninstall ;;
	-h | --help)
		help
		exit 0
		;;
	*) misused "unknown argument $1" ;;
	esac
	shift
done
case $prefix in
/*) ;;
*) misused "--prefix $prefix: give an absolute path" ;;
esac

here=$(cd "$(dirname "$0")" && pwd)
if [ "$prefix" = /usr ]; then
	lib=/usr/lib
else
	lib=/etc
fi
record=$root$prefix/share/flotilla/installed
config=/etc/flotilla/agent.yaml
state=/var/lib/flotilla

# Refuses hosts on which it would not work, before anything is changed.
check_host() {
	[ "$(uname -s)" = Linux ] || fail "this is $(uname -s): flotilla needs Linux"
	[ "$(id -u)" = 0 ] || fail "run it as root: it puts files below $prefix and $lib (or give --root DIR to only see them)"
	for tool in systemctl systemd-tmpfiles; do
		command -v "$tool" >/dev/null ||
			fail "this host has no systemd ($tool): put the program in place by hand and run \`flotilla agent\` under your supervisor"
	done
	command -v udevadm >/dev/null || fail "this host has no udev: install it (on Debian: apt-get install udev)"
}

# Refuses to work beside a package, in whose files it would interfere.
check_package() {
	if command -v dpkg-query >/dev/null; then
		case $(dpkg-query -W -f '${db:Status-Status}' flotilla 2>/dev/null || true) in
		installed | unpacked | half-*) fail "the Debian package flotilla is installed: upgrade or remove that (apt remove flotilla)" ;;
		esac
	fi
	if command -v rpm >/dev/null && rpm -q flotilla >/dev/null 2>&1; then
		fail "the RPM package flotilla is installed: upgrade or remove that (dnf remove flotilla)"
	fi
}

# Names the devices in the kernel that an agent of this host serves.
attached() {
	for file in /sys/block/nbd*/backend; do
		[ -e "$file" ] || continue
		case $(cat "$file" 2>/dev/null) in
		flotilla:*)
			device=${file%/backend}
			printf '%s ' "${device##*/}"
			;;
		esac
	done
}

running() { [ -d /run/systemd/system ] && systemctl --quiet is-active flotilla.service; }

# Has systemd and udev, where they run, look at their files again.
reload() {
	[ -z "$root" ] || return 0
	if [ -d /run/systemd/system ]; then
		systemctl daemon-reload
	fi
	if [ -e /run/udev/control ]; then
		udevadm control --reload
	fi
}

find_binary() {
	if [ -n "$binary" ]; then
		:
	elif [ -x "$here/flotilla" ]; then
		binary=$here/flotilla
	elif [ -f "$here/../go.mod" ]; then
		binary=$here/../bin/flotilla
		if [ ! -x "$binary" ]; then
			command -v go >/dev/null || fail "bin/flotilla is not built, and there is no go to build it: run \`make build\` elsewhere, or give --binary"
			make -C "$here/.." build
		fi
	else
		fail "there is no program beside this script: give --binary FILE"
	fi
	[ -f "$binary" ] || fail "--binary $binary: there is no such file"
	run=${run:-$binary}
	version=$("$run" version 2>&1) || fail "$run does not run on this machine ($(uname -m)): $version"
}

# directory DIR: makes it below the root, and remembers each part that was not there.
directory() {
	[ -d "$root$1" ] && return
	[ "$1" = / ] || [ -z "$1" ] || directory "$(dirname "$1")"
	mkdir -m 0755 "$root$1"
	printf 'd %s\n' "$1" >>"$made"
}

# place FILE PATH MODE: puts a file there at once, so that who uses the old one keeps it whole.
place() {
	directory "$(dirname "$2")"
	install -m "$3" "$1" "$root$2.new"
	mv -f "$root$2.new" "$root$2"
	printf 'f %s\n' "$2" >>"$made"
}

digest() { sha256sum <"$1" | cut -d ' ' -f 1; }

place_all() {
	# With another prefix than the packages' the program is elsewhere.
	sed "s|/usr/bin/flotilla|$prefix/bin/flotilla|" "$here/host/flotilla.service" >"$work/flotilla.service"
	place "$binary" "$prefix/bin/flotilla" 0755
	place "$work/flotilla.service" "$lib/systemd/system/flotilla.service" 0644
	place "$here/host/udev.rules" "$lib/udev/rules.d/70-flotilla.rules" 0644
	place "$here/host/modules-load.conf" "$lib/modules-load.d/flotilla.conf" 0644
	place "$here/host/modprobe.conf" "$lib/modprobe.d/flotilla.conf" 0644
	place "$here/host/tmpfiles.conf" "$lib/tmpfiles.d/flotilla.conf" 0644
	"$run" completion bash >"$work/bash"
	"$run" completion zsh >"$work/zsh"
	"$run" completion fish >"$work/fish"
	place "$work/bash" "$prefix/share/bash-completion/completions/flotilla" 0644
	place "$work/zsh" "$prefix/share/zsh/site-functions/_flotilla" 0644
	place "$work/fish" "$prefix/share/fish/vendor_completions.d/flotilla.fish" 0644
	"$run" man "$work/man"
	for page in "$work"/man/*.1; do
		gzip -9n "$page"
		place "$page.gz" "$prefix/share/man/man1/$(basename "$page").gz" 0644
	done
	docs=$here/..
	if [ -d "$here/doc" ]; then
		docs=$here/doc
	fi
	for page in "$docs/README.md" "$docs/ARCHITECTURE.md" "$docs/docs/runbook.md"; do
		place "$page" "$prefix/share/doc/flotilla/${page#"$docs"/}" 0644
	done
	# The agent's file is the operator's: one that is there stays. Of ours the digest says later whether it was changed.
	if [ ! -e "$root$config" ]; then
		place "$here/host/agent.yaml" "$config" 0644
		printf 'c %s\n' "$(digest "$root$config")" >>"$made"
	fi
}

# What an earlier run made and this one did not is taken away; what both know is known once.
merge_record() {
	[ -f "$record" ] || return 0
	while read -r kind path; do
		case $kind in
		f)
			if grep -qxF "f $path" "$made"; then
				continue
			fi
			if [ "$path" = "$config" ]; then
				printf 'f %s\n' "$path" >>"$made"
			else
				rm -f "$path"
			fi
			;;
		c)
			grep -q '^c ' "$made" || printf 'c %s\n' "$path" >>"$made"
			;;
		d) printf 'd %s\n' "$path" >>"$made" ;;
		esac
	done <"$record"
}

install_all() {
	umask 022
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	trap 'exit 1' HUP INT TERM
	made=$work/made
	: >"$made"
	find_binary
	fresh=yes
	if [ -f "$record" ]; then
		fresh=
	fi
	place_all
	if [ "$action" = stage ]; then
		return
	fi
	place "$here/install.sh" "$prefix/share/flotilla/install.sh" 0755
	if [ ! -d "$state" ]; then
		printf 'd %s\n' "$state" >>"$made"
	fi
	merge_record
	LC_ALL=C sort -u "$made" >"$record.new"
	mv -f "$record.new" "$record"
	systemd-tmpfiles --create "$lib/tmpfiles.d/flotilla.conf"
	reload
	report
}

report() {
	say "installed: $version"
	say "  program       $prefix/bin/flotilla (manual pages, completions, $prefix/share/doc/flotilla)"
	say "  agent's file  $config"
	say "  state         $state"
	say "  systemd       $lib/systemd/system/flotilla.service"
	say "  kernel, udev  flotilla in $lib/modules-load.d, $lib/modprobe.d, $lib/udev/rules.d"
	say "  list          $record; take it away with: $prefix/share/flotilla/install.sh --uninstall"
	if running; then
		say "next: the agent that runs is the old program still. When \`flotilla status\` shows no alarm: systemctl restart flotilla"
	elif [ -n "$fresh" ]; then
		say "next: edit $config; then \`flotilla cluster init\` on the first host, \`flotilla cluster join TOKEN\` on others;"
		say "      then \`systemctl enable --now flotilla\`"
	else
		say "next: \`systemctl enable --now flotilla\`, if the agent shall run"
	fi
}

uninstall() {
	[ "$(id -u)" = 0 ] || fail "run it as root"
	if [ ! -f "$record" ]; then
		check_package
		say "nothing to do: $record is not there, so nothing was installed below $prefix (--prefix for another place)"
		return
	fi
	busy=$(attached)
	[ -z "$busy" ] || fail "volumes are attached as $busy: unmount them and detach them first (flotilla volume detach), or their I/O would wait for an agent that does not come back"
	if [ -d /run/systemd/system ]; then
		systemctl --quiet disable --now flotilla.service
	else
		rm -f /etc/systemd/system/*.wants/flotilla.service
	fi
	kept=
	list=$(mktemp)
	trap 'rm -f "$list"' EXIT
	cat "$record" >"$list"
	ours=$(sed -n 's/^c //p' "$list")
	while read -r kind path; do
		[ "$kind" = f ] || continue
		if [ "$path" = "$config" ] && [ -e "$path" ] && [ "$(digest "$path")" != "$ours" ]; then
			kept="$kept $path"
			continue
		fi
		rm -f "$path"
	done <"$list"
	rm -f "$record"
	# From the innermost out, and only what is empty.
	LC_ALL=C sort -r "$list" | while read -r kind path; do
		if [ "$kind" = d ] && [ -d "$path" ]; then
			rmdir "$path" 2>/dev/null || true
		fi
	done
	reload
	say "flotilla is taken away from $prefix and $lib"
	if [ -e "$state" ]; then
		kept="$kept $state"
	fi
	[ -z "$kept" ] || say "left, because it is this host's own:$kept
  $state may hold the cluster's CA key and updates that others count on. When nothing of it is wanted: rm -r$kept"
}

case $action in
stage) install_all ;;
install)
	check_host
	check_package
	install_all
	;;
uninstall) uninstall ;;
esac
