#!/usr/bin/env bash
# Does bf16 on the GPU learn as fp32 on the CPU does? The quickstart's tune stage, its first steps: once on the GPU in bf16,
# and on the CPU in fp32 with three seeds, one of which is the GPU's. All from the same checkpoint, with the same optimiser.
# So for fp8, which is held to bf16 on the GPU as well: --precision fp8 --beside bf16.
#
#   scripts/gpu_curves.sh [--from CHECKPOINT] [--steps 200] [--out DIR] [--optim NAME] [--lr X] [--precision bf16] [--beside fp32]
#
#   --from    where the tune stage starts (default: runs/quickstart/align/checkpoints/best.h5; when it is not there, the
#             stages before are trained on the GPU first)
#   --optim   and --lr: other than the recipe's
#   --beside  what the curve is held to: fp32 on the CPU, or bf16 on the GPU
#   --seeds   of that, the GPU's first (default: "2 3 4")
#
# PERCEPT_BIN: programs built with CUDA (default: build/cuda/bin). SCENES: the pictures (default: build/scenes, drawn when
# absent). Writes OUT/curves.json and OUT/curves.svg; fails when the GPU's curve leaves the spread (scripts/gpu_curves.py).
set -euo pipefail
cd "$(dirname "$0")/.."
from='' steps=200 out=runs/gpu-curves optim='' lr='' precision=bf16 beside=fp32 seeds='2 3 4'
while [ $# -gt 0 ]; do
    [ $# -gt 1 ] || { echo "gpu_curves.sh: $1 needs a value" >&2; exit 2; }
    case $1 in
    --from) from=$2 ;;
    --steps) steps=$2 ;;
    --out) out=$2 ;;
    --optim) optim=$2 ;;
    --lr) lr=$2 ;;
    --precision) precision=$2 ;;
    --beside) beside=$2 ;;
    --seeds) seeds=$2 ;;
    *) echo "gpu_curves.sh: unknown argument '$1'; see its first lines" >&2; exit 2 ;;
    esac
    shift 2
done
bin=${PERCEPT_BIN:-build/cuda/bin}
scenes=${SCENES:-build/scenes}
rm -rf "$out"
mkdir -p "$out"
[ -e "$scenes/tune-train.json" ] || "$bin/percept-data" scenes "$scenes"

move=()
[ -z "$optim" ] || move+=(--set optim.name="$optim")
[ -z "$lr" ] || move+=(--set optim.lr="$lr")
if [ -z "$from" ]; then
    from=runs/quickstart/align/checkpoints/best.h5
    if [ ! -e "$from" ]; then
        first=$out/pretrain/checkpoints/best.h5 from=$out/align/checkpoints/best.h5
        "$bin/percept-train" configs/quickstart/pretrain.yaml --set device=cuda --set data.root="$scenes" \
            --set batch.micro=128 --set out="$out/pretrain" >"$out/pretrain.log"
        "$bin/percept-train" configs/quickstart/align.yaml --set device=cuda --set data.root="$scenes" \
            --set batch.micro=16 --set model.vision_from="$first" --set data.text.tokenizer="$first" \
            --set out="$out/align" >"$out/align.log"
    fi
fi

run() { # NAME SEED DEVICE PRECISION
    local began=$SECONDS
    "$bin/percept-train" configs/quickstart/tune.yaml --set model.from="$from" --set data.root="$scenes" \
        "${move[@]}" --set length.steps="$steps" --set eval.every=0 --set eval.samples=16 \
        --set checkpoint.every=0 --set report.samples=0 --set seed="$2" --set device="$3" --set precision="$4" \
        --set out="$out/$1" >"$out/$1.log" || { cat "$out/$1.log" >&2; return 1; }
    echo "$1: $((SECONDS - began)) s"
}
others=() device=cpu
[ "$beside" = fp32 ] || device=cuda
run gpu "${seeds%% *}" cuda "$precision"
for seed in $seeds; do
    run "$beside-$seed" "$seed" "$device" "$beside"
    others+=("$out/$beside-$seed/metrics.jsonl")
done
python3 scripts/gpu_curves.py "$out" "$out/gpu/metrics.jsonl" "${others[@]}"
