#!/usr/bin/env bash
# Low-rank adapters from end to end: trained from a published-style directory, written as a PEFT folder, read again beside
# the directory they came from, and merged; each gives the logits of the checkpoint that was trained.
set -euo pipefail
bin=${PERCEPT_BIN:-build/bin}
base=${PERCEPT_SHARED:-../shared}/goldens/llava_tiny
if [ ! -d "$base" ]; then
    echo "skipped: $base is not there"
    [ "${CI:-}" != true ]
    exit
fi
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
fail() { echo "FAILED: $*"; [ -f "$tmp/log" ] && tail -20 "$tmp/log"; exit 1; }

"$bin/percept-data" scenes "$tmp/scenes" --images 24 --size 32 >"$tmp/log" 2>&1 || fail "scenes"
"$bin/percept-data" tokenizer train README.md --vocab 290 --out "$tmp/tokenizer.json" \
    >"$tmp/log" 2>&1 || fail "tokenizer"
cat >"$tmp/lora.yaml" <<YAML
stage: tune
model:
  from: $base
  train: {vision: lora, projector: lora, decoder: lora}
  lora: {r: 3, alpha: 12, dropout: 0.1, targets: [all-linear]}
data:
  root: $tmp/scenes
  train: [{path: vqa-train.json}]
  text: {tokenizer: $tmp/tokenizer.json, template: short, max_turns: 1}
batch: {size: 4}
length: {steps: 4}
optim: {lr: 1e-2, warmup: 1}
out: $tmp/run
YAML
"$bin/percept-train" "$tmp/lora.yaml" >"$tmp/log" 2>&1 || fail "percept-train"
last=$tmp/run/checkpoints/last.h5
"$bin/percept-convert" export "$last" --format peft --out "$tmp/peft" >"$tmp/log" 2>&1 || fail "export"
"$bin/percept-convert" merge "$base" --adapter "$tmp/peft" --out "$tmp/merged.h5" >"$tmp/log" 2>&1 || fail "merge"

logits() { # a name, then the model
    local name=$1
    shift
    "$bin/percept" logits "$@" --inputs "$base/inputs.safetensors" --out "$tmp/$name.safetensors" |
        sed -n 's/^loss //p'
}
bare=$(logits bare "$base")
trained=$(logits trained "$last")
beside=$(logits beside "$base" --adapter "$tmp/peft")
merged=$(logits merged "$tmp/merged.h5")
cmp "$tmp/trained.safetensors" "$tmp/beside.safetensors" || fail "the PEFT folder gives other logits"
awk -v a="$trained" -v b="$merged" -v c="$bare" 'BEGIN {
    near = (a - b) / a; near = near < 0 ? -near : near; far = (a - c) / a; far = far < 0 ? -far : far
    exit !(near < 1e-5 && far > 1e-3) }' ||
    fail "loss $trained trained, $merged merged, $bare without adapters"
echo "loss $bare without adapters, $trained with them, beside the weights $beside, merged $merged"
