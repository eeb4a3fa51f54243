#!/usr/bin/env python3
"""Makes tests/goldens: reference numbers from PyTorch for the parity tests.

    python3 scripts/make_goldens.py [--out tests/goldens] [--env build/goldens-env] [--only NAME ...]

Tiny models with random weights and fixed seeds (CLIP with erf GELU, SigLIP, LLaVA with grouped heads and several
images, Qwen2-VL with images and films, the first Qwen-VL, DeepSeek-VL's hybrid), their outputs, every gradient, 20 AdamW steps of the first
three, and greedy generation. Nothing is downloaded but the libraries, which go into an environment of its own. Files:
see tests/goldens/README.md.
"""
import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path

LIBRARIES = ["torch", "transformers==5.23.0", "safetensors"]


def own_environment(folder):
    """Runs this script again in an environment that has the libraries."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.check_call([sys.executable, "-m", "venv", str(folder)])
        subprocess.check_call([str(python), "-m", "pip", "install", "--quiet", *LIBRARIES])
    os.execv(str(python), [str(python), *sys.argv])


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("tests/goldens"))
    parser.add_argument("--env", type=Path, default=Path("build/goldens-env"))
    parser.add_argument("--only", nargs="+", default=None, help="folders; the others stay as they are")
    return parser.parse_args()


ARGS = arguments()
try:
    import torch
    import transformers
    from safetensors.torch import save_file
except ImportError:
    own_environment(ARGS.env)

from torch import nn
from torch.nn import functional as F
from transformers import (CLIPConfig, CLIPModel, DeepseekVLHybridConfig,
                          DeepseekVLHybridForConditionalGeneration, LlamaConfig, LlamaForCausalLM, LlavaConfig,
                          LlavaForConditionalGeneration, Qwen2Config, Qwen2ForCausalLM, Qwen2VLConfig, Qwen2VLForConditionalGeneration, SiglipConfig, SiglipModel)

STEPS = 20


# ---- helpers -----------------------------------------------------------------------------------

def randomise(model, seed):
    """Every parameter random, none left at 0 or 1, sizes that keep activations near 1."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=g)
            if name.endswith(("logit_scale", "logit_bias")):
                p.add_(0.1 * noise)
            elif p.dim() >= 2:
                fan = p[0].numel()
                p.copy_(noise * (0.5 if "embed" in name or "probe" in name else fan ** -0.5))
            elif "norm" in name and name.endswith("weight"):
                p.copy_(1.0 + 0.2 * noise)
            else:
                p.copy_(0.1 * noise)


def rename(model, directory):
    """Library parameter name -> name in the saved file (the layout of published checkpoints)."""
    from safetensors import safe_open
    with safe_open(directory / "model.safetensors", "pt") as f:
        keys = {k: f.get_tensor(k) for k in f.keys()}
    mapping = {}
    for name, p in model.named_parameters():
        same = [k for k, v in keys.items() if v.shape == p.shape and torch.equal(v, p.data)]
        assert len(same) == 1, (name, same)
        mapping[name] = same[0]
    return mapping


def dump(path, tensors):
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, str(path))
    path.chmod(0o644)


def dump_json(path, value):
    path.write_text(json.dumps(value, indent=1) + "\n")


def gradients(model, names):
    return {names[n]: p.grad for n, p in model.named_parameters() if p.grad is not None}


def no_decay(model, names):
    return sorted(names[n] for n, p in model.named_parameters() if p.requires_grad and p.dim() < 2)


