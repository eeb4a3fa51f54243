#!/usr/bin/env bash
# What percept exports, opened by the libraries it is meant for: every model under tests/goldens goes through
# percept-convert (directory -> native -> directory, in f32 and bf16), transformers opens the result and must give the
# same logits; a PEFT adapter of ours is applied by peft, and merged by us; PyTorch's .bin files are imported; a GGUF
# file is read by gguf. Makes its own Python environment (torch, transformers, peft, gguf from PyPI).
#
#   scripts/check_export.sh [--venv DIR] [--bin DIR]        build/venv-export, build/bin
set -euo pipefail
cd "$(dirname "$0")/.."
venv=build/venv-export bin=build/bin
while [ $# -gt 0 ]; do
    case $1 in
    --venv) venv=$2 ;;
    --bin) bin=$2 ;;
    *)
        echo "usage: scripts/check_export.sh [--venv DIR] [--bin DIR]" >&2
        exit 2
        ;;
    esac
    shift 2
done
[ -x "$bin/percept-convert" ] || {
    echo "check_export.sh: no $bin/percept-convert; build first" >&2
    exit 1
}
if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet torch transformers peft gguf sentencepiece
fi
HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 exec "$venv/bin/python" scripts/check_export.py "$bin"
