#!/usr/bin/env bash
# Random weights in the exact shapes of LLaVA-1.5-7B (bf16 shards, 14 GB) and CLIP ViT-L/14-336 (f32, 1.7 GB): opened,
# inspected, asked, taken in and given back. Prints seconds and peak memory; "anonymous" leaves out what the system may drop at any time, the
# pages of the files themselves.
#
#   scripts/real_shapes.sh [FOLDER]        PERCEPT_BIN: build/bin   PERCEPT_TESTS: build/tests   KEEP=1 keeps the files
set -euo pipefail
out=${1:-/tmp/percept-real-shapes}
bin=${PERCEPT_BIN:-build/bin}
tests=${PERCEPT_TESTS:-build/tests}
threads=${THREADS:-0}
mkdir -p "$out/llava" "$out/clip"
trap '[ -n "${KEEP:-}" ] || rm -rf "$out"' EXIT

cat >"$out/llava/config.json" <<'JSON'
{"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "ignore_index": -100,
 "image_token_index": 32000, "pad_token_id": 32001, "projector_hidden_act": "gelu", "tie_word_embeddings": false,
 "text_config": {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 4096, "model_type": "llama",
                 "rms_norm_eps": 1e-05, "torch_dtype": "float16", "vocab_size": 32064},
 "torch_dtype": "bfloat16", "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
 "vision_config": {"hidden_size": 1024, "image_size": 336, "intermediate_size": 4096, "model_type": "clip_vision_model",
                   "num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14, "projection_dim": 768,
                   "vocab_size": 32000}, "vocab_size": 32064}
JSON
cat >"$out/llava/preprocessor_config.json" <<'JSON'
{"crop_size": {"height": 336, "width": 336}, "do_center_crop": true, "do_convert_rgb": true, "do_normalize": true,
 "do_rescale": true, "do_resize": true, "image_mean": [0.48145466, 0.4578275, 0.40821073],
 "image_processor_type": "CLIPImageProcessor", "image_std": [0.26862954, 0.26130258, 0.27577711], "resample": 3,
 "rescale_factor": 0.00392156862745098, "size": {"shortest_edge": 336}}
JSON
cp "$out/llava/preprocessor_config.json" "$out/clip/"
cat >"$out/clip/config.json" <<'JSON'
{"architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": 768, "logit_scale_init_value": 2.6592,
 "text_config": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12,
                 "projection_dim": 768, "model_type": "clip_text_model"},
 "vision_config": {"hidden_size": 1024, "image_size": 336, "intermediate_size": 4096, "num_attention_heads": 16,
                   "num_hidden_layers": 24, "patch_size": 14, "projection_dim": 768, "model_type": "clip_vision_model"}}
JSON

"$bin/percept-data" scenes "$out/scenes" --images 2 --size 336 >/dev/null
image=$(find "$out/scenes" -name '*.png' | sort | head -1)
"$bin/percept-data" tokenizer train README.md --out "$out/llava/tokenizer.json" --vocab 1000 >/dev/null
cp "$out/llava/tokenizer.json" "$out/clip/"
"$tests/make_random" "$out/llava" --dtype bf16 2>/dev/null
"$tests/make_random" "$out/clip" --dtype f32 2>/dev/null

forget() { # what the system keeps of these files in memory
    for f in "$1"/*.safetensors; do dd of="$f" oflag=nocache conv=notrunc,fdatasync count=0 status=none; done
}

run() { # a label, then a command; its seconds, peak of all memory and of anonymous memory
    local label=$1
    shift
    python3 - "$label" "$@" <<'PY'
import subprocess, sys, time
label, command = sys.argv[1], sys.argv[2:]
start = time.time()
p = subprocess.Popen(command, stdout=subprocess.PIPE)
first, anonymous, peak = None, 0, 0
import os, threading
def watch():
    global anonymous, peak
    while p.poll() is None:
        try:
            for line in open(f"/proc/{p.pid}/status"):
                if line.startswith("RssAnon:"): anonymous = max(anonymous, int(line.split()[1]))
                if line.startswith("VmHWM:"): peak = max(peak, int(line.split()[1]))
        except OSError: pass
        time.sleep(0.05)
threading.Thread(target=watch, daemon=True).start()
text = b""
while True:
    piece = os.read(p.stdout.fileno(), 65536)
    if not piece: break
    if first is None: first = time.time() - start
    text = text[:2000] + piece
code = p.wait()
print(f"{label}: {time.time() - start:.1f} s, first output after {first or 0:.1f} s, "
      f"peak {peak / 1024:.0f} MB, anonymous {anonymous / 1024:.0f} MB, exit {code}", flush=True)
PY
}

ask() {
    "$bin/percept" ask "$out/llava" --image "$image" "What is in the picture?" --threads "$threads" "$@"
}

run "inspect llava" "$bin/percept-convert" inspect "$out/llava"
run "inspect clip" "$bin/percept-convert" inspect "$out/clip"
forget "$out/llava"
run "cat of the same bytes, cold" bash -c "cat '$out'/llava/*.safetensors | tail -c 1"
forget "$out/llava"
for how in cold warm; do
    run "ask llava, 1 token, $how" "$bin/percept" ask "$out/llava" --image "$image" "What is in the picture?" \
        --threads "$threads" --max-tokens 1
done
run "ask llava, 8 tokens, warm" "$bin/percept" ask "$out/llava" --image "$image" "What is in the picture?" \
    --threads "$threads" --max-tokens 8
forget "$out/clip"
for how in cold warm; do
    run "classify clip, $how" "$bin/percept" classify "$out/clip" --label circle --label square "$image"
done

# In and out again. The pairs of 14 GB follow one another: 45 GB of disk are enough for all of it.
room=$(($(df --output=avail -k "$out" | tail -1) / 1000000))
if [ "$room" -lt 30 ]; then
    echo "import and export of llava left out: they take 29 GB more and $room GB are free under $out"
    exit 0
fi
run "import llava" "$bin/percept-convert" import "$out/llava" --out "$out/llava.h5"
run "export llava as hf" "$bin/percept-convert" export "$out/llava.h5" --format hf --out "$out/again"
for f in "$out"/llava/*.safetensors; do cmp "$f" "$out/again/$(basename "$f")"; done
echo "the exported shards are those that came in, byte for byte"
rm -rf "$out/again"
run "export llava as gguf, bf16" "$bin/percept-convert" export "$out/llava.h5" --format gguf --dtype BF16 --out "$out/pair"
rm -rf "$out/pair"
run "export llava as gguf, q8_0" "$bin/percept-convert" export "$out/llava.h5" --format gguf --dtype Q8_0 --out "$out/pair"