def optimiser(model, c, lr):
    groups = [{"params": [p for p in model.parameters() if p.requires_grad and p.dim() >= 2],
               "weight_decay": c["weight_decay"]},
              {"params": [p for p in model.parameters() if p.requires_grad and p.dim() < 2],
               "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=tuple(c["betas"]), eps=c["eps"], foreach=False)


def cosine(s, base, warmup, from_one):
    if s < warmup:
        return base * (s + from_one) / warmup
    return base * 0.5 * (1 + math.cos(math.pi * (s - warmup) / (STEPS - warmup)))


def grad_norm(model):
    return math.sqrt(sum(float((p.grad.double() ** 2).sum()) for p in model.parameters()
                         if p.grad is not None))


# ---- two towers --------------------------------------------------------------------------------

def hidden_states(outputs, prefix):
    return {f"{prefix}_hidden_states.{i}": h for i, h in enumerate(outputs.hidden_states)}


def two_tower_outputs(model, batch):
    o = model(**batch, return_loss=True, output_hidden_states=True)
    out = {"image_embeds": o.image_embeds, "text_embeds": o.text_embeds, "loss": o.loss.reshape(1),
           "logits_per_image": o.logits_per_image, "logits_per_text": o.logits_per_text}
    out |= hidden_states(o.vision_model_output, "vision")
    out |= hidden_states(o.text_model_output, "text")
    return o.loss, out


def two_tower(out, model, make_batch, trace):
    out.mkdir(parents=True, exist_ok=True)
    model.eval()
    randomise(model, trace.pop("seed"))
    model.save_pretrained(out)
    names = rename(model, out)

    batch = make_batch(0)
    loss, outputs = two_tower_outputs(model, batch)
    loss.backward()
    dump(out / "inputs.safetensors", batch)
    dump(out / "outputs.safetensors", outputs)
    dump(out / "grads.safetensors", gradients(model, names))

    batches = [make_batch(1 + i) for i in range(2)]
    dump(out / "train_batches.safetensors", {k: torch.stack([b[k] for b in batches]) for k in batches[0]})
    opt = optimiser(model, trace, trace["base_lr"])
    steps = []
    for s in range(STEPS):
        index = (s // 3) % 2
        lr = cosine(s, trace["base_lr"], trace["warmup_steps"], 1)
        for group in opt.param_groups:
            group["lr"] = lr
        opt.zero_grad()
        loss, _ = two_tower_outputs(model, batches[index])
        loss.backward()
        norm = grad_norm(model)
        opt.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0.0, math.log(100.0))
        steps.append({"step": s, "batch": index, "lr": lr, "loss": float(loss.detach()), "grad_norm": norm})
    dump_json(out / "train.json", trace | {"steps": STEPS, "grad_clip": None,
                                           "no_decay": no_decay(model, names), "trace": steps})
    dump(out / "train_final.safetensors", {names[n]: p for n, p in model.named_parameters()})


def make_clip(out):
    vocab, context, side, B = 97, 11, 28, 6
    config = CLIPConfig(
        projection_dim=20,
        text_config=dict(vocab_size=vocab, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
                         num_attention_heads=2, max_position_embeddings=context, hidden_act="gelu",
                         projection_dim=20, bos_token_id=95, eos_token_id=96, pad_token_id=96),
        vision_config=dict(hidden_size=40, intermediate_size=72, num_hidden_layers=2,
                           num_attention_heads=5, image_size=side, patch_size=7, hidden_act="gelu",
                           projection_dim=20))

    def batch(i):
        g = torch.Generator().manual_seed(1000 + i)
        ids = torch.full((B, context), 96)  # padded with the end-of-text id itself
        mask = torch.zeros((B, context), dtype=torch.long)
        for b in range(B):
            n = int(torch.randint(3, context + 1, (1,), generator=g))
            ids[b, :n - 1] = torch.randint(0, 95, (n - 1,), generator=g)
            ids[b, 0] = 95
            mask[b, :n] = 1
        return {"input_ids": ids, "attention_mask": mask,
                "pixel_values": torch.randn((B, 3, side, side), generator=g)}

    two_tower(out, CLIPModel(config), batch,
              {"seed": 11, "base_lr": 8e-4, "betas": [0.9, 0.98], "eps": 1e-6, "weight_decay": 0.1,
               "warmup_steps": 5})


def make_siglip(out):
    vocab, context, side, B = 61, 9, 24, 5
    config = SiglipConfig(
        text_config=dict(vocab_size=vocab, hidden_size=36, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=3, max_position_embeddings=context, pad_token_id=1,
                         bos_token_id=59, eos_token_id=1, projection_size=36),
        vision_config=dict(hidden_size=36, intermediate_size=60, num_hidden_layers=3,
                           num_attention_heads=3, image_size=side, patch_size=6))

    def batch(i):
        g = torch.Generator().manual_seed(2000 + i)
        ids = torch.ones((B, context), dtype=torch.long)
        for b in range(B):
            n = int(torch.randint(2, context + 1, (1,), generator=g))
            ids[b, :n] = torch.randint(2, vocab, (n,), generator=g)
        return {"input_ids": ids, "pixel_values": torch.randn((B, 3, side, side), generator=g)}

    two_tower(out, SiglipModel(config), batch,
              {"seed": 12, "base_lr": 6e-4, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.05,
               "warmup_steps": 3})


# ---- LLaVA -------------------------------------------------------------------------------------

IMAGE, PER_IMAGE, LLAVA_SIDE = 118, 16, 20


def llava_batch(seed, images_per_row, lengths):
    g = torch.Generator().manual_seed(seed)
    rows = []
    for images, length in zip(images_per_row, lengths):
        ids, labels = [1], [-100]
        for _ in range(images):
            ids += [IMAGE] * PER_IMAGE
            labels += [-100] * PER_IMAGE
            text = torch.randint(3, IMAGE, (2,), generator=g).tolist()
            ids += text
            labels += [-100] * 2
        text = torch.randint(3, IMAGE, (length,), generator=g).tolist()
        ids += text + [2]
        labels += [-100] * (length // 2) + text[length // 2:] + [2]
        rows.append((ids, labels))
    T = max(len(r[0]) for r in rows)
    batch = {"input_ids": torch.zeros((len(rows), T), dtype=torch.long),
             "attention_mask": torch.zeros((len(rows), T), dtype=torch.long),
             "labels": torch.full((len(rows), T), -100)}
    for i, (ids, labels) in enumerate(rows):
        batch["input_ids"][i, :len(ids)] = torch.tensor(ids)
        batch["labels"][i, :len(labels)] = torch.tensor(labels)
        batch["attention_mask"][i, :len(ids)] = 1
    total = sum(images_per_row)
    batch["pixel_values"] = torch.randn((total, 3, LLAVA_SIDE, LLAVA_SIDE), generator=g)
    return batch


def token_loss(model, batch):
    """Sum of cross-entropies of supervised tokens, and how many there are."""
    b = dict(batch)
    labels = b.pop("labels")[:, 1:]
    logits = model(**b).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1),
                                             ignore_index=-100, reduction="sum")
    return loss, int((labels != -100).sum())


def llava_train(out, stage, config, state, batches, accumulate, trainable, trace):
    model = LlavaForConditionalGeneration(config).eval()
    model.load_state_dict(state)
    names = rename(model, out)
    for n, p in model.named_parameters():
        p.requires_grad_(trainable(n))
    opt = optimiser(model, trace, trace["base_lr"])
    steps = []
    for s in range(STEPS):
        micro = [(s * accumulate + k) % len(batches) for k in range(accumulate)]
        lr = cosine(s, trace["base_lr"], trace["warmup_steps"], 0)
        for group in opt.param_groups:
            group["lr"] = lr
        opt.zero_grad()
        M = sum(int((batches[m]["labels"][:, 1:] != -100).sum()) for m in micro)
        total = 0.0
        for m in micro:
            loss, _ = token_loss(model, batches[m])
            (loss / M).backward()
            total += float(loss.detach())
        norm = grad_norm(model)
        scale = min(1.0, trace["grad_clip_norm"] / (norm + 1e-6))
        for p in model.parameters():
            if p.grad is not None:
                p.grad.mul_(scale)
        opt.step()
        steps.append({"step": s, "micro_batches": micro, "lr": lr, "target_tokens": M,
                      "loss": total / M, "grad_norm_before_clip": norm})
    trained = {names[n]: p for n, p in model.named_parameters() if p.requires_grad}
    dump_json(out / f"train_{stage}.json",
              trace | {"steps": STEPS, "gradient_accumulation": accumulate, "trainable": sorted(trained),
                       "no_decay": no_decay(model, names), "trace": steps})
    dump(out / f"train_{stage}_final.safetensors", trained)


def llava_generation(out, model):
    prompts, pixels = [], {}
    for i, (images, length) in enumerate([(1, 5), (2, 3), (0, 7)]):
        b = llava_batch(3900 + i, [images], [length])
        ids = b["input_ids"][:, :-1]
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if images:
            inputs["pixel_values"] = pixels[f"prompt{i}.pixel_values"] = b["pixel_values"]
        made, gap = [], math.inf
        with torch.no_grad():
            for _ in range(16):
                logits = model(**inputs).logits[0, -1]
                top = logits.topk(2).values
                gap = min(gap, float(top[0] - top[1]))
                made.append(int(logits.argmax()))
                inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([[made[-1]]])], 1)
                inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        prompts.append({"prompt_ids": ids[0].tolist(), "images": images, "generated_ids": made,
                        "min_top1_minus_top2_logit": gap})
        assert gap > 1e-4, "a tie: choose another seed"
    dump_json(out / "generation.json", {"mode": "greedy, 16 new tokens, eos ignored", "prompts": prompts})
    dump(out / "generation_inputs.safetensors", pixels)


