#!/usr/bin/env bash
# Installs, runs, upgrades and removes flotilla in fresh minimal Debian systems, as root: by install.sh, as a .deb, and as an
# .rpm; and boots one of them with systemd in a container. Any difference that is left afterwards is a failure.
#
# The minimal system is made once by debootstrap, into $FLOTILLA_CACHE (by default ~/.cache/flotilla). Packages are those of
# `make packages`.
set -euo pipefail
cd "$(dirname "$0")/.."

suite=bookworm
cache=${FLOTILLA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/flotilla}
[ "$(id -u)" = 0 ] || { echo "test-install: run it as root: it makes whole systems" >&2; exit 1; }

work=$(mktemp -d /tmp/flotilla-install.XXXXXX)
readme=    # process ID of the test of the README
mounted=() # what is to be unmounted, the last one first
end() {
	local code=$? k
	if [ -n "$readme" ]; then
		kill "$readme" 2>/dev/null || true
		wait "$readme" 2>/dev/null || true
	fi
	for ((k = ${#mounted[@]} - 1; k >= 0; k--)); do
		umount "${mounted[k]}"
	done
	rm -rf --one-file-system "$work"
	exit "$code"
}
trap end EXIT
trap 'exit 1' HUP INT TERM

began=$SECONDS
step() { printf -- '--- %3d s: %s\n' $((SECONDS - began)) "$*"; }
fail() {
	printf 'test-install: FAILED: %s\n' "$*" >&2
	exit 1
}
has() { # FILE TEXT
	grep -qF -- "$2" "$1" || {
		cat "$1" >&2
		fail "the output above does not say: $2"
	}
}
refused() { # TEXT COMMAND…: the command fails and says TEXT
	local text=$1
	shift
	if "$@" >"$work/out" 2>&1; then
		cat "$work/out" >&2
		fail "not refused: $*"
	fi
	has "$work/out" "$text"
}

# The minimal system, with what install.sh wants of a host.
base=$cache/debian-$suite-$(dpkg --print-architecture)-v1.tar
if [ ! -f "$base" ]; then
	step "making the minimal system $base"
	mkdir -p "$cache"
	debootstrap --variant=minbase --include=systemd,systemd-sysv,udev,kmod,dbus "$suite" "$work/base" >"$work/log" 2>&1 ||
		{ tail -20 "$work/log" >&2; fail "debootstrap"; }
	rm -rf "$work"/base/var/cache/apt/archives/*.deb "$work"/base/var/lib/apt/lists/* "$work"/base/usr/share/{doc,locale,man}/*
	tar -C "$work/base" -cf "$base.new" .
	mv "$base.new" "$base"
	rm -rf "$work/base"
fi

# fresh: a fresh system at $root.
fresh() {
	root=$work/root
	if mountpoint -q "$root/proc" 2>/dev/null; then
		umount "$root/proc"
		mounted=()
	fi
	rm -rf --one-file-system "$root"
	mkdir "$root"
	tar -C "$root" -xf "$base"
	mount -t proc proc "$root/proc"
	mounted+=("$root/proc")
}
inside() { env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root chroot "$root" "$@"; }

# files LIST: what is on the disk, with kind, mode, owner, size and target, but for what the package manager writes for itself.
files() {
	(cd "$root" && find . -xdev \( -path ./proc -o -path ./run -o -path ./tree -o -path ./var/lib/dpkg -o -path ./var/log -o -path ./var/cache -o -path ./var/lib/rpm -o -path ./root/.rpmdb \) -prune -o \
		\( -type d -printf '%p %y %m %u\n' \) -o -printf '%p %y %m %u %s %l\n') | LC_ALL=C sort >"$1"
}
same() { # WHAT: nothing differs from the list before
	files "$work/after"
	diff "$work/before" "$work/after" || fail "$1 leaves what is above"
}

units() { # the units, the rules and the rest are what systemd and udev take
	inside systemd-analyze verify --man=no "$1/systemd/system/flotilla.service" >"$work/out" 2>&1 || { cat "$work/out" >&2; fail "systemd-analyze verify"; }
	[ ! -s "$work/out" ] || { cat "$work/out" >&2; fail "systemd-analyze verify is not silent"; }
	if inside udevadm verify --help >/dev/null 2>&1; then
		inside udevadm verify "$1/udev/rules.d/70-flotilla.rules" || fail "udevadm verify"
	fi
	[ "$(stat -c '%a %U' "$root/var/lib/flotilla")" = "700 root" ] || fail "/var/lib/flotilla is not root's alone"
}

# rule: udev's rule finds the name in what the kernel shows. Its program and argument are taken as they are in the rules.
rule() {
	local program
	program=$(sed -n 's/.*PROGRAM="\([^"]*\)sys%p\/backend".*/\1/p' "$root$1/udev/rules.d/70-flotilla.rules" | sed 's/\$\$/$/g; s/ \/$//')
	[ -n "$program" ] || fail "the udev rule has no program"
	echo flotilla:0123abcd:db/data_1.old >"$root/tmp/backend"
	# shellcheck disable=SC2086 # as udev takes it apart
	[ "$(inside $program /tmp/backend)" = db/data_1.old ] || fail "the udev rule's program does not find db/data_1.old"
	rm "$root/tmp/backend"
}

step "scripts are clean"
shellcheck scripts/*.sh
shellcheck -s sh scripts/package/deb.* scripts/package/rpm.*

step "the packages"
arch=$(go env GOHOSTARCH)
deb=$(ls bin/packages/"$arch"/flotilla_*_"$arch".deb)
rpm=$(ls bin/packages/"$arch"/flotilla-*."$(uname -m)".rpm)
archive=$(ls bin/packages/"$arch"/flotilla-*-linux-"$arch".tar.gz)
lintian --allow-root --fail-on error "$deb" || fail "lintian"
# rpmlint's exit code counts spelling, too. What is accepted: whoever publishes packages signs them; the changelog is a file; a
# static program is none in its eyes; manual pages and documents are installed also where documents are not wanted.
rpmlint "$rpm" >"$work/out" 2>&1 || true
grep -q 'packages and' "$work/out" || { cat "$work/out" >&2; fail "rpmlint"; }
if grep ' E: ' "$work/out" | grep -vE 'spelling-error|no-signature|no-changelogname-tag|no-binary|statically-linked-binary|not-listed-as-documentation'; then
	fail "rpmlint has the errors above"
fi
# Both have the same files; only zsh looks for its completions in different places.
rpm -qp --qf '[%{FILEMODES:perms} %{FILENAMES}\n]' "$rpm" | sed -n '/^d/! s|^[^ ]* ||p' | sed 's|/site-functions/|/vendor-completions/|' | LC_ALL=C sort >"$work/rpm.list"
dpkg-deb --fsys-tarfile "$deb" | tar -t | sed -n 's|^\.\(/.*[^/]\)$|\1|p' | grep -vx /usr/share/lintian/overrides/flotilla | LC_ALL=C sort >"$work/deb.list"
diff "$work/deb.list" "$work/rpm.list" || fail "the .deb and the .rpm differ in the files above"
for want in /usr/bin/flotilla /usr/lib/systemd/system/flotilla.service /usr/lib/udev/rules.d/70-flotilla.rules /etc/flotilla/agent.yaml /usr/share/man/man1/flotilla-volume-create.1.gz; do
	grep -qxF "$want" "$work/deb.list" || fail "$want is not in the packages"
done

step "install.sh"
fresh
mkdir "$root/tree"
tar -C "$root/tree" --strip-components=1 -xzf "$archive"
files "$work/before"
refused "unknown argument --now" inside /tree/install.sh --now
refused "run it as root" inside setpriv --reuid 65534 --clear-groups /tree/install.sh
printf '#!/bin/sh\necho FreeBSD\n' >"$root/usr/local/bin/uname"
chmod +x "$root/usr/local/bin/uname"
refused "this is FreeBSD" inside /tree/install.sh
rm "$root/usr/local/bin/uname"
mv "$root/usr/bin/systemctl" "$root/systemctl"
refused "this host has no systemd" inside /tree/install.sh
mv "$root/systemctl" "$root/usr/bin/systemctl"
mv "$root/usr/bin/udevadm" "$root/udevadm"
refused "this host has no udev" inside /tree/install.sh
mv "$root/udevadm" "$root/usr/bin/udevadm"
printf 'not a program' >"$root/tree/other"
chmod +x "$root/tree/other"
refused "does not run on this machine" inside /tree/install.sh --binary /tree/other
same "a refusal"
inside /tree/install.sh >"$work/out"
has "$work/out" "next: edit /etc/flotilla/agent.yaml"
has "$work/out" "/usr/local/share/flotilla/install.sh --uninstall"
units /etc
rule /etc
inside flotilla version
inside systemctl enable flotilla.service 2>/dev/null
[ -L "$root/etc/systemd/system/multi-user.target.wants/flotilla.service" ] || fail "the service is not enabled"
files "$work/installed"
cp "$root/usr/local/share/flotilla/installed" "$work/record"
step "install.sh again, and away"
inside /tree/install.sh >/dev/null
files "$work/again"
diff "$work/installed" "$work/again" || fail "a second run changes what is above"
diff "$work/record" "$root/usr/local/share/flotilla/installed" || fail "a second run records something else"
inside /usr/local/share/flotilla/install.sh --uninstall >"$work/out"
same "--uninstall"
inside /tree/install.sh --uninstall >"$work/out"
has "$work/out" "nothing to do"
step "install.sh leaves what is the host's own"
mkdir -p "$root/etc/flotilla"
echo 'name: kept' >"$root/etc/flotilla/agent.yaml"
inside /tree/install.sh >/dev/null
has "$root/etc/flotilla/agent.yaml" "name: kept"
mkdir "$root/var/lib/flotilla/identity"
inside /tree/install.sh --uninstall >"$work/out"
has "$work/out" "left, because it is this host's own: /var/lib/flotilla"
[ -e "$root/etc/flotilla/agent.yaml" ] || fail "--uninstall takes the operator's agent.yaml away"
rm -r "$root/etc/flotilla" "$root/var/lib/flotilla"
same "--uninstall, and what it says to remove,"

step "the .deb"
cp "$deb" "$root/tree/flotilla.deb"
# A systemctl that only writes down what it is told, in a system that looks as if systemd ran.
mkdir -p "$root/run/systemd/system"
printf '#!/bin/sh\necho "$*" >>/tree/told\n[ "$*" != "--quiet is-active flotilla.service" ] || [ -e /tree/runs ]\n' >"$work/systemctl"
install -m 0755 "$work/systemctl" "$root/usr/bin/systemctl"
files "$work/before"
inside dpkg -i /tree/flotilla.deb >"$work/out" 2>&1 || { cat "$work/out" >&2; fail "dpkg -i"; }
has "$work/out" "next, edit /etc/flotilla/agent.yaml"
[ "$(cat "$root/tree/told")" = "daemon-reload
--quiet is-active flotilla.service" ] || { cat "$root/tree/told" >&2; fail "the .deb's installation tells systemd what is above"; }
units /usr/lib
rule /usr/lib
inside flotilla version >"$work/out"
# shellcheck disable=SC2016 # dpkg's variable
[ "$(inside dpkg-query -W -f '${Conffiles}' flotilla | awk 'NF {print $1}')" = /etc/flotilla/agent.yaml ] || fail "agent.yaml is no conffile"
refused "the Debian package flotilla is installed" inside /tree/install.sh
step "the .deb's upgrade"
echo 'name: kept' >"$root/etc/flotilla/agent.yaml"
touch "$root/tree/runs"
rm -f "$root/tree/told"
inside dpkg -i /tree/flotilla.deb >"$work/out" 2>&1 || { cat "$work/out" >&2; fail "dpkg -i over it"; }
has "$work/out" "the agent that runs is the old program still"
has "$root/etc/flotilla/agent.yaml" "name: kept"
if grep -E 'stop|restart|disable|start' "$root/tree/told"; then
	fail "an upgrade tells systemd what is above"
fi
step "the .deb's removal"
inside dpkg -r flotilla >/dev/null
grep -qx -- "--quiet disable --now flotilla.service" "$root/tree/told" || fail "a removal does not stop the agent"
[ -e "$root/etc/flotilla/agent.yaml" ] || fail "a removal takes the conffile away"
inside dpkg -P flotilla >/dev/null
same "dpkg -P"
inside dpkg -i /tree/flotilla.deb >/dev/null
mkdir "$root/var/lib/flotilla/identity"
inside dpkg -P flotilla >"$work/out"
has "$work/out" "/var/lib/flotilla stays"
rm -r "$root/var/lib/flotilla"
same "dpkg -P, and what it says to remove,"
mkdir -p "$root/usr/local/share/flotilla"
touch "$root/usr/local/share/flotilla/installed"
refused "take that away first" inside dpkg -i /tree/flotilla.deb
rm -r "$root/usr/local/share/flotilla"
inside dpkg -P flotilla >/dev/null 2>&1 || true
same "a refused installation"

step "the .rpm"
# By rpm from outside, into the same system: what it wants of other packages is not recorded there.
rm -f "$root/tree/told" "$root/tree/runs"
rpm --root "$root" --initdb
mkdir -p "$root"/usr/share/{fish/vendor_completions.d,man/man1,zsh/site-functions} # there are on systems of that kind
files "$work/before"
rpm --root "$root" -i --nodeps "$rpm" >"$work/out" 2>&1 || { cat "$work/out" >&2; fail "rpm -i"; }
has "$work/out" "next, edit /etc/flotilla/agent.yaml"
units /usr/lib
rpm --root "$root" -V --nodeps flotilla >"$work/out" || { cat "$work/out" >&2; fail "rpm -V"; }
rm -f "$root/tree/told"
rpm --root "$root" -U --nodeps --force "$rpm" >"$work/out" 2>&1 || { cat "$work/out" >&2; fail "rpm -U"; }
if grep -E 'stop|restart|disable|start' "$root/tree/told"; then
	fail "an upgrade tells systemd what is above"
fi
rpm --root "$root" -e --nodeps flotilla
grep -qx -- "--quiet disable --now flotilla.service" "$root/tree/told" || fail "a removal does not stop the agent"
same "rpm -e"

# The README's three hosts mostly wait: for each other, and for a limit to pass.
scripts/test-readme.sh "$base" "$PWD/$deb" >"$work/readme" 2>&1 &
readme=$!
scripts/test-install-boot.sh "$base" "$deb"
code=0
wait "$readme" || code=$?
readme=
cat "$work/readme"
[ "$code" = 0 ] || fail "README's set-up"
printf -- '--- all passed in %d s\n' $((SECONDS - began))
