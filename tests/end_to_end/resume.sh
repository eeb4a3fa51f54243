#!/usr/bin/env bash
# Signals and full disks: SIGTERM ends a step, writes and exits 0; a second start needs --resume; an unwritable
# folder is an error that leaves what was written; the same recipe twice gives the same bytes.
set -euo pipefail
bin=${PERCEPT_BIN:-build/bin}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"$bin/percept-data" scenes "$tmp/scenes" --images 64 --size 32 --seed 9 >"$tmp/scenes.log"
cat >"$tmp/tune.yaml" <<EOF
stage: tune
model:
  shape:
    vision: {image_size: 32, patch: 8, C: 32, H: 2, L: 2, class_token: false}
    projector: {depth: 1, out: 32}
    decoder: {C: 32, H: 2, L: 2, T: 256}
data:
  root: $tmp/scenes
  train: [{path: vqa-train.json}]
  val: [{path: vqa-val.json}]
  text: {tokenizer: {train: {vocab: 320}}, branches: true}
batch: {size: 8, micro: 2}
length: {steps: 200}
checkpoint: {every: 50}
compute: {threads: 2}
report: {samples: 2}
EOF
fail() { echo "FAILED: $*"; [ -f "$tmp/log" ] && cat "$tmp/log"; exit 1; }
train() { "$bin/percept-train" "$tmp/tune.yaml" "$@" >"$tmp/log" 2>&1; }

train --set out="$tmp/a" || fail "first run"
train --set out="$tmp/b" || fail "second run"
cmp "$tmp/a/checkpoints/last.h5" "$tmp/b/checkpoints/last.h5" || fail "the same recipe twice differs"
train --set out="$tmp/a" && fail "a used folder was accepted"
grep -q -- --resume "$tmp/log" || fail "the message does not name --resume"

for signal in TERM INT; do
    "$bin/percept-train" "$tmp/tune.yaml" --set out="$tmp/$signal" >"$tmp/log" 2>&1 &
    pid=$!
    until [ -s "$tmp/$signal/metrics.jsonl" ] || [ -e "$tmp/$signal/recipe.yaml" ]; do sleep 0.01; done
    kill -$signal $pid
    wait $pid || fail "SIG$signal: exit status $?"
    [ -s "$tmp/$signal/checkpoints/last.h5" ] || fail "SIG$signal: nothing written"
    if [ ! -s "$tmp/$signal/report.html" ]; then # it was not over already
        line=$(grep -o 'percept-train .*recipe.yaml --resume' "$tmp/log") || fail "SIG$signal: no way to resume told"
        "$bin/"$line >"$tmp/log" 2>&1 || fail "SIG$signal: resume by '$line'"
    fi
    cmp "$tmp/a/checkpoints/last.h5" "$tmp/$signal/checkpoints/last.h5" || fail "SIG$signal: other bytes"
    echo "SIG$signal: stopped, resumed, same bytes"
done

# No room for a checkpoint (files end at 200 KiB): the error names the file, nothing half is left, and with room
# the run goes on to the same bytes.
(
    trap '' XFSZ
    ulimit -f 200
    "$bin/percept-train" "$tmp/tune.yaml" --set out="$tmp/full" >"$tmp/log" 2>&1
) && fail "a full disk was not noticed"
grep -q "error: .*last.h5" "$tmp/log" || fail "the message does not say what could not be written"
[ ! -e "$tmp/full/checkpoints/last.h5" ] || fail "half a checkpoint"
echo "full disk: $(grep error "$tmp/log")"
train --set out="$tmp/full" --resume || fail "going on with room"
cmp "$tmp/a/checkpoints/last.h5" "$tmp/full/checkpoints/last.h5" || fail "full disk: other bytes"

# Two at once in one folder: the second is refused.
"$bin/percept-train" "$tmp/tune.yaml" --set out="$tmp/two" >"$tmp/first" 2>&1 &
pid=$!
until [ -e "$tmp/two/recipe.yaml" ]; do sleep 0.005; done
if train --set out="$tmp/two" --resume && ! grep -q 'is complete' "$tmp/log"; then fail "two at once"; fi
wait $pid || fail "the first of two"

# Only a regular usage error is status 2.
set +e
"$bin/percept-train" >/dev/null 2>&1; [ $? -eq 2 ] || fail "no recipe: status"
"$bin/percept-train" "$tmp/tune.yaml" --pln >/dev/null 2>"$tmp/log"; [ $? -eq 2 ] || fail "unknown flag: status"
grep -q plan "$tmp/log" || fail "the nearest flag is not named"
"$bin/percept-train" "$tmp/nothing.yaml" >/dev/null 2>&1; [ $? -eq 1 ] || fail "no such recipe: status"
"$bin/percept-train" "$tmp/tune.yaml" --plan >"$tmp/plan" || fail "--plan"
grep -q 'FLOPs a step' "$tmp/plan" || fail "--plan prints no FLOPs"
echo done
