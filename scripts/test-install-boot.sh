#!/usr/bin/env bash
# Boots a minimal system with systemd in a container, installs the .deb in it, and has flotilla.service live through what it
# will: a bad file, a restart, SIGKILL, a process that hangs, an upgrade, a removal. Called by test-install.sh.
#
#   scripts/test-install-boot.sh SYSTEM.tar PACKAGE.deb
set -euo pipefail
system=$1 package=$2

work=$(mktemp -d /tmp/flotilla-boot.XXXXXX)
root=$work/root
container= # process ID of systemd-nspawn
end() {
	local code=$?
	if [ -n "$container" ]; then
		[ "$code" = 0 ] || inside journalctl --no-pager -o short-precise -n 80 -u flotilla >&2 || true
		kill -TERM "$container" 2>/dev/null || true # ends the container's systemd, at the second time at once
		kill -TERM "$container" 2>/dev/null || true
		wait "$container" 2>/dev/null || true
	fi
	rm -rf --one-file-system "$work"
	exit "$code"
}
trap end EXIT
trap 'exit 1' HUP INT TERM

began=$SECONDS
step() { printf -- '--- boot, %3d s: %s\n' $((SECONDS - began)) "$*"; }
fail() {
	printf 'test-install-boot: FAILED: %s\n' "$*" >&2
	exit 1
}
inside() { env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root SYSTEMD_PAGER= nsenter -t "$init" -a -- "$@"; }
show() { inside systemctl show --value -p "$1" flotilla.service; }
eventually() { # WHAT COMMAND…: the command succeeds within a minute
	local what=$1 limit=$((SECONDS + 60))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $limit ] || fail "not within a minute: $what"
		sleep 0.1
	done
}
equal() { [ "$("${@:2}")" = "$1" ]; }
differs() { [ "$("${@:2}")" != "$1" ]; }
active() { equal active show ActiveState; }
restarted() { # PID: another process than that is ready
	differs "$1" show MainPID && active
}

mkdir "$root"
tar -C "$root" -xf "$system"
rm -f "$root/etc/machine-id"
ln -s /dev/null "$root/etc/systemd/system/systemd-networkd-wait-online.service" # there is only the loopback
systemd-nspawn -q -D "$root" --register=no --keep-unit --console=pipe --private-network --boot </dev/null >"$work/console" 2>&1 &
container=$!
booted() {
	init=$(tr -d ' ' <"/proc/$container/task/$container/children")
	[ -n "$init" ] && inside systemctl is-active multi-user.target
}
eventually "the container boots" booted
step "systemd runs: $(inside systemctl --version | head -1)"
cp "$package" "$root/root/flotilla.deb"
inside dpkg -i /root/flotilla.deb >"$work/out" 2>&1 || { cat "$work/out" >&2; fail "dpkg -i"; }
equal disabled inside systemctl is-enabled flotilla || true
[ "$(show ActiveState)" = inactive ] || fail "the installation starts the agent"

step "a bad file: it is tried again a few times, then left alone"
inside mkdir -p /run/systemd/system/flotilla.service.d
printf '[Unit]\nStartLimitBurst=4\n[Service]\nWatchdogSec=3s\n' >"$work/drop-in"
inside tee /run/systemd/system/flotilla.service.d/test.conf <"$work/drop-in" >/dev/null
inside systemctl daemon-reload
inside systemctl start flotilla >/dev/null 2>&1 || true
eventually "systemd gives up" equal failed show ActiveState
[ "$(show NRestarts)" -ge 3 ] || fail "systemd gives up after $(show NRestarts) restarts"
inside journalctl --no-pager -u flotilla >"$work/out"
grep -q 'bad configuration' "$work/out" || fail "the journal does not say that the configuration is bad"
inside systemctl reset-failed flotilla

