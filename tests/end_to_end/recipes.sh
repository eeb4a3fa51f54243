#!/usr/bin/env bash
# Every recipe in configs/ runs as it stands for a few steps: on scenes in the layout of the example sets, on the sets
# themselves where ../shared has them, and the quickstart's three one after the other. docs/recipes.md is what
# the program prints.
set -euo pipefail
bin=${PERCEPT_BIN:-build/bin}
shared=${PERCEPT_SHARED:-../shared}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
fail() { echo "FAILED: $*"; [ -f "$tmp/log" ] && cat "$tmp/log"; exit 1; }

"$bin/percept-train" --reference | cmp - docs/recipes.md ||
    fail "docs/recipes.md is old: percept-train --reference >docs/recipes.md"
"$bin/percept-train" --schema >"$tmp/schema.json" || fail "schema"

"$bin/percept-data" scenes "$tmp/scenes" --images 64 --size 64 --seed 3 >"$tmp/log" || fail "scenes"
ln -s scenes "$tmp/set"
for name in captions vqa; do
    for file in "$tmp"/scenes/$name-{train,val}.json*; do
        ln -s "$(basename "$file")" "${file/$name-/${name}_}"
    done
done

short=(--set length.epochs=0 --set length.steps=2 --set eval.samples=8 --set report.samples=1)
run() { # recipe, folder, further settings
    local recipe=$1 out=$2
    shift 2
    "$bin/percept-train" "$recipe" "${short[@]}" --set out="$out" "$@" >"$tmp/log" 2>&1 ||
        fail "$recipe $*"
    [ -s "$out/checkpoints/best.h5" ] && [ -s "$out/report.html" ] || fail "$recipe left no result"
}

for recipe in configs/examples/*.yaml; do
    name=$(basename "$recipe" .yaml)
    run "$recipe" "$tmp/$name" --set data.root="$tmp/set" --set batch.size=8 --set batch.micro=4
    root=$(sed -n 's/^  root: *//p' "$recipe")
    real=$shared/${root#../shared/}
    if [ -d "$real" ]; then
        run "$recipe" "$tmp/$name-real" --set data.root="$real"
        echo "$name: scenes and $real"
    else
        echo "$name: scenes ($real is not there)"
    fi
done

q=$tmp/quickstart
tower=$q/pretrain/checkpoints/best.h5
run configs/quickstart/pretrain.yaml "$q/pretrain" --set data.root="$tmp/scenes" \
    --set batch.size=16 --set batch.micro=8
run configs/quickstart/align.yaml "$q/align" --set data.root="$tmp/scenes" \
    --set model.vision_from="$tower" --set data.text.tokenizer="$tower"
run configs/quickstart/tune.yaml "$q/tune" --set data.root="$tmp/scenes" \
    --set model.from="$q/align/checkpoints/best.h5"
echo "quickstart: three stages"

# Those for a GPU, on the CPU and with fewer samples a step.
g=$tmp/gpu
tower=$g/pretrain/checkpoints/best.h5
small=(--set device=cpu --set precision=auto --set data.root="$tmp/scenes" --set batch.size=4 --set batch.micro=2)
run configs/gpu/scenes-large-pretrain.yaml "$g/pretrain" "${small[@]}"
run configs/gpu/scenes-large-align.yaml "$g/align" "${small[@]}" \
    --set model.vision_from="$tower" --set data.text.tokenizer="$tower"
run configs/gpu/scenes-large-tune.yaml "$g/tune" "${small[@]}" --set model.from="$g/align/checkpoints/best.h5"
echo "scenes-large: three stages"
