"""The checks of scripts/check_export.sh, which makes the environment they run in."""
import inspect
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file, save_file

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(2)
BIN = pathlib.Path(sys.argv[1]).resolve()
GOLDENS = pathlib.Path("tests/goldens")
failed = 0


def convert(*args):
    r = subprocess.run([str(BIN / "percept-convert"), *map(str, args)], capture_output=True, text=True)
    if r.returncode:
        raise SystemExit(f"percept-convert {' '.join(map(str, args))}: {r.stderr}")
    return r.stdout.strip()


def report(what, error, limit):
    global failed
    good = error <= limit  # false for NaN
    failed += not good
    print(f"{'ok    ' if good else 'FAILED'} {what:<58} {error:.2e} (limit {limit:.0e})", flush=True)


def open_model(folder):
    """The class that config.json names, in f32; nothing may be missing or left over."""
    config = json.loads((folder / "config.json").read_text())
    cls = getattr(transformers, config["architectures"][0])
    model, info = cls.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    odd = {k: sorted(map(str, v)) for k, v in info.items() if v}
    if odd:
        raise SystemExit(f"{folder}: {odd}")
    return model.eval()


def arguments(model, tensors):
    takes = set(inspect.signature(type(model).forward).parameters)
    given = {k: v for k, v in tensors.items() if k in takes and k != "labels"}
    if "mm_token_type_ids" in takes and "image_grid_thw" in tensors:
        ids, kinds = tensors["input_ids"], torch.zeros_like(tensors["input_ids"])
        kinds[ids == model.config.image_token_id] = 1
        kinds[ids == model.config.video_token_id] = 2
        given["mm_token_type_ids"] = kinds
    if "mm_token_type_ids" in given:
        given.pop("position_ids", None)
    return given


@torch.no_grad()
def answer(model, tensors, base=None):
    out = model(**arguments(base or model, tensors))
    logits = out.logits_per_image if getattr(out, "logits_per_image", None) is not None else out.logits
    if logits.dim() == 3 and "attention_mask" in tensors:
        logits = logits[tensors["attention_mask"].bool()]
    return logits.float()


def relative(a, b):
    return float((a - b).norm() / b.norm()) if a.shape == b.shape else float("nan")


def sources():
    """tests/goldens, and ../shared/goldens where that folder is beside the project."""
    found = [p.parent for root in (GOLDENS, pathlib.Path("../shared/goldens")) for p in sorted(root.rglob("config.json"))]
    return [(p, "-".join(p.parts[p.parts.index("goldens") + 1:]) + (" (shared)" if p.parts[0] == ".." else "")) for p in found]


def families(tmp):
    for source, name in sources():
        architecture = json.loads((source / "config.json").read_text())["architectures"][0]
        if not hasattr(transformers, architecture):
            print(f"left   {name}: {architecture} is not in transformers")
            continue
        inputs = load_file(source / "inputs.safetensors")
        reference = answer(open_model(source), inputs)
        convert("import", source, "--out", tmp / f"{name}.h5")
        convert("export", tmp / f"{name}.h5", "--format", "hf", "--out", tmp / name)
        report(f"{name}: directory -> native -> directory", relative(answer(open_model(tmp / name), inputs), reference), 1e-6)
        convert("export", tmp / f"{name}.h5", "--format", "hf", "--out", tmp / f"{name}-bf16", "--dtype", "bf16",
                "--shard-size", "100KB")
        report(f"{name}: the same in bf16 shards", relative(answer(open_model(tmp / f"{name}-bf16"), inputs), reference), 0.0625)
        if (source / "model.safetensors").exists():
            pickled(tmp, source, name, inputs, reference)


def pickled(tmp, source, name, inputs, reference):
    """PyTorch's own file, as torch.save writes it, in two ways of nesting and with strides."""
    folder = tmp / f"{name}-bin"
    folder.mkdir()
    shutil.copy(source / "config.json", folder)
    weights = {k: v.t().contiguous().t() if v.dim() == 2 else v for k, v in load_file(source / "model.safetensors").items()}
    torch.save({"state_dict": {k: torch.nn.Parameter(v, requires_grad=v.is_floating_point()) for k, v in weights.items()},
                "epoch": 3, "lr": 1e-3}, folder / "pytorch_model.bin")
    convert("export", folder, "--format", "hf", "--out", tmp / f"{name}-from-bin")
    report(f"{name}: pytorch_model.bin -> directory", relative(answer(open_model(tmp / f"{name}-from-bin"), inputs), reference), 1e-6)


