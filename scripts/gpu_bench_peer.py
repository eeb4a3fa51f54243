#!/usr/bin/env python3
"""The other side of scripts/gpu_bench.sh: PyTorch and transformers on the rows of tests/bench/gpu_shapes.json.

    scripts/gpu_bench_peer.py --rows ceiling,full,b32 [--how eager,layers,compile] [--steps 10] [--shrink K]
    scripts/gpu_bench_peer.py --table FILE      the table of gpu_bench.sh, from its JSON lines

Weights and AdamW's moments in bf16, no fp32 copies; fused AdamW, gradient norm clipped as ours is; scaled-dot-product
attention; no recompute, unless the memory does not do without: then it says so. Weights are random, made on the device;
tokens, labels and pixels lie there too. One JSON line a way of running: the median of steps that are each waited for, a
step's share of as many that are not, and memory beyond inputs: allocated, reserved, and what the device has less of.

Ways: eager; layers, every block compiled (once, as they are alike); compile, the whole model, which takes minutes for deep
ones. Decoding: eager is a plain cache, the others a static one with the compiled step that transformers makes of it.
Where --how is not given: eager for LLaVA's steps; eager and layers for CLIP's; eager and compile for decoding.
"""
import argparse
import gc
import json
import os
import statistics
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SHAPES = os.path.join(ROOT, "tests/bench/gpu_shapes.json")


# ---- models ------------------------------------------------------------------------------------------

def vision_config(v, **more):
    from transformers import CLIPVisionConfig
    return CLIPVisionConfig(hidden_size=v["C"], intermediate_size=v["F"], num_hidden_layers=v["L"], num_attention_heads=v["H"],
                            image_size=v["image_size"], patch_size=v["patch"], hidden_act=v["act"], **more)


def make_model(torch, model):
    """On the device, in bf16."""
    v = model["vision"]
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            if model["kind"] == "clip":
                from transformers import CLIPConfig, CLIPModel
                t = model["text"]
                return CLIPModel(CLIPConfig(
                    text_config=dict(vocab_size=t["V"], hidden_size=t["C"], intermediate_size=t["F"], num_hidden_layers=t["L"],
                                     num_attention_heads=t["H"], max_position_embeddings=t["T"], projection_dim=t["E"],
                                     hidden_act=t["act"]),
                    vision_config=dict(hidden_size=v["C"], intermediate_size=v["F"], num_hidden_layers=v["L"],
                                       num_attention_heads=v["H"], image_size=v["image_size"], patch_size=v["patch"],
                                       hidden_act=v["act"], projection_dim=v["E"]),
                    projection_dim=v["E"], attn_implementation="sdpa"))
            from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
            d = model["decoder"]
            return LlavaForConditionalGeneration(LlavaConfig(
                vision_config=vision_config(v),
                text_config=LlamaConfig(vocab_size=d["V"], hidden_size=d["C"], intermediate_size=d["F"], num_hidden_layers=d["L"],
                                        num_attention_heads=d["H"], num_key_value_heads=d["H"], max_position_embeddings=d["T"],
                                        rms_norm_eps=d["eps"]),
                image_token_id=model["image_id"], vision_feature_layer=model["feature_layer"],
                vision_feature_select_strategy="default", attn_implementation="sdpa"))
    finally:
        torch.set_default_dtype(torch.float32)