def make_llava(out):
    out.mkdir(parents=True, exist_ok=True)
    config = LlavaConfig(
        image_token_index=IMAGE, image_seq_length=PER_IMAGE, vision_feature_layer=-2,
        vision_feature_select_strategy="default", projector_hidden_act="gelu",
        text_config=dict(model_type="llama", vocab_size=120, hidden_size=48, intermediate_size=72,
                         num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2, head_dim=10,
                         max_position_embeddings=128, rms_norm_eps=1e-5, pad_token_id=0),
        vision_config=dict(model_type="clip_vision_model", hidden_size=32, intermediate_size=56,
                           num_hidden_layers=3, num_attention_heads=2, image_size=LLAVA_SIDE,
                           patch_size=5, projection_dim=16, hidden_act="quick_gelu"))
    model = LlavaForConditionalGeneration(config).eval()
    randomise(model, 13)
    model.save_pretrained(out)
    names = rename(model, out)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    llava_generation(out, model)

    batch = llava_batch(3000, [1, 3, 0, 2], [9, 4, 12, 6])
    o = model(**batch, output_hidden_states=True)
    loss, M = token_loss(model, batch)
    assert abs(loss.item() / M - o.loss.item()) < 1e-5
    o.loss.backward()
    dump(out / "inputs.safetensors", batch)
    features = model.get_image_features(batch["pixel_values"])
    features = getattr(features, "pooler_output", features)
    dump(out / "outputs.safetensors",
         {"logits": o.logits, "loss": o.loss.reshape(1),
          "image_features_projected": torch.stack([f for f in features])} |
         {f"lm_hidden_states.{i}": h for i, h in enumerate(o.hidden_states)})
    dump(out / "grads.safetensors", gradients(model, names))

    batches = [llava_batch(3100 + i, images, lengths) for i, (images, lengths) in
               enumerate([([1, 2], [5, 8]), ([0, 1], [11, 3]), ([3, 1], [4, 9])])]
    dump(out / "train_batches.safetensors",
         {f"mb{i}.{k}": v for i, b in enumerate(batches) for k, v in b.items()})
    common = {"betas": [0.9, 0.999], "eps": 1e-8, "grad_clip_norm": 1.0, "warmup_steps": 2}
    llava_train(out, "stage1", config, state, batches, 1, lambda n: "multi_modal_projector" in n,
                common | {"base_lr": 2e-3, "weight_decay": 0.0})
    llava_train(out, "stage2", config, state, batches, 2, lambda n: "vision_tower" not in n,
                common | {"base_lr": 5e-4, "weight_decay": 0.05})