step "a cluster of one"
printf 'name: host-a\nlisten: 127.0.0.1:7431\nroles: [primary, backup, secondary]\njournal: {limit: 256MiB}\nnbd: {unix: /var/lib/flotilla/nbd.sock}\n' >"$root/etc/flotilla/agent.yaml"
inside flotilla cluster init >/dev/null
inside systemctl enable --now flotilla 2>/dev/null || fail "systemctl enable --now flotilla"
active || fail "systemctl start returns before the agent is ready"
inside flotilla events >/dev/null || fail "an agent that is ready does not answer"
pid=$(show MainPID)
inside cat "/proc/$pid/status" >"$work/status"
grep -q '^NoNewPrivs:.1' "$work/status" || fail "the agent may gain privileges"
grep -q '^Seccomp:.2' "$work/status" || fail "the agent may use any system call"
# DAC_OVERRIDE 1, DAC_READ_SEARCH 2, NET_BIND_SERVICE 10, NET_ADMIN 12, SYS_MODULE 16, SYS_ADMIN 21, SYS_RESOURCE 24
allowed=$((1 << 1 | 1 << 2 | 1 << 10 | 1 << 12 | 1 << 16 | 1 << 21 | 1 << 24))
capabilities=$((16#$(awk '/^CapEff:/ {print $2}' "$work/status")))
[ $((capabilities & ~allowed)) = 0 ] || fail "the agent may more than the unit says: capabilities $(printf %x $capabilities)"
[ "$(inside readlink "/proc/$pid/ns/mnt")" = "$(inside readlink /proc/1/ns/mnt)" ] || fail "the agent has mounts of its own, which keep file systems busy"

step "volumes work under the unit's restrictions"
inside truncate -s 16M /root/source.img /root/target.img
eventually "a captain" inside flotilla group create db
inside flotilla volume create db/data --primary host-a --source /root/source.img --secondary host-a --target /root/target.img
copied() { inside flotilla volume list | grep -q whole; }
eventually "the first copy" copied

step "_netdev: mounted after the agent is ready, unmounted before it stops, kept over its restart"
# In containers systemd passes over fstab's lines with devices, so a memory file system stands for one on a volume.
printf 'tmpfs /srv/memory tmpfs _netdev 0 0\n' >"$root/etc/fstab"
inside mkdir -p /srv/memory
inside systemctl daemon-reload
inside systemctl show --value -p After srv-memory.mount >"$work/out"
grep -qw remote-fs-pre.target "$work/out" || fail "the mount is not ordered after remote-fs-pre.target"
show Before >"$work/out"
grep -qw remote-fs-pre.target "$work/out" || fail "the agent is not ordered before remote-fs-pre.target"
inside systemctl start srv-memory.mount
inside touch /srv/memory/there
inside systemctl restart flotilla
restarted "$pid" || fail "systemctl restart returns before the new agent is ready"
inside test -e /srv/memory/there || fail "a restart of the agent unmounts file systems"
inside systemctl is-active srv-memory.mount >/dev/null || fail "a restart of the agent stops mounts"

step "SIGKILL"
pid=$(show MainPID)
inside sh -c "kill -KILL $pid"
eventually "the agent is back" restarted "$pid"

step "a process that hangs"
pid=$(show MainPID)
inside sh -c "kill -STOP $pid"
eventually "the agent is back" restarted "$pid"
inside journalctl --no-pager -u flotilla >"$work/out"
grep -q 'Watchdog timeout' "$work/out" || fail "systemd did not notice the hang"
grep -q '^.*goroutine ' "$work/out" || fail "the hang left no stacks in the journal"

step "an upgrade leaves the agent as it runs"
pid=$(show MainPID)
inside dpkg -i /root/flotilla.deb >"$work/out" 2>&1 || { cat "$work/out" >&2; fail "dpkg -i over it"; }
[ "$(show MainPID)" = "$pid" ] || fail "an upgrade restarts the agent"
grep -q 'systemctl restart flotilla' "$work/out" || fail "an upgrade does not say what is next"

step "a stop, and the removal"
inside systemctl stop flotilla
[ "$(show Result)" = success ] || fail "the agent stops with $(show Result)"
inside systemctl start flotilla
pid=$(show MainPID)
inside dpkg -r flotilla >/dev/null 2>&1
inside test ! -e "/proc/$pid/exe" || fail "the agent runs after the package's removal"
inside dpkg -P flotilla >"$work/out" 2>&1
grep -q '/var/lib/flotilla stays' "$work/out" || fail "a purge does not say that state stays"
inside test -d /var/lib/flotilla/identity || fail "a purge takes the agent's identity away"
printf -- '--- boot passed in %d s\n' $((SECONDS - began))
