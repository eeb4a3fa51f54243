#!/usr/bin/env bash
# Killed with SIGKILL at random moments, 20 times, and resumed each time: the run ends in the same bytes as one
# that was never stopped. Both kinds of model; twenty kills over as many starts as it takes.
set -euo pipefail
bin=${PERCEPT_BIN:-build/bin}
seed=${KILL_SEED:-$RANDOM}
RANDOM=$seed
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
echo "seed $seed (KILL_SEED=$seed repeats the moments)"

"$bin/percept-data" scenes "$tmp/scenes" --images 64 --size 32 --seed 9 >"$tmp/scenes.log"

cat >"$tmp/tune.yaml" <<EOF
stage: tune
model:
  shape:
    vision: {image_size: 32, patch: 8, C: 32, H: 2, L: 2, class_token: false}
    projector: {depth: 1, out: 32}
    decoder: {C: 32, H: 2, L: 2, T: 256}
  train: {vision: full}
data:
  root: $tmp/scenes
  train: [{path: vqa-train.json}]
  val: [{path: vqa-val.json}]
  text: {tokenizer: {train: {vocab: 320}}, branches: true, max_turns: 3}
batch: {size: 8, micro: 2}
length: {steps: 60}
dropout: 0.1
optim: {lr: 2e-3}
eval: {every: 10}
checkpoint: {every: 4, keep: 2}
compute: {threads: 2}
report: {samples: 2}
EOF
cat >"$tmp/pretrain.yaml" <<EOF
stage: pretrain
model:
  shape:
    vision: {image_size: 32, patch: 8, C: 32, H: 2, L: 2, E: 32}
    text: {C: 32, H: 2, L: 1, T: 96}
data:
  root: $tmp/scenes
  train: [{path: captions-train.jsonl}]
  val: [{path: captions-val.jsonl}]
  text: {tokenizer: {train: {vocab: 320}}}
batch: {size: 16, micro: 4}
length: {steps: 60}
dropout: 0.1
optim: {lr: 2e-3}
eval: {every: 10}
checkpoint: {every: 4, keep: 2}
compute: {threads: 2, replay: on}
report: {samples: 2}
EOF

train() { # recipe, folder
    "$bin/percept-train" "$tmp/$1.yaml" --set out="$tmp/$2" --resume
}

same() { # stage, folder: the same checkpoints and a whole list of steps
    for file in last.h5 best.h5 step-56.h5 step-60.h5; do
        cmp "$tmp/$1-unbroken/checkpoints/$file" "$2/checkpoints/$file"
    done
    steps=$(sed 's/{"step": \([0-9]*\),.*}/\1/' "$2/metrics.jsonl" | tr '\n' ' ')
    [ "$steps" = "$(seq -s ' ' 1 60) " ] || { echo "metrics.jsonl has steps $steps"; return 1; }
    [ -s "$2/report.html" ] || { echo "no report"; return 1; }
}

kills=0
for stage in tune pretrain; do
    start=$(date +%s%N)
    train $stage $stage-unbroken >"$tmp/log" 2>&1 || { cat "$tmp/log"; exit 1; }
    whole=$(( ($(date +%s%N) - start) / 1000000 ))
    want=$((kills + 10))
    round=0
    while [ $kills -lt $want ]; do
        folder=$stage-$round
        while [ $kills -lt $want ]; do
            "$bin/percept-train" "$tmp/$stage.yaml" --set out="$tmp/$folder" --resume >"$tmp/log" 2>&1 &
            pid=$!
            # Anywhere from before the first step to about the end of a whole run.
            sleep "$(awk -v r=$RANDOM -v w=$whole 'BEGIN { printf "%.3f", (0.02 + 0.9 * r / 32768) * w / 1000 }')"
            if kill -KILL $pid 2>/dev/null; then
                wait $pid 2>/dev/null || true
                kills=$((kills + 1))
                echo "$stage: kill $kills in $folder, checkpoints: $(ls "$tmp/$folder/checkpoints" 2>/dev/null | tr '\n' ' ')"
            else
                wait $pid || { echo "$stage: failed by itself"; cat "$tmp/log"; exit 1; }
                break
            fi
        done
        train $stage $folder >"$tmp/log" 2>&1 || { echo "$stage: resume failed"; cat "$tmp/log"; exit 1; }
        same $stage "$tmp/$folder"
        echo "$stage: $folder ends in the same bytes"
        round=$((round + 1))
    done
done
echo "$kills kills"