# ---- Qwen2-VL ----------------------------------------------------------------------------------

QWEN_IMAGE, QWEN_FILM, QWEN_START, QWEN_END, PATCH_WIDTH = 81, 82, 83, 84, 3 * 2 * 3 * 3


def padded(rows):
    """(ids, labels) of each row to a right-padded batch."""
    T = max(len(ids) for ids, _ in rows)
    batch = {"input_ids": torch.zeros((len(rows), T), dtype=torch.long),
             "attention_mask": torch.zeros((len(rows), T), dtype=torch.long),
             "labels": torch.full((len(rows), T), -100)}
    for i, (ids, labels) in enumerate(rows):
        batch["input_ids"][i, :len(ids)] = torch.tensor(ids)
        batch["labels"][i, :len(labels)] = torch.tensor(labels)
        batch["attention_mask"][i, :len(ids)] = 1
    return batch


def qwen2_batch(seed, rows):
    """rows: what each shows, grids (t, h, w) with t > 1 for films, and how many tokens of text end it."""
    g = torch.Generator().manual_seed(seed)
    grids, lines = {QWEN_IMAGE: [], QWEN_FILM: []}, []
    for shown, length in rows:
        ids = torch.randint(3, 80, (2,), generator=g).tolist()
        for t, h, w in shown:
            kind = QWEN_FILM if t > 1 else QWEN_IMAGE
            grids[kind].append([t, h, w])
            ids += [QWEN_START] + [kind] * (t * h * w // 4) + [QWEN_END]
            ids += torch.randint(3, 80, (1,), generator=g).tolist()
        text = torch.randint(3, 80, (length,), generator=g).tolist()
        lines.append((ids + text, [-100] * len(ids) + text))
    batch = padded(lines)
    for kind, pixels, name in [(QWEN_IMAGE, "pixel_values", "image_grid_thw"),
                               (QWEN_FILM, "pixel_values_videos", "video_grid_thw")]:
        if grids[kind]:
            batch[name] = torch.tensor(grids[kind])
            batch[pixels] = torch.randn((int(batch[name].prod(1).sum()), PATCH_WIDTH), generator=g)
    return batch


def qwen2_positions(model, batch):
    ids = batch["input_ids"]
    kinds = (ids == QWEN_IMAGE).int() + 2 * (ids == QWEN_FILM).int()
    return model.model.get_rope_index(ids, kinds, batch.get("image_grid_thw"),
                                      batch.get("video_grid_thw"), batch["attention_mask"])[0]


def qwen2_run(model, batch):
    return model(**batch, position_ids=qwen2_positions(model, batch))


def greedy(run, ids, extra, count):
    """Ids that follow, and the smallest lead of a chosen one; the whole sequence is run again for each."""
    made, gap = [], math.inf
    with torch.no_grad():
        for _ in range(count):
            logits = run({"input_ids": ids, "attention_mask": torch.ones_like(ids)} | extra)[0, -1]
            top = logits.topk(2).values
            gap = min(gap, float(top[0] - top[1]))
            made.append(int(logits.argmax()))
            ids = torch.cat([ids, torch.tensor([[made[-1]]])], 1)
    assert gap > 1e-4, "a tie: choose another seed"
    return made, gap


def generations(out, run, prompts):
    """prompts: batches of one row without labels."""
    list_, inputs = [], {}
    for i, batch in enumerate(prompts):
        extra = {k: v for k, v in batch.items() if k not in ("input_ids", "attention_mask", "labels")}
        made, gap = greedy(run, batch["input_ids"], extra, 16)
        list_.append({"prompt_ids": batch["input_ids"][0].tolist(), "generated_ids": made,
                      "min_top1_minus_top2_logit": gap})
        inputs |= {f"prompt{i}.{k}": v for k, v in extra.items()}
    dump_json(out / "generation.json", {"mode": "greedy, 16 new tokens, eos ignored", "prompts": list_})
    dump(out / "generation_inputs.safetensors", inputs)


def make_qwen2_vl(out):
    out.mkdir(parents=True, exist_ok=True)
    config = Qwen2VLConfig(
        image_token_id=QWEN_IMAGE, video_token_id=QWEN_FILM, vision_start_token_id=QWEN_START,
        vision_end_token_id=QWEN_END, tie_word_embeddings=True,
        text_config=dict(vocab_size=88, hidden_size=40, intermediate_size=56, num_hidden_layers=2,
                         num_attention_heads=5, num_key_value_heads=1, max_position_embeddings=128,
                         rms_norm_eps=1e-6, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True,
                         rope_parameters=dict(rope_type="default", rope_theta=5e4,
                                              mrope_section=[1, 1, 2])),
        vision_config=dict(depth=2, embed_dim=24, num_heads=2, mlp_ratio=3, hidden_size=40, patch_size=3))
    config._attn_implementation = "eager"
    model = Qwen2VLForConditionalGeneration(config).eval()
    randomise(model, 14)
    model.tie_weights()
    model.save_pretrained(out)
    names = rename(model, out)

    batch = qwen2_batch(4000, [([(1, 4, 2), (2, 4, 6)], 9), ([(2, 2, 4), (1, 2, 2), (1, 6, 4)], 6), ([], 8)])
    o = qwen2_run(model, batch)
    o.loss.backward()
    dump(out / "inputs.safetensors", batch)
    image = model.model.get_image_features(batch["pixel_values"], batch["image_grid_thw"])
    film = model.model.get_video_features(batch["pixel_values_videos"], batch["video_grid_thw"])
    dump(out / "outputs.safetensors",
         {"logits": o.logits, "loss": o.loss.reshape(1), "image_embeds": torch.cat(image.pooler_output),
          "video_embeds": torch.cat(film.pooler_output)})
    dump(out / "grads.safetensors", gradients(model, names))
    generations(out, lambda b: qwen2_run(model, b).logits,
                [qwen2_batch(4100, [([(1, 4, 6)], 4)]), qwen2_batch(4101, [([(1, 2, 4), (1, 4, 2)], 5)]),
                 qwen2_batch(4102, [([], 6)])])


# ---- Qwen-VL: transformers has no class for it, so its network stands here, under the names of its files ----

QWEN_VL = dict(
    architectures=["QWenLMHeadModel"], model_type="qwen", vocab_size=90, hidden_size=48,
    num_hidden_layers=2, num_attention_heads=3, kv_channels=12, intermediate_size=80,
    layer_norm_epsilon=1e-6, rotary_emb_base=10000, rotary_pct=1.0, seq_length=64,
    max_position_embeddings=128, no_bias=True, use_dynamic_ntk=True, use_logn_attn=True,
    tie_word_embeddings=False,
    visual=dict(heads=2, image_size=20, image_start_id=85, layers=2, mlp_ratio=2.1, output_dim=48,
                patch_size=4, width=24, n_queries=9))


def bicubic(table, side):
    """The places of a square grid, row by row, for another square grid."""
    old = math.isqrt(table.shape[0])
    x = table.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    x = F.interpolate(x, size=(side, side), mode="bicubic", align_corners=False)
    return x.permute(0, 2, 3, 1).reshape(side * side, -1)


def attend(q, k, v, heads, causal=False):
    """(B,T,C) each."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), -math.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


class VisionAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.in_proj, self.out_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        by_head = self.in_proj(x).unflatten(-1, (self.heads, -1))  # each head's q, k and v
        q, k, v = (part.flatten(-2) for part in by_head.chunk(3, -1))
        return self.out_proj(attend(q, k, v, self.heads))


class VisionBlock(nn.Module):
    def __init__(self, width, heads, inner):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.attn = VisionAttention(width, heads)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, inner), "c_proj": nn.Linear(inner, width)})

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x))))


class Pool(nn.Module):
    def __init__(self, queries, width, inner, heads):
        super().__init__()
        self.pos_embed = nn.Parameter(torch.empty(queries, width), requires_grad=False)
        self.query = nn.Parameter(torch.empty(queries, width))
        self.kv_proj = nn.Linear(inner, width, bias=False)
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_q, self.ln_kv = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)

    def forward(self, x):
        kv = self.ln_kv(self.kv_proj(x)).transpose(0, 1)
        places = bicubic(self.pos_embed, math.isqrt(kv.shape[0]))
        q = (self.ln_q(self.query) + self.pos_embed).unsqueeze(1).expand(-1, kv.shape[1], -1)
        return self.attn(q, kv + places.unsqueeze(1), kv, need_weights=False)[0].transpose(0, 1)


class Visual(nn.Module):
    def __init__(self, heads, layers, mlp_ratio, output_dim, patch_size, width, n_queries, **_):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch_size, patch_size, bias=False)
        self.positional_embedding = nn.Parameter(torch.empty(256, width))
        self.ln_pre = nn.LayerNorm(width, 1e-6)
        blocks = [VisionBlock(width, heads, int(width * mlp_ratio)) for _ in range(layers)]
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList(blocks)})
        self.attn_pool = Pool(n_queries, output_dim, width, max(1, output_dim // 128))
        self.ln_post = nn.LayerNorm(output_dim, 1e-6)
        self.proj = nn.Parameter(torch.empty(output_dim, output_dim))

    def forward(self, pixels):
        x = self.conv1(pixels)
        side = x.shape[-1]
        x = x.flatten(2).transpose(1, 2) + bicubic(self.positional_embedding, side)
        x = self.ln_pre(x)
        for block in self.transformer["resblocks"]:
            x = block(x)
        return self.ln_post(self.attn_pool(x)) @ self.proj


class RootMeanSquare(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.empty(width)), eps

    def forward(self, x):
        return self.weight * x * (x.pow(2).mean(-1, keepdim=True) + self.eps).rsqrt()


class TextBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        C, HD, inner, eps = (c["hidden_size"], c["num_attention_heads"] * c["kv_channels"],
                             c["intermediate_size"] // 2, c["layer_norm_epsilon"])
        self.heads, self.base = c["num_attention_heads"], c["rotary_emb_base"]
        self.ln_1, self.ln_2 = RootMeanSquare(C, eps), RootMeanSquare(C, eps)
        self.attn = nn.ModuleDict({"c_attn": nn.Linear(C, 3 * HD), "c_proj": nn.Linear(HD, C, bias=False)})
        self.mlp = nn.ModuleDict({"w1": nn.Linear(C, inner, bias=False), "w2": nn.Linear(C, inner, bias=False),
                                  "c_proj": nn.Linear(inner, C, bias=False)})

    def turn(self, x):
        x = x.unflatten(-1, (self.heads, -1))
        T, D = x.shape[1], x.shape[-1]
        angles = torch.outer(torch.arange(T).float(), self.base ** (-torch.arange(0, D, 2).float() / D))
        cos, sin = (torch.cat([f, f], -1).unsqueeze(1) for f in (angles.cos(), angles.sin()))
        a, b = x.chunk(2, -1)
        return (x * cos + torch.cat([-b, a], -1) * sin).flatten(-2)

    def forward(self, x):
        q, k, v = self.attn["c_attn"](self.ln_1(x)).chunk(3, -1)
        x = x + self.attn["c_proj"](attend(self.turn(q), self.turn(k), v, self.heads, causal=True))
        n = self.ln_2(x)
        return x + self.mlp["c_proj"](self.mlp["w1"](n) * F.silu(self.mlp["w2"](n)))


class QwenVL(nn.Module):
    def __init__(self, c):
        super().__init__()
        C = c["hidden_size"]
        self.start = c["visual"]["image_start_id"]
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(c["vocab_size"], C), "visual": Visual(**c["visual"]),
            "h": nn.ModuleList([TextBlock(c) for _ in range(c["num_hidden_layers"])]),
            "ln_f": RootMeanSquare(C, c["layer_norm_epsilon"])})
        self.lm_head = nn.Linear(C, c["vocab_size"], bias=False)

    def forward(self, input_ids, pixel_values=None, attention_mask=None):
        t = self.transformer
        x = t["wte"](input_ids)
        if pixel_values is not None:
            features = t["visual"](pixel_values)
            x = x.clone()
            for f, (b, at) in zip(features, (input_ids == self.start).nonzero().tolist(), strict=True):
                x[b, at + 1:at + 1 + f.shape[0]] = f
        for block in t["h"]:
            x = block(x)
        return self.lm_head(t["ln_f"](x))  # right padding: nothing before it sees it


def qwen_vl_batch(seed, rows):
    """rows: images and tokens of text. An image is <img>, nine ids (a path's bytes, then <imgpad>), </img>."""
    g = torch.Generator().manual_seed(seed)
    start, lines, images = QWEN_VL["visual"]["image_start_id"], [], 0
    for count, length in rows:
        ids = torch.randint(3, 80, (2,), generator=g).tolist()
        for _ in range(count):
            images += 1
            path = [ord("a") - 60 + images] * (images % 3)
            ids += [start, *path, *[start + 2] * (9 - len(path)), start + 1]
        text = torch.randint(3, 80, (length,), generator=g).tolist()
        lines.append((ids + text, [-100] * len(ids) + text))
    batch = padded(lines)
    side = QWEN_VL["visual"]["image_size"]
    if images:
        batch["pixel_values"] = torch.randn((images, 3, side, side), generator=g)
    return batch


def make_qwen_vl(out):
    out.mkdir(parents=True, exist_ok=True)
    model = QwenVL(QWEN_VL).eval()
    randomise(model, 15)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if ".ln_" in name and name.endswith("weight"):
                p.add_(1.0)
        pool = model.transformer["visual"].attn_pool
        side, width = math.isqrt(pool.pos_embed.shape[0]), pool.pos_embed.shape[1]
        slow = 10000.0 ** (-torch.arange(width // 4).double() / (width // 4))
        row, column = (torch.arange(side * side) // side).double(), (torch.arange(side * side) % side).double()
        by = [f(torch.outer(at, slow)) for at in (column, row) for f in (torch.sin, torch.cos)]
        pool.pos_embed.copy_(torch.cat(by, 1))
    dump_json(out / "config.json", QWEN_VL)
    dump(out / "model.safetensors", dict(model.named_parameters()))

    batch = qwen_vl_batch(5000, [(1, 9), (2, 6), (0, 7)])
    inputs = {k: v for k, v in batch.items() if k != "labels"}
    logits = model(**inputs)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100)
    loss.backward()
    dump(out / "inputs.safetensors", batch)
    dump(out / "outputs.safetensors", {"logits": logits, "loss": loss.reshape(1)})
    dump(out / "grads.safetensors", gradients(model, {n: n for n, _ in model.named_parameters()}))
    prompts = [qwen_vl_batch(5100, [(1, 4)]), qwen_vl_batch(5101, [(2, 3)]), qwen_vl_batch(5102, [(0, 6)])]
    for prompt in prompts:  # places by <imgpad> alone
        ids = prompt["input_ids"][0]
        for at in (ids == QWEN_VL["visual"]["image_start_id"]).nonzero().flatten().tolist():
            ids[at + 1:at + 10] = QWEN_VL["visual"]["image_start_id"] + 2
    generations(out, lambda b: model(**b), prompts)


# ---- DeepSeek-VL's hybrid ----------------------------------------------------------------------

DEEPSEEK_IMAGE, DEEPSEEK_ROWS, LOW_SIDE, HIGH_SIDE = 71, 9, 15, 40


def deepseek_batch(seed, rows):
    """rows: images and tokens of text."""
    g = torch.Generator().manual_seed(seed)
    lines, images = [], 0
    for count, length in rows:
        ids = torch.randint(3, 70, (2,), generator=g).tolist()
        for _ in range(count):
            images += 1
            ids += [DEEPSEEK_IMAGE] * DEEPSEEK_ROWS + torch.randint(3, 70, (1,), generator=g).tolist()
        text = torch.randint(3, 70, (length,), generator=g).tolist()
        lines.append((ids + text, [-100] * len(ids) + text))
    batch = padded(lines)
    if images:
        batch["pixel_values"] = torch.randn((images, 3, LOW_SIDE, LOW_SIDE), generator=g)
        batch["high_res_pixel_values"] = torch.randn((images, 3, HIGH_SIDE, HIGH_SIDE), generator=g)
    return batch


def make_deepseek_vl_hybrid(out):
    out.mkdir(parents=True, exist_ok=True)
    config = DeepseekVLHybridConfig(
        image_token_id=DEEPSEEK_IMAGE, tie_word_embeddings=True,
        text_config=dict(model_type="llama", vocab_size=74, hidden_size=36, intermediate_size=52,
                         num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=10,
                         max_position_embeddings=128, rms_norm_eps=1e-6, pad_token_id=0, bos_token_id=1,
                         eos_token_id=2, tie_word_embeddings=True),
        vision_config=dict(model_type="siglip_vision_model", hidden_size=20, intermediate_size=32,
                           num_hidden_layers=2, num_attention_heads=2, image_size=LOW_SIDE, patch_size=5,
                           hidden_act="gelu", vision_use_head=False),
        # windows of 2 in a grid of 5; the first global block of the list is not the lowest
        high_res_vision_config=dict(model_type="sam_vision_model", hidden_size=24, num_hidden_layers=3,
                                    num_attention_heads=3, image_size=HIGH_SIDE, patch_size=8, window_size=2,
                                    global_attn_indexes=[1, 0], output_channels=6, mlp_dim=None,
                                    mlp_ratio=1.5))
    config._attn_implementation = "eager"
    model = DeepseekVLHybridForConditionalGeneration(config).eval()
    randomise(model, 16)
    with torch.no_grad():
        model.model.high_res_vision_alpha.fill_(0.8)  # published models began at 0
    model.tie_weights()
    model.save_pretrained(out)
    names = rename(model, out)

    batch = deepseek_batch(6000, [(1, 9), (2, 5), (0, 7)])
    o = model(**batch)
    o.loss.backward()
    dump(out / "inputs.safetensors", batch)
    sam = model.model.high_res_vision_model(batch["high_res_pixel_values"], output_hidden_states=True)
    low = model.model.vision_model(batch["pixel_values"]).last_hidden_state
    dump(out / "outputs.safetensors",
         {"logits": o.logits, "loss": o.loss.reshape(1), "low_res_last_hidden_state": low,
          "sam_neck_output": sam.last_hidden_state} |
         {f"sam_hidden_states.{i}": h for i, h in enumerate(sam.hidden_states)})
    dump(out / "grads.safetensors", gradients(model, names))
    generations(out, lambda b: model(**b).logits,
                [deepseek_batch(6100, [(1, 4)]), deepseek_batch(6101, [(2, 3)]), deepseek_batch(6102, [(0, 6)])])


# ---- decoders alone, with stretched rotary positions -------------------------------------------

def text_batch(seed, lengths):
    g = torch.Generator().manual_seed(seed)
    rows = []
    for n in lengths:
        ids = torch.randint(3, 50, (n,), generator=g).tolist()
        rows.append((ids, [-100] * 3 + ids[3:]))
    return padded(rows)


def text_decoder(out, cls, config, seed, prompts):
    """A model of its own for everything that is run: a base that grew with one sequence would stay for the next."""
    out.mkdir(parents=True, exist_ok=True)
    config._attn_implementation = "eager"
    model = cls(config).eval()
    randomise(model, seed)
    model.tie_weights()
    model.save_pretrained(out)
    names = rename(model, out)
    batch = text_batch(seed + 1, [27, 19, 8])
    o = model(**batch)
    o.loss.backward()
    dump(out / "inputs.safetensors", batch)
    dump(out / "outputs.safetensors", {"logits": o.logits, "loss": o.loss.reshape(1)})
    dump(out / "grads.safetensors", gradients(model, names))
    list_ = []
    for i, n in enumerate(prompts):
        model = cls.from_pretrained(out, attn_implementation="eager").eval()
        ids = text_batch(seed + 10 + i, [n])["input_ids"]
        made = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False,
                              eos_token_id=None, pad_token_id=0, output_logits=True, return_dict_in_generate=True)
        gaps = [float(top[0, 0] - top[0, 1]) for top in (l.topk(2).values for l in made.logits)]
        assert min(gaps) > 1e-4, "a tie: choose another seed"
        list_.append({"prompt_ids": ids[0].tolist(), "generated_ids": made.sequences[0, n:].tolist(),
                      "min_top1_minus_top2_logit": min(gaps)})
    dump_json(out / "generation.json", {"mode": "greedy, 16 new tokens, eos ignored, with the library's cache", "prompts": list_})


SMALL_TEXT = dict(vocab_size=50, hidden_size=24, intermediate_size=36, num_hidden_layers=2, num_attention_heads=2,
                  num_key_value_heads=1, pad_token_id=0, bos_token_id=1, eos_token_id=2)


def make_yarn(out):
    """Frequencies 1 to 3 of 6 lie on the ramp."""
    text_decoder(out, Qwen2ForCausalLM, Qwen2Config(
        **SMALL_TEXT, max_position_embeddings=64, tie_word_embeddings=True,
        rope_parameters={"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 64}), 21, [5, 30])


def make_dynamic_ntk(out):
    """Trained for 12 positions: the batch has 27; the prompts begin below and above, and grow."""
    text_decoder(out, LlamaForCausalLM, LlamaConfig(
        **SMALL_TEXT, max_position_embeddings=12, rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 1000.0, "factor": 4.0}), 22, [5, 12, 20])


def main():
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    folders = {"clip": make_clip, "siglip": make_siglip, "llava": make_llava,
               "qwen2_vl": make_qwen2_vl, "qwen_vl": make_qwen_vl,
               "deepseek_vl_hybrid": make_deepseek_vl_hybrid, "yarn": make_yarn, "dynamic_ntk": make_dynamic_ntk}
    for name, make in folders.items():
        if ARGS.only and name not in ARGS.only:
            continue
        make(ARGS.out / name)
        (ARGS.out / name / "model.safetensors").chmod(0o644)
        (ARGS.out / name / "generation_config.json").unlink(missing_ok=True)
    versions = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
    if ARGS.only:  # the others keep what they were made with
        before = json.loads((ARGS.out / "versions.json").read_text())
        versions = before | {name: versions for name in ARGS.only}
    dump_json(ARGS.out / "versions.json", versions)
    size = sum(f.stat().st_size for f in ARGS.out.rglob("*") if f.is_file())
    print(f"{ARGS.out}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
