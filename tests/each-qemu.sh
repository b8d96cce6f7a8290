# shellcheck shell=bash
# SPDX-License-Identifier: BSD-3-Clause
# For scripts that run a suite of tests/run with each QEMU at hand: the installed one and those that
# tests/qemu/fetch gets from the distribution's backports and its unstable branch.  One that can't be
# had is a skip.  Sourced, after `suite` and `build` were set.
tests=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
passed=0 failed=0 skipped=0

log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT

# Adds a run's closing line "N passed, N failed, N skipped"; one that prints none has failed.
add_up()
{
	local line
	line=$(grep -E '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$log" | tail -n 1)
	# shellcheck disable=SC2086 # the numbers are meant to split
	set -- ${line//[^0-9 ]/}
	passed=$((passed + ${1:-0})) failed=$((failed + ${2:-1})) skipped=$((skipped + ${3:-0}))
}

run_with() # QEMU
{
	local start=$SECONDS
	"$1" --version | head -n 1
	# shellcheck disable=SC2154 # the caller sets these
	FERRY_QEMU=$1 "$tests/run" --build "$build" "$suite" >"$log" 2>&1
	sed 's/^\([0-9]* passed, \)/    \1/' "$log"
	echo "    after $((SECONDS - start)) s"
	add_up
}

run_fetched() # SUITE OF THE DISTRIBUTION
{
	local qemu
	if qemu=$("$tests/qemu/fetch" "$1"); then
		run_with "$qemu"
	else
		echo "$suite: skipped: the QEMU of $1 can't be had (see above)"
		skipped=$((skipped + 1))
	fi
}

# With one QEMU, where it is named, or with each.  The last line sums up.
run_all() # [QEMU]
{
	if [ $# -gt 0 ]; then
		run_with "$1"
	else
		run_with qemu-system-x86_64
		run_fetched backports
		run_fetched unstable
	fi
	echo "$passed passed, $failed failed, $skipped skipped"
	[ "$failed" = 0 ]
}
