#!/usr/bin/env bash
# The simulator: $1 seeds from $2 on, the exploration, and the breaks that must be seen. A seed decides all of its process's
# randomness, so the work goes to processes, as many at a time as there are processors; each takes the next part when it is through.
set -euo pipefail
cd "$(dirname "$0")/../agent/sim"

program=$(realpath ../../bin/sim.test)
export SEEDS=$1 SEED_BASE=$2 program

part() { # test part: its output comes whole
	local out status=0
	out=$("$program" -test.v -test.timeout 60m -test.run "^$1\$" -part "$2" 2>&1) || status=$?
	printf '%s\n' "$out"
	return $status
}
export -f part

# The longest come first. xargs goes on after a failure, and ends with 123.
# shellcheck disable=SC2016 # The child expands it.
{
	for i in {1..4}; do echo TestMutants "$i/4"; done
	for i in {1..4}; do echo TestOutages "$i/4"; done
	for i in 1 2; do echo TestOutageMutants "$i/2"; done
	echo TestPowerCuts 1/1
	echo TestPowerCutMutants 1/1
	for i in {1..3}; do echo TestExplore "$i/3"; done
	for i in {1..10}; do echo TestSeeds "$i/10"; done
} | xargs -P "$(nproc)" -L 1 bash -c 'part "$1" "$2" || exit 1' part
