#!/usr/bin/env bash
# On a machine with a GPU: builds with CUDA, holds every operation to the portable kernels in double (f32 and bf16), every
# model of tests/goldens to PyTorch's numbers, short runs of the three stages to the same on the CPU (fp32, bf16 with fp32
# originals, bf16 alone; fp8 to bf16 on the GPU), and runs stopped and resumed to ones that were not. Kernels are looked at by
# compute-sanitizer.
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
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | sed -n '1s/[.]//p') # 90 of a 9.0
step() { printf '\n=== %s\n' "$1"; }

step "operations, 100 shapes each"
"$build/tests/test_cuda_ops" 100

step "the optimiser, every mixture of types"
"$build/tests/test_cuda_step" >"$work/step.txt" || { grep -v '^ok' "$work/step.txt"; exit 1; }
tail -1 "$work/step.txt"

step "reads, writes and races of the operations' kernels at small shapes"
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null || true)
if [ -z "$sanitizer" ]; then
    echo "NOT CHECKED: compute-sanitizer is not there"
else
    for tool in memcheck racecheck; do
        "$sanitizer" --tool $tool --error-exitcode 9 "$build/tests/test_cuda_ops" 1 >"$work/$tool.txt" || { grep -v '^ok' "$work/$tool.txt" | head -40; exit 1; }
        tail -1 "$work/$tool.txt"
    done
fi

step "models against PyTorch's numbers"
folders=()
for config in tests/goldens/*/config.json; do
    # Rotary tables by the length of a pass are the CPU's alone: the GPU refuses them by name.
    [ "$config" = tests/goldens/dynamic_ntk/config.json ] || folders+=("${config%/config.json}")
done
PERCEPT_DEVICE=cuda "$build/tests/test_parity_folders" "${folders[@]}" | tee "$work/parity.txt" | grep -E 'FAIL' && exit 1
echo "$(grep -c ' ok ' "$work/parity.txt") comparisons, none failing"

step "ids of greedy and sampled generation against the CPU's"
"$build/tests/test_cuda_generate" >"$work/generate.txt" || { grep -v '^ok' "$work/generate.txt"; exit 1; }
echo "$(grep -c '^ok' "$work/generate.txt") comparisons, none failing"

"$PERCEPT_BIN/percept-data" scenes "$work/scenes" --images 400 >/dev/null
# STAGE OUT [key=value]...: the quickstart's recipe of a stage, short, in a folder of its own. Nothing of it depends on how many
# steps there are to be, so that a run may be stopped by its length.
train() {
    local stage=$1 out=$2 set sets=()
    shift 2
    case $stage in
    align) sets+=(--set "model.vision_from=$work/pretrain/checkpoints/best.h5"
        --set "data.text.tokenizer=$work/pretrain/checkpoints/best.h5") ;;
    tune) sets+=(--set "model.from=$work/align/checkpoints/best.h5") ;;
    esac
    for set in data.root="$work/scenes" out="$work/$out" optim.schedule=constant optim.warmup=0 optim.lr=1e-3 length.steps=30 \
        eval.every=15 eval.samples=32 checkpoint.every=15 report.samples=2 batch.micro=8 "$@"; do
        if [ "$set" = --resume ]; then sets+=("$set"); else sets+=(--set "$set"); fi
    done
    "$PERCEPT_BIN/percept-train" "configs/quickstart/$stage.yaml" "${sets[@]}" >/dev/null 2>"$work/log" || { cat "$work/log"; exit 1; }
}
same() { cmp "$work/$1/checkpoints/last.h5" "$work/$2/checkpoints/last.h5"; }
losses() { awk '{ match($0, /"loss": ?[-+0-9.e]+/); s = substr($0, RSTART, RLENGTH); sub(/.*: ?/, "", s); print s }' "$work/$1/metrics.jsonl"; }
close_to() { # A B TOLERANCE: of every step's loss, relative
    paste -d' ' <(losses "$1") <(losses "$2") |
        awk -v a="$1" -v b="$2" -v most="$3" '{ d = ($1 - $2) / $1; if (d < 0) d = -d; if (!(d <= worst)) worst = d }
             END { printf "%-16s and %-16s: losses of %d steps differ by %.1e at most, %.0e allowed\n", a, b, NR, worst, most
                   exit !(NR == 30 && worst < most) }'
}
for stage in pretrain align tune; do
    step "$stage: thirty steps on both devices, in fp32 and in bf16; twice; stopped and gone on with"
    train $stage $stage device=cpu
    train $stage $stage-fp32 device=cuda precision=fp32
    close_to $stage $stage-fp32 1e-4 # seen: 2e-7
    train $stage $stage-bf16 device=cuda precision=bf16
    close_to $stage $stage-bf16 1e-2 # seen: 2.4e-3, 7e-4, 8e-4
    train $stage $stage-again device=cuda precision=bf16
    same $stage-bf16 $stage-again
    PERCEPT_GPU_GRAPH=0 train $stage $stage-told device=cuda precision=bf16
    same $stage-bf16 $stage-told
    train $stage $stage-stopped device=cuda precision=bf16 length.steps=15
    train $stage $stage-stopped device=cuda precision=bf16 --resume
    same $stage-bf16 $stage-stopped
    narrow=(device=cuda precision=bf16 optim.master=none optim.moments=bf16 optim.gradients=bf16)
    train $stage $stage-narrow "${narrow[@]}"
    close_to $stage $stage-narrow 2e-2 # seen: 3.5e-3, 9e-4, 1.1e-3
    train $stage $stage-narrow-stopped "${narrow[@]}" length.steps=15
    train $stage $stage-narrow-stopped "${narrow[@]}" --resume
    same $stage-narrow $stage-narrow-stopped
    echo "twice, without graphs, and stopped and resumed, with fp32 originals and without: the same bytes"
done

step "what the GPU trained in bf16, asked on the CPU and on the GPU"
images=("$work"/scenes/images/test_*.png)
for way in cpu:fp32 cuda:fp32 cuda:bf16; do
    printf '%s: ' "$way"
    PERCEPT_DEVICE=${way%:*} PERCEPT_PRECISION=${way#*:} "$PERCEPT_BIN/percept" ask "$work/tune-bf16/checkpoints/best.h5" \
        --image "${images[0]}" --greedy --max-tokens 16 "What is there?"
done

step "products in eight bits, and thirty steps with them; stopped and gone on with"
"$build/tests/test_cuda_fp8"
for stage in pretrain align tune; do
    [ "$capability" -ge 89 ] || break
    train $stage $stage-fp8 device=cuda precision=fp8
    close_to $stage-bf16 $stage-fp8 5e-2 # seen: 3.1e-2, 3.5e-3, 1.2e-2
    train $stage $stage-fp8-stopped device=cuda precision=fp8 length.steps=15
    train $stage $stage-fp8-stopped device=cuda precision=fp8 --resume
    same $stage-fp8 $stage-fp8-stopped
done
[ "$capability" -lt 89 ] || echo "stopped and resumed: the same bytes"

step "all of it holds"
