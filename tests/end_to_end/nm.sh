#!/usr/bin/env bash
# nm.sh - one forward. percept holds no backward symbol, and every forward function that both programs hold
# comes from the same member of the same archive in both: what answers is what was trained.
set -euo pipefail

bin=${PERCEPT_BIN:-build/bin}
fail=0

say() { printf '%s\n' "$*"; }

if nm "$bin/percept" | grep -q ' __asan_init\| __tsan_init\| __ubsan_handle'; then
    say "skipped: a sanitizer's build keeps unused sections"
    exit 0
fi

# 1. No backward code, and no optimiser, in the program that answers.
if nm "$bin/percept" | awk '{print $NF}' | grep -E '_backward(_|\.|$)|adamw|square_sum|grad_ops' >"${TMPDIR:-/tmp}/nm.$$"; then
    say "percept holds backward code:"
    sed 's/^/  /' "${TMPDIR:-/tmp}/nm.$$"
    fail=1
fi
rm -f "${TMPDIR:-/tmp}/nm.$$"

# The check can fail: the program that trains does hold it.
backward=$(nm "$bin/percept-train" | grep -c '_backward') || true
if [ "$backward" -lt 20 ]; then
    say "percept-train holds $backward backward symbols: the names have changed, and this test sees nothing"
    fail=1
fi

# 2. "function archive(member)" of every forward function that was linked in, from the linker's map.
members() {
    awk '
        /^Linker script and memory map/ { linked = 1 }
        !linked { next }
        /^ \.text\.[^ ]+$/ { section = $1; next }            # the address stands on the next line
        /^ \.text\.[^ ]+ +0x/ { section = $1; address = $2; size = $3; file = $4; found() ; next }
        section != "" && /^ +0x/ { address = $1; size = $2; file = $3; found(); next }
        { section = "" }
        function found() {
            if (section ~ /_forward/ && address !~ /^0x0+$/ && size !~ /^0x0+$/) {
                sub(/^\.text\./, "", section)
                sub(/.*\//, "", file)
                print section, file
            }
            section = ""
        }' "$1" | LC_ALL=C sort -u
}
members "$bin/percept.map" >"$bin/percept.forward"
members "$bin/percept-train.map" >"$bin/percept-train.forward"
both=$(LC_ALL=C comm -12 "$bin/percept.forward" "$bin/percept-train.forward" | wc -l)
# What percept computes is computed by percept-train too, by the same code: nothing answers that was not trained.
alone=$(LC_ALL=C comm -23 "$bin/percept.forward" "$bin/percept-train.forward")
if [ "$both" -lt 40 ]; then
    say "only $both forward functions are in both programs"
    fail=1
fi
if [ -n "$alone" ]; then
    say "forward functions of percept that percept-train does not have from the same member:"
    say "$alone"
    fail=1
fi

[ "$fail" -eq 0 ] && say "no backward symbol in percept ($backward in percept-train); $both forward functions, each the same member in both"
exit "$fail"
