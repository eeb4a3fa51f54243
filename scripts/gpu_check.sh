#!/usr/bin/env bash
# On a machine with a GPU: builds with CUDA, holds every operation to the portable kernels in double (f32 and bf16), every
# model of tests/goldens to PyTorch's numbers, a short training run to the same on the CPU, and a run stopped and resumed
# to one that was not.
#
#   scripts/gpu_check.sh [BUILD]     BUILD: a folder already built with -DPERCEPT_CUDA=ON (default: build/cuda, built here)
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:-build/cuda}
if [ $# -eq 0 ]; then
    cmake --preset cuda
    cmake --build --preset cuda
fi
export PERCEPT_BIN=$build/bin PERCEPT_NEED_GPU=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
step() { printf '\n=== %s\n' "$1"; }

step "operations, 100 shapes each"
"$build/tests/test_cuda_ops" 100

step "the optimiser, every mixture of types"
"$build/tests/test_cuda_step" >"$work/step.txt" || { grep -v '^ok' "$work/step.txt"; exit 1; }
tail -1 "$work/step.txt"

step "models against PyTorch's numbers"
folders=(tests/goldens/*/)
PERCEPT_DEVICE=cuda "$build/tests/test_parity_folders" "${folders[@]%/}" | tee "$work/parity.txt" | grep -E 'FAIL' && exit 1
echo "$(grep -c ' ok ' "$work/parity.txt") comparisons, none failing"

step "thirty steps on both devices"
"$PERCEPT_BIN/percept-data" scenes "$work/scenes" --images 400 >/dev/null
run() { # DEVICE OUT [more]
    "$PERCEPT_BIN/percept-train" configs/quickstart/pretrain.yaml --set data.root="$work/scenes" \
        --set length.steps=30 --set eval.every=15 --set checkpoint.every=10 --set batch.size=64 \
        --set device="$1" --set out="$work/$2" >/dev/null
}
run cpu cpu
run cuda cuda
run cuda again
cmp "$work/cuda/checkpoints/last.h5" "$work/again/checkpoints/last.h5"
echo "twice on the GPU: the same bytes"
losses() { awk '{ match($0, /"loss": ?[-+0-9.e]+/); s = substr($0, RSTART, RLENGTH); sub(/.*: ?/, "", s); print s }' "$1"; }
paste -d' ' <(losses "$work/cpu/metrics.jsonl") <(losses "$work/cuda/metrics.jsonl") |
    awk '{ d = ($1 - $2) / $1; if (d < 0) d = -d; if (d > worst) worst = d }
         END { printf "losses of CPU and GPU differ by %.1e at most\n", worst; exit !(NR == 30 && worst < 1e-4) }'

step "all of it holds"