def adapters(tmp):
    """An adapter that peft saves is merged by us; peft applies it to the base and must agree."""
    from peft import LoraConfig, PeftModel, get_peft_model

    source = GOLDENS / "llava"
    inputs = load_file(source / "inputs.safetensors")
    for rslora in (False, True):
        torch.manual_seed(5)
        model = get_peft_model(open_model(source), LoraConfig(
            r=4, lora_alpha=12, use_rslora=rslora, init_lora_weights=False, task_type="CAUSAL_LM",
            target_modules=r".*language_model.*\.(q_proj|v_proj|o_proj|up_proj|down_proj)|.*multi_modal_projector\.linear_\d",
            rank_pattern={"layers.0.self_attn.q_proj": 2}, alpha_pattern={"v_proj": 3}))
        with torch.no_grad():
            for n, p in model.named_parameters():
                if "lora_" in n:
                    p.mul_(0.2)
        folder = tmp / f"adapter{rslora:d}"
        model.save_pretrained(folder)
        config = json.loads((folder / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = "base"
        (folder / "adapter_config.json").write_text(json.dumps(config))
        base = open_model(source)
        applied = answer(PeftModel.from_pretrained(base, folder).eval(), inputs, base)
        plain = answer(open_model(source), inputs)
        convert("merge", source, "--adapter", folder, "--out", tmp / f"merged{rslora:d}")
        merged = answer(open_model(tmp / f"merged{rslora:d}"), inputs)
        report(f"adapter{' (rslora)' if rslora else ''}: merged by percept, applied by peft", relative(merged, applied), 1e-5)
        if relative(merged, plain) < 1e-2:
            raise SystemExit("the adapter changes nothing: this check would see nothing")


def tower_in_gguf(source):
    """The tensors of a tower and its projector under the names of gguf's own map (which is llama.cpp's), and those that it has no name for."""
    import gguf
    import re

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, 128)
    weights = {}
    for path in sorted(source.glob("model*.safetensors")):
        weights |= load_file(path)
    want, unnamed = {}, []
    for key, w in weights.items():
        k = re.sub(r"^model\.visual\.", "visual.", re.sub(r"^(model\.)?vision_model\.", "vision_tower.vision_model.", key))
        k = re.sub(r"^model\.(vision_tower|multi_modal_projector|image_newline)", r"\1", k)
        k = re.sub(r"^vision_tower\.(?!vision_model\.)", "vision_tower.vision_model.", k)
        if not re.match(r"visual\.|vision_tower\.|multi_modal_projector\.|model\.aligner\.|image_newline", k) or "position_ids" in k:
            continue
        projector = re.match(r"(?:model\.aligner\.linear|multi_modal_projector\.linear_)(\d)(\.\w+)", k)
        if projector:  # of kind "mlp": places 0 and 2; the map has the names of another kind
            want[f"mm.{(int(projector[1]) - 1) * 2}{projector[2]}"] = w
        elif ".qkv." in k:
            for part, piece in zip("qkv", w.chunk(3)):
                want[names.get_name(k.replace("qkv", part), try_suffixes=(".weight", ".bias"))] = piece
        elif w.dim() == 5:  # two frames: llama.cpp has a convolution for each
            want["v.patch_embd.weight"], want["v.patch_embd.weight.1"] = w[:, :, 0], w[:, :, 1]
        else:
            name = "model.image_newline" if k == "image_newline" else names.get_name(k, try_suffixes=(".weight", ".bias"))
            unnamed.append(key) if name is None else want.update({name: w})
    return want, unnamed


def gguf_files(tmp):
    import gguf

    for source, name in sources():
        r = subprocess.run([str(BIN / "percept-convert"), "export", str(source), "--format", "gguf", "--dtype", "F32", "--out", str(tmp / f"{name}-gguf")],
                           capture_output=True, text=True)
        if r.returncode:
            print(f"left   {name}: {r.stderr.strip()[:100]}")
            continue
        for path in sorted((tmp / f"{name}-gguf").glob("*.gguf")):
            reader = gguf.GGUFReader(path)
            if not path.name.startswith("mmproj"):
                report(f"{name}: text, read by gguf, {len(reader.tensors)} tensors", 0.0 if reader.tensors else float("nan"), 0)
                continue
            want, unnamed = tower_in_gguf(source)
            worst = 0.0
            for t in reader.tensors:
                found = torch.from_numpy(gguf.dequantize(t.data, t.tensor_type).copy()).flatten()
                worst = max(worst, relative(found, want.pop(t.name).flatten())) if t.name in want else float("nan")
            report(f"{name}: mmproj under gguf's names, {len(reader.tensors)} tensors", worst, 1e-6)
            left = sorted(want) + unnamed
            if left:  # a last norm that LLaVA does not apply, a pooling head that llama.cpp has no place for
                print(f"       not in the file: {len(left)}, e.g. {', '.join(left[:2])}")


with tempfile.TemporaryDirectory() as d:
    families(pathlib.Path(d))
    adapters(pathlib.Path(d))
    gguf_files(pathlib.Path(d))
print("versions:", ", ".join(f"{m} {__import__(m).__version__}" for m in ("torch", "transformers", "peft")))
print("FAILED" if failed else "all as expected")
sys.exit(bool(failed))
