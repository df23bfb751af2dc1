#!/usr/bin/env bash
# Runs README's set-up of three hosts as it is written, and what follows it up to a promote: each host is a minimal system booted
# with systemd in a container, with the .deb installed, and the addresses of the README on a network of their own. Called by
# test-install.sh.
#
#   scripts/test-readme.sh SYSTEM.tar PACKAGE.deb
#
# Files come out of the README, and so does every command: one that is not there is refused, and so is a README with one that is
# neither run nor below.
set -euo pipefail
readme=$PWD/README.md system=$1 package=$2

# What is not run here, and where it is.
elsewhere=(
	'rpm -i flotilla-*.rpm'                                          # test-install.sh
	'tar -xzf flotilla-*.tar.gz && flotilla-*/install.sh'            # test-install.sh
	'flotilla volume attach db/data'                                 # containers have no kernel of their own: make test-vm
	'mkfs.xfs /dev/flotilla/db/data'                                 # make test-vm
	'mount -o _netdev /dev/flotilla/db/data /srv/data'               # make test-vm
	'xfs_growfs /srv/data'                                           # make test-vm
)

work=$(mktemp -d /tmp/flotilla-readme.XXXXXX)
net=flreadme$$
declare -A root container init
end() {
	local code=$? h
	for h in "${!container[@]}"; do
		[ "$code" = 0 ] || { echo "=== $h" >&2; inside "$h" journalctl --no-pager -o short-precise -n 30 -u flotilla >&2; } || true
		kill -TERM "${container[$h]}" 2>/dev/null || true # ends the container's systemd, at the second time at once
		kill -TERM "${container[$h]}" 2>/dev/null || true
		wait "${container[$h]}" 2>/dev/null || true
	done
	for h in host-a host-b host-c switch; do
		ip netns del "$net-$h" 2>/dev/null || true
	done
	rm -rf --one-file-system "$work"
	exit "$code"
}
trap end EXIT
trap 'exit 1' HUP INT TERM

began=$SECONDS
step() { printf -- '--- readme, %3d s: %s\n' $((SECONDS - began)) "$*"; }
fail() {
	printf 'test-readme: FAILED: %s\n' "$*" >&2
	exit 1
}
inside() { # HOST COMMAND…
	env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root SYSTEMD_PAGER= nsenter -t "${init[$1]}" -a --wdns=/root -- "${@:2}"
}
eventually() { # WHAT COMMAND…: the command succeeds within a minute
	local what=$1 limit=$((SECONDS + 60))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $limit ] || fail "not within a minute: $what"
		sleep 0.2
	done
}

