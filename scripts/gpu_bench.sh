#!/usr/bin/env bash
# Ours and PyTorch's in one go, on one GPU: training steps of LLaVA-1.5-7B and CLIP in their published shapes, and decoding.
#
#   scripts/gpu_bench.sh [--rows a,b,...] [--only ours|pytorch] [--steps N] [--build DIR] [--venv DIR] [--out FILE]
#
#   --rows   which of tests/bench/gpu_shapes.json (default: all); "none" for the ceilings alone
#   --build  a folder built with -DPERCEPT_CUDA=ON (default: build/cuda, built here)
#   --venv   an environment with PyTorch and transformers (default: build/venv-gpu, made here)
#   --out    JSON lines, one a measurement; added to what is there (default: build/gpu_bench.jsonl, begun anew)
#   --limit  seconds that one process may take: ours has one a row, PyTorch one for all (default: 500)
#
# First the ceilings: a large product in bf16, ours and PyTorch's, and a large copy. Then every row. docs/gpu.md tells how
# to read the table. A row that fails says why; the others go on.
set -euo pipefail
cd "$(dirname "$0")/.."
rows='' only='' steps=10 build='' venv='' out='' limit=500
while [ $# -gt 0 ]; do
    [ $# -gt 1 ] || { echo "gpu_bench.sh: $1 needs a value" >&2; exit 2; }
    case $1 in
    --rows) rows=$2 ;;
    --only) only=$2 ;;
    --steps) steps=$2 ;;
    --build) build=$2 ;;
    --venv) venv=$2 ;;
    --out) out=$2 ;;
    --limit) limit=$2 ;;
    *) echo "gpu_bench.sh: unknown argument '$1'; see its first lines" >&2; exit 2 ;;
    esac
    shift 2
done
case $only in '' | ours | pytorch) ;; *) echo "gpu_bench.sh: --only ours or --only pytorch" >&2; exit 2 ;; esac

if [ -z "$build" ] && [ "$only" != pytorch ]; then
    build=build/cuda
    cmake --preset cuda && cmake --build --preset cuda
fi
if [ -z "$venv" ] && [ "$only" != ours ]; then
    venv=build/venv-gpu
    if ! "$venv/bin/python" -c 'import torch, transformers' 2>/dev/null; then
        python3 -m venv "$venv"
        "$venv/bin/python" -m pip install --quiet numpy torch transformers
    fi
fi
if [ -z "$out" ]; then
    out=build/gpu_bench.jsonl
    mkdir -p build
    : >"$out"
fi
python=${venv:+$venv/bin/python}
python=${python:-python3}
peer=scripts/gpu_bench_peer.py
all=full,lora,align,l14,l14-336,b32,decode-7b,decode-13b
rows=${rows:-$all}
[ "$rows" != none ] || rows=''

log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'exit 130' INT TERM

# NAME COMMAND...: its JSON lines go to $out (gpu_decode's line is made one) and stay in $log; what went wrong, to $why.
measure() {
    local name=$1 code=0 began=$SECONDS
    shift
    timeout "$limit" "$@" >"$log" 2>"$log.err" || code=$?
    sed -i -E 's/^decode .* ?prefill_ms ([0-9.]+) token_ms ([0-9.]+).*/{"row": "'"$name"'", "who": "percept", "prefill_ms": \1, "token_ms": \2}/' "$log"
    grep '^{' "$log" >>"$out" || true
    why=''
    if [ "$code" -ne 0 ]; then
        why=$(grep -vE '^\s*$' "$log.err" | tail -1 | tr -d '"\\\000-\037' | cut -c1-300)
        [ "$code" -ne 124 ] || why="took longer than $limit s"
        why=${why:-status $code}
    fi
    rm -f "$log.err"
    printf '%-24s %4d s\n' "$name" $((SECONDS - began)) >&2
}

failed() { # ROW WHO
    printf '{"row": "%s", "who": "%s", "failed": "%s"}\n' "$1" "$2" "${why:-no result}" >>"$out"
}

ours() { # ROW
    local tests=$build/tests
    case $1 in
    decode-*) measure "$1" "$tests/gpu_decode" --model "${1#decode-}" ;;
    *) measure "$1" "$tests/gpu_train" --json --row "$1" --steps "$steps" ;;
    esac
    grep -q '^{' "$log" || failed "$1" percept
    [ "$1" = full ] || return 0
    # Beside the like of PyTorch's numbers, those that a run has by default.
    measure "$1" "$tests/gpu_train" --json --row "$1" --steps "$steps" --master --moments fp32 --grads fp32
    grep -q '^{' "$log" || failed "$1" "percept fp32 master, moments and gradients"
}

theirs() { # ROWS...: one process, as importing takes long; another one behind the row at which it dies
    while [ $# -gt 0 ]; do
        local names left=() row
        names=$(IFS=,; echo "$*")
        measure PyTorch "$python" $peer --rows "$names" --steps "$steps"
        for row; do grep -q "\"row\": \"$row\"" "$log" || left+=("$row"); done
        [ ${#left[@]} -gt 0 ] || return 0
        failed "${left[0]}" PyTorch
        set -- "${left[@]:1}"
    done
}

IFS=, read -ra list <<<"$rows"
if [ "$only" != pytorch ]; then
    measure ceiling "$build/tests/gpu_train" --ceiling --json
    grep -q '^{' "$log" || failed ceiling percept
    for row in "${list[@]}"; do ours "$row"; done
fi
[ "$only" = ours ] || theirs ceiling "${list[@]}"
"$python" $peer --table "$out"