def add_adapters(torch, net, r):
    """Hu et al. 2021 on every linear of the decoder's blocks: y = W x + 2 B A x."""
    class Adapted(torch.nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base = base
            like = dict(device="cuda", dtype=torch.bfloat16, bias=False)
            self.A, self.B = torch.nn.Linear(base.in_features, r, **like), torch.nn.Linear(r, base.out_features, **like)
            torch.nn.init.zeros_(self.B.weight)

        def forward(self, x):
            return self.base(x) + self.B(self.A(x)) * 2.0

    found = [(m, name, child) for path, m in net.named_modules() if ".layers." in path and "language_model" in path
             for name, child in m.named_children() if isinstance(child, torch.nn.Linear)]
    for m, name, child in found:
        setattr(m, name, Adapted(child))
    return len(found)


def choose_trained(torch, net, row):
    if row["train"] == [""]:
        return
    net.requires_grad_(False)
    for name, p in net.named_parameters():
        part = "projector." if "multi_modal_projector" in name else "" if "vision_tower" in name else "decoder."
        if part in row["train"] or ".A.weight" in name or ".B.weight" in name:
            p.requires_grad_(True)


def make_inputs(torch, model, row):
    B, T, v = row["batch"], row["tokens"], model["vision"]
    pixels = torch.randn(B, 3, v["image_size"], v["image_size"], device="cuda", dtype=torch.bfloat16)
    if model["kind"] == "clip":
        return dict(input_ids=torch.randint(3, model["text"]["V"], (B, T), device="cuda"), pixel_values=pixels, return_loss=True)
    P = (v["image_size"] // v["patch"]) ** 2
    text = torch.randint(3, model["image_id"], (B, T - P), device="cuda")
    ids = torch.cat((torch.full((B, P), model["image_id"], device="cuda"), text), dim=1)
    labels = torch.cat((torch.full((B, P), -100, device="cuda"), text), dim=1)
    return dict(input_ids=ids, pixel_values=pixels, labels=labels)


def shrunk(model, k):
    model = json.loads(json.dumps(model))
    for part in ("vision", "text", "decoder"):
        if part in model:
            model[part]["L"] = max(2 if part == "vision" else 1, model[part]["L"] // k)
    return model


def ways(row, model, options):
    if options.how:
        return options.how.split(",")
    return ["eager", "compile"] if "decode" in row else ["eager", "layers"] if model["kind"] == "clip" else ["eager"]


# ---- steps -------------------------------------------------------------------------------------------

def waited(torch, work):
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def measure(torch, step, warmup, steps):
    for _ in range(warmup):
        step()
    torch.cuda.synchronize()
    each = [waited(torch, step) for _ in range(steps)]

    def all_of_them():
        for _ in range(steps):
            step()
    return 1e3 * statistics.median(each), 1e3 * waited(torch, all_of_them) / steps


def train(torch, name, row, model, options):
    inputs = make_inputs(torch, model, row)
    torch.cuda.synchronize()
    apart, free = torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[0]
    net = make_model(torch, model)
    if row.get("lora"):
        add_adapters(torch, net, row["lora"])
    choose_trained(torch, net, row)
    net.train()
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, weight_decay=0.01, fused=True)
    numbers = sum(p.numel() for p in net.parameters()), sum(p.numel() for p in trained)
    for how in ways(row, model, options):
        recompute = False
        if how == "layers":
            for path, m in net.named_modules():
                if path.rsplit(".", 1)[-1].isdigit() and ".layers." in path:
                    m.compile()
        while True:
            began = time.perf_counter()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            run = torch.compile(net) if how == "compile" else net

            def step():
                loss = run(**inputs).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                step.loss = loss.detach()
            try:
                ms, through = measure(torch, step, options.warmup, options.steps)
                break
            except torch.cuda.OutOfMemoryError:
                if recompute:
                    raise
            recompute = True  # outside the handler: what the step held is gone
            optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            net.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            if "decoder." not in row["train"] and model["kind"] == "vlm":
                net.enable_input_require_grads()
        print(json.dumps({"row": name, "who": how, "ms": ms, "through_ms": through, "recompute": recompute,
                          "allocated": torch.cuda.max_memory_allocated() - apart,
                          "reserved": torch.cuda.max_memory_reserved() - apart,
                          "memory": free - torch.cuda.mem_get_info()[0], "parameters": numbers[0], "trained": numbers[1],
                          "loss": float(step.loss), "torch": torch.__version__, "device": torch.cuda.get_device_name(),
                          "seconds": time.perf_counter() - began}), flush=True)


def decode(torch, name, row, model, options):
    inputs = make_inputs(torch, model, row)
    inputs.pop("labels")
    net = make_model(torch, model).eval()
    net.generation_config.eos_token_id = None
    net.generation_config.pad_token_id = 0

    @torch.inference_mode()
    def prefill():
        net(**inputs, use_cache=True, logits_to_keep=1).logits.argmax()

    @torch.inference_mode()
    def generate(n, **more):
        return net.generate(**inputs, max_new_tokens=n, min_new_tokens=n, do_sample=False, **more)
    prefill_ms, _ = measure(torch, prefill, 3, options.steps)
    for how in ways(row, model, options):
        began = time.perf_counter()
        more = {"cache_implementation": "static"} if how != "eager" else {}
        few, many = 8, 72
        try:
            for _ in range(2):
                generate(few, **more)
            generate(many, **more)
            t = {n: min(waited(torch, lambda: generate(n, **more)) for _ in range(3)) for n in (few, many)}
            print(json.dumps({"row": name, "who": "static" if how != "eager" else "plain", "prefill_ms": prefill_ms,
                              "token_ms": 1e3 * (t[many] - t[few]) / (many - few), "allocated": torch.cuda.max_memory_allocated(),
                              "torch": torch.__version__, "device": torch.cuda.get_device_name(),
                              "seconds": time.perf_counter() - began}), flush=True)
        except Exception as e:  # the other way may still work
            print(json.dumps({"row": name, "who": how, "failed": f"{type(e).__name__}: {str(e).strip().splitlines()[0][:200]}"}),
                  flush=True)


def run_rows(torch, shapes, options):
    """Each alone; one that fails says why."""
    for name in options.rows.split(","):
        gc.collect()
        torch.cuda.empty_cache()
        torch._dynamo.reset()
        torch.manual_seed(1)
        try:
            if name == "ceiling":
                ceiling(torch)
                continue
            row = shapes["rows"][name]
            model = shrunk(shapes["models"][row["model"]], options.shrink)
            (decode if "decode" in row else train)(torch, name, row, model, options)
        except Exception as e:
            why = (str(e).strip().splitlines() or ["no message"])[0][:200]
            print(json.dumps({"row": name, "who": "PyTorch", "failed": f"{type(e).__name__}: {why}"}), flush=True)
            if isinstance(e, getattr(torch, "AcceleratorError", ())) or "CUDA error" in why:
                sys.exit(1)  # nothing works after it in this process


def ceiling(torch):
    """TFLOP/s of an 8192^3 product in bf16, bytes read and written a second of a copy."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    x = torch.empty(1 << 30, device="cuda", dtype=torch.uint8)
    y = torch.empty_like(x)
    _, product = measure(torch, lambda: torch.mm(a, b.T), 10, 30)
    _, copy = measure(torch, lambda: y.copy_(x), 5, 30)
    print(json.dumps({"row": "ceiling", "who": "PyTorch", "tflops": 2e-9 * 8192 ** 3 / product, "gbs": 2e-6 * 2 ** 30 / copy,
                      "device": torch.cuda.get_device_name(), "torch": torch.__version__}), flush=True)


# ---- the table ---------------------------------------------------------------------------------------

def best_ms(r):
    return min(r["ms"], r.get("through_ms", r["ms"]))


def gib(n):
    return f"{n / 2 ** 30:.1f}" if n else "-"


def decode_bytes(model, tokens):
    """What one further token must read: every matrix of the decoder and its head, keys and values of what stands before."""
    d = model["decoder"]
    numbers = d["L"] * (4 * d["C"] ** 2 + 3 * d["C"] * d["F"]) + d["V"] * d["C"] + 2 * d["L"] * tokens * d["C"]
    return 2 * numbers


def print_table(path):
    shapes = json.load(open(SHAPES))
    lines = [json.loads(line) for line in open(path) if line.startswith("{")]
    tops = [r for r in lines if r["row"] == "ceiling" and "tflops" in r]
    top = max((r["tflops"] for r in tops), default=None)
    copy = max((r["gbs"] for r in tops), default=None)
    if tops:
        print(f"{tops[0].get('device', '')}: products {top:.0f} TFLOP/s, copying {copy / 1e3:.2f} TB/s")
    print(f"{'row':<18} {'ours ms':>9} {'PyTorch ms':>11} {'ratio':>6} {'ceiling':>8} {'ours GiB':>9} {'plan GiB':>9} {'plan off':>8} "
          f"{'PyTorch GiB':>12}")
    for name in shapes["rows"]:
        mine = [r for r in lines if r["row"] == name]
        if not mine:
            continue
        ours = [r for r in mine if r["who"].startswith("percept")]
        peers = [r for r in mine if not r["who"].startswith("percept")]
        for kind, key in (("prefill", "prefill_ms"), ("token", "token_ms")) if "decode" in shapes["rows"][name] else (("", "ms"),):
            show(shapes, name, kind, key, ours, peers, top, copy)


def show(shapes, name, kind, key, ours, peers, top, copy):
    row = shapes["rows"][name]
    worked = [r for r in peers if key in r]
    value = (lambda r: best_ms(r)) if key == "ms" else (lambda r: r[key])
    best = min(worked, key=value, default=None)
    others = ", ".join(f"{r['who']} {value(r):.1f} ms{' with recompute' if r.get('recompute') else ''}, "
                       f"{gib(r.get('reserved', r.get('allocated', 0)))} GiB" for r in worked)
    failed = "; ".join(f"{r['who']} failed: {r['failed']}" for r in ours + peers if "failed" in r)
    for r in [r for r in ours if key in r] or [None]:
        ms = value(r) if r else None
        share = None
        if r and key == "ms" and top:
            share = r["tflop"] / (1e-3 * ms) / top
        if r and key == "token_ms" and copy:
            share = decode_bytes(shapes["models"][row["model"]], row["tokens"]) / (1e6 * ms) / copy
        label = f"{name} {kind}".strip()
        off = f"{100 * (r['planned'] / r['memory'] - 1):+.1f} %" if r and r.get("planned") and r.get("memory") else "-"
        how = r["who"][len("percept"):].strip() if r else ""
        print(f"{label:<18} {f'{ms:.2f}' if r else '-':>9} {f'{value(best):.2f}' if best else '-':>11} "
              f"{f'{ms / value(best):.2f}' if r and best else '-':>6} {f'{100 * share:.0f} %' if share else '-':>8} "
              f"{gib(r.get('memory')) if r else '-':>9} {gib(r.get('planned')) if r else '-':>9} {off:>8} "
              f"{gib(best.get('reserved', best.get('allocated'))) if best else '-':>12}  {how}{' ' if how else ''}({others or 'no peer'})")
    if failed:
        print(f"    {failed}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", help="by name, with commas between; and \"ceiling\"")
    parser.add_argument("--how", help="eager, layers or compile, with commas between")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--shrink", type=int, default=1, help="divide layers")
    parser.add_argument("--table", metavar="FILE")
    options = parser.parse_args()
    if options.table:
        print_table(options.table)
        return
    shapes = json.load(open(SHAPES))
    for name in (options.rows or "").split(","):
        if name != "ceiling" and name not in shapes["rows"]:
            parser.error(f"no row '{name}' in {SHAPES}; there are ceiling, {', '.join(shapes['rows'])}")
    import torch
    import torch._dynamo
    if not torch.cuda.is_available():
        sys.exit("PyTorch sees no GPU")
    run_rows(torch, shapes, options)


if __name__ == "__main__":
    main()
