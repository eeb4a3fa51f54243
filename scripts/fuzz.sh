#!/usr/bin/env bash
# Fuzzes every reader of foreign bytes: builds the libFuzzer targets of tests/fuzz with clang (address and undefined
# sanitizers), starts each from its seeds, and runs it for a while. Stops at the first find, which lies as
# crash-* or slow-* in the target's folder.
#
#   scripts/fuzz.sh SECONDS [TARGET...]     e.g. scripts/fuzz.sh 20; scripts/fuzz.sh 600 gguf native
#
# Build and corpora: $PERCEPT_FUZZ_DIR, build/fuzz unless set. What was found of interest is kept for the next run.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-}
[[ $seconds =~ ^[0-9]+$ ]] || {
    echo "usage: scripts/fuzz.sh SECONDS [TARGET...]" >&2
    exit 2
}
shift
dir=${PERCEPT_FUZZ_DIR:-build/fuzz}
cmake -S . -B "$dir" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_C_COMPILER=clang -DPERCEPT_FUZZ=ON \
    ${PERCEPT_CMAKE_ARGS:-} >/dev/null
cmake --build "$dir" --target fuzz
"$dir/fuzz/fuzz_seeds" "$dir/seeds"

targets=("$@")
[ ${#targets[@]} -gt 0 ] || for f in tests/fuzz/fuzz_*.c; do
    name=$(basename "$f" .c)
    targets+=("${name#fuzz_}")
done

# A file may cost a fixed amount of memory and what it holds itself: seeds are small, so 1 GB is generous.
failed=0
for name in "${targets[@]}"; do
    mkdir -p "$dir/corpus/$name" "$dir/finds/$name" "$dir/seeds/$name"
    log=$dir/finds/$name/log
    status=0
    # The library of HDF5 is not ours to mend: its leaks do not stop the search.
    leaks=1
    [ "$name" != native ] || leaks=0
    ASAN_OPTIONS=detect_leaks=$leaks:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
        "$dir/fuzz/fuzz_$name" -max_total_time="$seconds" -max_len=65536 -timeout=10 -rss_limit_mb=1024 \
        -print_final_stats=1 -detect_leaks=$leaks -artifact_prefix="$dir/finds/$name/" \
        "$dir/corpus/$name" "$dir/seeds/$name" >"$log" 2>&1 || status=$?
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -1)
    rate=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log" | tail -1)
    peak=$(sed -n 's/^stat::peak_rss_mb: *//p' "$log" | tail -1)
    edges=$(grep -o 'cov: [0-9]*' "$log" | tail -1)
    printf '%-16s %10s runs  %7s a second  %-10s  %4s MB  %s\n' "$name" "${runs:-?}" "${rate:-?}" "${edges:-cov: ?}" \
        "${peak:-?}" "$([ $status -eq 0 ] && echo clean || echo "FOUND SOMETHING: $log")"
    [ $status -eq 0 ] || failed=1
done
exit $failed
