#!/usr/bin/env bash
# Runs every command once under valgrind at the smallest size and fails on any leak or error at exit.
#   scripts/leaks.sh [FOLDER OF BINARIES]
# The portable kernels are used: valgrind does not know AVX-512.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$(realpath "${1:-build/bin}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PERCEPT_ISA=ref OPENBLAS_NUM_THREADS=1 OPENBLAS_CORETYPE=Haswell

check() { # NAME COMMAND...
    local name=$1
    shift
    if valgrind --quiet --leak-check=full --show-leak-kinds=definite,indirect --errors-for-leak-kinds=definite,indirect \
        --error-exitcode=99 "$@" >"$work/$name.out" 2>"$work/$name.err"; then
        echo "no leak: $name"
    else
        echo "FAILED ($?): $*" >&2
        tail -40 "$work/$name.err" >&2
        exit 1
    fi
}

data=$work/scenes run=$work/run
"$bin/percept-data" scenes "$data" --images 16 --seed 5 >/dev/null
small=(--set "data.root=$data" --set length.steps=2 --set batch.size=4 --set batch.micro=2 --set eval.samples=2
    --set report.samples=1)
tower=$run/pretrain/checkpoints/best.h5 model=$run/tune/checkpoints/best.h5 image=$data/images/test_00000.png

check data-scenes "$bin/percept-data" scenes "$work/again" --images 4
check data-check "$bin/percept-data" check "$data/vqa-val.json"
check data-tokenizer "$bin/percept-data" tokenizer train "$data/captions-val.jsonl" --out "$work/tokenizer.json" --vocab 300
check train-plan "$bin/percept-train" configs/quickstart/pretrain.yaml "${small[@]}" --set "out=$run/plan" --plan
check train-pretrain "$bin/percept-train" configs/quickstart/pretrain.yaml "${small[@]}" --set "out=$run/pretrain"
check train-align "$bin/percept-train" configs/quickstart/align.yaml "${small[@]}" --set "out=$run/align" \
    --set "model.vision_from=$tower" --set "data.text.tokenizer=$tower"
check train-tune "$bin/percept-train" configs/quickstart/tune.yaml "${small[@]}" --set "out=$run/tune" \
    --set "model.from=$run/align/checkpoints/best.h5"
check train-reference "$bin/percept-train" --reference
check data-render "$bin/percept-data" tokenize "$model" <<<"Is there a star?"
check data-preprocess "$bin/percept-data" preprocess "$model" "$image" --out "$work/pixels.safetensors"
check convert-inspect "$bin/percept-convert" inspect "$model"
check ask "$bin/percept" ask "$model" --image "$image" "Is there a star?"
check embed "$bin/percept" embed "$tower" --image "$image"
check eval-vqa "$bin/percept" eval "$model" "vqa=$data/qa-test.jsonl" --samples 3 --report "$work/report.html"
check eval-retrieval "$bin/percept" eval "$tower" "retrieval=$data/captions-test.jsonl" --samples 3
check logits "$bin/percept" logits tests/goldens/clip --inputs tests/goldens/clip/inputs.safetensors --out "$work/o.safetensors"
check gradients "$bin/percept-train" gradients tests/goldens/clip --inputs tests/goldens/clip/inputs.safetensors \
    --out "$work/g.safetensors"