# The README's commands, without what is said about them, and its files.
commands() {
	awk '/^## Exit codes/ {exit} /^## Set up three hosts/ {in_part=1} !in_part {next}
		/^ *```/ {if (in_code) in_code=0; else {in_code=1; is_yaml=/yaml/}; next}
		in_code && !is_yaml {sub(/^ +/, ""); sub(/ +#.*/, ""); if ($0 != "") print}' "$readme"
}
file_of() { # HOST: its agent.yaml
	awk -v want="   On $1:" '$0 == want {found=1} found && /```yaml/ {in_code=1; next} in_code && /```/ {exit} in_code {sub(/^   /, ""); print}' "$readme"
}
commands >"$work/commands"
printf '%s\n' "${elsewhere[@]}" >"$work/run"

# as_written HOST COMMAND: runs a command of the README, with the host's own programs.
as_written() {
	grep -qxF -- "$2" "$work/commands" || fail "README does not say: $2"
	printf '%s\n' "$2" >>"$work/run"
	inside "$1" sh -ec "${3:-$2}"
}
# by_client HOST COMMAND: the same with this machine's programs: an NBD client is no part of the package.
by_client() {
	grep -qxF -- "$2" "$work/commands" || fail "README does not say: $2"
	printf '%s\n' "$2" >>"$work/run"
	# shellcheck disable=SC2016 # the child expands it
	unshare -m sh -ec 'mount --bind /usr "$1/usr"; mount --bind /etc/alternatives "$1/etc/alternatives"; exec chroot "$1" sh -ec "cd /root; $2"' - "${root[$1]}" "$2"
}

for h in host-a host-b host-c switch; do
	ip netns add "$net-$h"
	ip -n "$net-$h" link set lo up
done
ip -n "$net-switch" link add name bridge0 type bridge
ip -n "$net-switch" link set bridge0 up
boot() { # HOST ADDRESS
	root[$1]=$work/$1
	mkdir "$work/$1"
	tar -C "$work/$1" -xf "$system"
	rm -f "$work/$1/etc/machine-id"
	ln -s /dev/null "$work/$1/etc/systemd/system/systemd-networkd-wait-online.service"
	ip -n "$net-$1" link add eth0 type veth peer name "$1" netns "$net-switch"
	ip -n "$net-switch" link set "$1" master bridge0 up
	ip -n "$net-$1" addr add "$2/24" dev eth0
	ip -n "$net-$1" link set eth0 up
	systemd-nspawn -q -D "$work/$1" --register=no --keep-unit --console=pipe --network-namespace-path="/run/netns/$net-$1" --boot </dev/null >"$work/$1.console" 2>&1 &
	container[$1]=$!
}
booted() {
	init[$1]=$(tr -d ' ' <"/proc/${container[$1]}/task/${container[$1]}/children")
	[ -n "${init[$1]}" ] && inside "$1" systemctl is-active multi-user.target
}
boot host-a 192.0.2.1
boot host-b 192.0.2.2
boot host-c 192.0.2.3
for h in host-a host-b host-c; do
	eventually "$h boots" booted "$h"
done

step "1: the package, and the files"
for h in host-a host-b host-c; do
	cp "$package" "${root[$h]}/root/"
	as_written $h 'dpkg -i flotilla_*.deb' >"$work/out" 2>&1 || { cat "$work/out" >&2; fail "dpkg -i on $h"; }
	file_of $h >"${root[$h]}/etc/flotilla/agent.yaml"
	grep -q "name: $h" "${root[$h]}/etc/flotilla/agent.yaml" || fail "README has no file of $h"
done

step "2: the cluster"
as_written host-a 'flotilla cluster init'
as_written host-a 'systemctl enable --now flotilla' 2>/dev/null
[ -e "${root[host-a]}/var/lib/flotilla/identity/ca.key" ] || fail "there is no ca.key where README has it"

step "3: the others join"
for h in host-b host-c; do
	# A host's first moments have no captain yet.
	eventually "a token for $h" as_written host-a 'flotilla cluster token'
	token=$(inside host-a flotilla cluster token 2>/dev/null | grep -m1 -oE '[A-Za-z0-9_.-]{40,}')
	as_written $h 'flotilla cluster join TOKEN' "flotilla cluster join $token"
	as_written $h 'systemctl enable --now flotilla' 2>/dev/null
done

step "4: a group and a volume"
as_written host-a 'truncate -s 1G /srv/data.img'
as_written host-c 'truncate -s 1G /srv/data.img'
eventually "the group" as_written host-b 'flotilla group create db'
as_written host-b 'flotilla volume create db/data --primary host-a --source /srv/data.img --secondary host-c --target /srv/data.img'
copied() { inside host-a flotilla volume list | grep -q whole; }
eventually "the first copy" copied
as_written host-a 'flotilla status'

step "5: clients"
head -c 64M /dev/urandom >"$work/disk.img"
cp "$work/disk.img" "${root[host-a]}/root/disk.img"
served() { by_client host-a "nbdinfo --list 'nbd+unix:///?socket=/var/lib/flotilla/nbd.sock'"; }
eventually "the export" served
served | grep -q db/data || fail "nbdinfo does not list db/data"
by_client host-a "qemu-img convert -n -f raw -O raw disk.img 'nbd+unix:///db/data?socket=/var/lib/flotilla/nbd.sock'"

step "enlarge it"
as_written host-c 'truncate -s 2G /srv/data.img'
as_written host-a 'truncate -s 2G /srv/data.img'
as_written host-a 'flotilla volume resize db/data --wait'

step "look"
status=0
as_written host-a 'flotilla status --watch' 'timeout -s INT 3 flotilla status --watch' >"$work/out" || status=$?
[ $status = 0 ] || [ $status = 124 ] || [ $status = 130 ] || fail "status --watch ends with $status"
grep -q 'db/data' "$work/out" || fail "status --watch shows no volume"
as_written host-a 'flotilla events' >/dev/null
as_written host-a 'flotilla check db --wait' | tail -1
as_written host-a 'flotilla check db --repair'
as_written host-a 'flotilla group set db --check-every 168h'

step "host-a's site is gone"
kill -KILL "${init[host-a]}"
wait "${container[host-a]}" 2>/dev/null || true
unset "container[host-a]"
as_written host-c 'flotilla promote db --plan'
as_written host-c 'flotilla promote db' | tee "$work/out"
grep -q 'data on host-c: nbd://127.0.0.1:10809/db/data,nbd+unix:///db/data?socket=%2Fvar%2Flib%2Fflotilla%2Fnbd.sock' "$work/out" || fail "promote does not print what README shows"
cmp -n $((64 << 20)) "$work/disk.img" "${root[host-c]}/srv/data.img" || fail "what was written on host-a is not on host-c"

LC_ALL=C sort -u "$work/run" >"$work/run.sorted"
LC_ALL=C sort -u "$work/commands" | LC_ALL=C comm -23 - "$work/run.sorted" >"$work/left"
# Blocks that show output, or the same again with other options in a sentence, are no commands.
grep -vE '^(group db is promoted|lost: |data on host-c: )' "$work/left" >"$work/never" || true
[ ! -s "$work/never" ] || { cat "$work/never" >&2; fail "README has the commands above, which nobody has run"; }
printf -- '--- readme passed in %d s\n' $((SECONDS - began))
