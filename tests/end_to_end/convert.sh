#!/usr/bin/env bash
# percept-convert as users call it: a directory to a checkpoint, back, to GGUF and to fewer bits, with answers that stay
# the same; adapters merged; what cannot be done is refused with the exit status that stands in --help.
set -euo pipefail
bin=${PERCEPT_BIN:-build/bin}
shared=${PERCEPT_SHARED:-../shared}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
fail() { echo "FAILED: $*"; [ -f "$tmp/log" ] && cat "$tmp/log"; exit 1; }
convert() { "$bin/percept-convert" "$@" >"$tmp/log" 2>&1 || fail "percept-convert $*"; }
refuse() { # exit status, words of the message, arguments
    local want=$1 words=$2 status=0
    shift 2
    "$bin/percept-convert" "$@" >"$tmp/log" 2>&1 || status=$?
    [ $status -eq "$want" ] || fail "exit status $status, not $want: percept-convert $*"
    grep -qF -- "$words" "$tmp/log" || fail "'$words' is not said: percept-convert $*"
}
logits() { # model, folder of inputs, file
    "$bin/percept" logits "$1" --inputs "$2/inputs.safetensors" --out "$3" >"$tmp/log" 2>&1 || fail "logits of $1"
}

for name in llava clip siglip; do
    model=tests/goldens/$name
    cp -r "$model" "$tmp/source"
    convert import "$tmp/source" --out "$tmp/$name.h5"
    rm -r "$tmp/source" # nothing of it is needed from here on
    convert export "$tmp/$name.h5" --format hf --out "$tmp/$name"
    cmp "$model/model.safetensors" "$tmp/$name/model.safetensors" || fail "$name: other bytes came back"
    grep -q "Family $name" "$tmp/$name/README.md" || fail "$name: no model card"
    logits "$model" "$model" "$tmp/a"
    logits "$tmp/$name.h5" "$model" "$tmp/b"
    logits "$tmp/$name" "$model" "$tmp/c"
    cmp "$tmp/a" "$tmp/b" && cmp "$tmp/a" "$tmp/c" || fail "$name: other logits"
    # In several files, and narrow: what is read back is what was written.
    convert export "$tmp/$name.h5" --format hf --out "$tmp/$name-bf16" --dtype bf16 --shard-size 100KB
    [ -s "$tmp/$name-bf16/model.safetensors.index.json" ] || fail "$name: no index"
    convert import "$tmp/$name-bf16" --out "$tmp/$name-bf16.h5"
    convert export "$tmp/$name-bf16.h5" --format hf --out "$tmp/$name-again" --shard-size 100KB
    for f in "$tmp/$name-bf16"/*.safetensors; do
        cmp "$f" "$tmp/$name-again/$(basename "$f")" || fail "$name: bf16 changed on the way"
    done
    convert quantize "$tmp/$name.h5" --type F32 --out "$tmp/$name-gguf"
    convert inspect "$tmp/$name.h5"
done
logits "$tmp/llava-gguf/llava-F32.gguf" tests/goldens/llava "$tmp/b"
logits tests/goldens/llava tests/goldens/llava "$tmp/a"
cmp "$tmp/a" "$tmp/b" || fail "llava: other logits from GGUF"
convert import "$tmp/llava-gguf/llava-F32.gguf" --out "$tmp/back.h5"
logits "$tmp/back.h5" tests/goldens/llava "$tmp/b"
cmp "$tmp/a" "$tmp/b" || fail "llava: other logits from GGUF's checkpoint"
# What a GGUF pair does not carry is made: a directory of the family, with its image processor's file.
convert export tests/goldens/qwen2_vl --format gguf --dtype F32 --out "$tmp/qwen2-gguf"
convert export "$tmp/qwen2-gguf/qwen2_vl-F32.gguf" --format hf --out "$tmp/qwen2"
logits tests/goldens/qwen2_vl tests/goldens/qwen2_vl "$tmp/a"
logits "$tmp/qwen2" tests/goldens/qwen2_vl "$tmp/b"
cmp "$tmp/a" "$tmp/b" || fail "qwen2_vl: other logits from GGUF's directory"
echo "there and back: llava, clip, siglip, qwen2_vl"

# Stretched rotary positions: yarn has keys in GGUF, a base that depends on the sequence has none.
convert export tests/goldens/yarn --format gguf --dtype F32 --out "$tmp/yarn-gguf"
convert export "$tmp/yarn-gguf/yarn-F32.gguf" --format hf --out "$tmp/yarn"
convert import tests/goldens/dynamic_ntk --out "$tmp/dynamic.h5"
convert export "$tmp/dynamic.h5" --format hf --out "$tmp/dynamic"
for name in yarn dynamic_ntk; do
    logits "tests/goldens/$name" "tests/goldens/$name" "$tmp/a"
    logits "$tmp/${name%_ntk}" "tests/goldens/$name" "$tmp/b"
    cmp "$tmp/a" "$tmp/b" || fail "$name: other logits"
done
refuse 1 "dynamic" export tests/goldens/dynamic_ntk --format gguf --out "$tmp/x"
echo "there and back: yarn, dynamic"

if [ -d "$shared/goldens/llava_tiny/lora" ]; then
    base=$shared/goldens/llava_tiny adapter=$shared/goldens/llava_tiny/lora/adapter_final
    convert merge "$base" --adapter "$adapter" --out "$tmp/merged.h5"
    convert merge "$base" --adapter "$adapter" --out "$tmp/merged"
    logits "$tmp/merged.h5" "$base" "$tmp/a"
    logits "$tmp/merged" "$base" "$tmp/b"
    cmp "$tmp/a" "$tmp/b" || fail "merged: checkpoint and directory differ"
    logits "$base" "$base" "$tmp/b"
    ! cmp -s "$tmp/a" "$tmp/b" || fail "merged: nothing changed"
    echo "merged: $adapter"
else
    echo "skipped: no ../shared"
fi

refuse 2 "--out" import tests/goldens/clip
refuse 2 "--format" export tests/goldens/clip --out "$tmp/x"
refuse 2 "nearest: 'bf16'" export tests/goldens/clip --format hf --out "$tmp/x" --dtype bf61
refuse 2 "--shard-size" export tests/goldens/clip --format hf --out "$tmp/x" --shard-size many
refuse 1 "not empty" export tests/goldens/clip --format hf --out "$tmp/clip"
refuse 1 "layouts 0 to" export tests/goldens/clip --format hf --out "$tmp/x" --layout 60
refuse 1 "no low-rank adapters" export "$tmp/llava.h5" --format peft --out "$tmp/x"
refuse 2 "holds no adapters" merge "$tmp/llava.h5" --out "$tmp/x.h5"
refuse 1 "Q4_K_M" quantize tests/goldens/llava --type Q4_K_X --out "$tmp/x"
printf 'not a model' >"$tmp/y.h5"
refuse 1 "y.h5" export "$tmp/y.h5" --format hf --out "$tmp/x"
[ ! -e "$tmp/x" ] && [ ! -e "$tmp/x.part" ] && [ ! -e "$tmp/x.h5" ] || fail "something was left behind"
for command in import export merge quantize inspect; do
    "$bin/percept-convert" $command --help | grep -q "percept-convert $command " || fail "$command --help"
done
echo "refusals: as said"
