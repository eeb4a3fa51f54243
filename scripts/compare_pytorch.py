#!/usr/bin/env python3
"""percept's training step beside PyTorch's: same shapes, same batch, fp32, same threads, turns taken.

    scripts/compare_pytorch.py [--threads 2] [--rounds 5] [--only NAME ...]

Makes its own environment (build/venv-compare) with PyTorch and transformers, starts tests/bench's
bench_train and its PyTorch peers (eager and torch.compile) side by side, lets them take turns so that
whatever else the machine does meets all of them, and prints medians. The better of the two peers counts.
Shapes stand in tests/bench/shapes.json; the two large ones are transformers' CLIPModel and
LlavaForConditionalGeneration, the two small ones plain nn.Modules.

Columns: seconds of a step and CPU seconds of a step (for busy machines), the ratio ours / PyTorch of both,
memory (largest resident set above the start, libraries loaded), and the share of the machine's best measured
matrix product that our step reaches.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


# ---- the peers: only these import torch --------------------------------------------------------------

def make_small(torch, nn, F):
    """The quickstart's networks as one would write them in PyTorch."""

    class Attention(nn.Module):
        def __init__(self, C, H, bias=True, qk_norm=False):
            super().__init__()
            self.H = H
            self.qkv, self.out = nn.Linear(C, 3 * C, bias=bias), nn.Linear(C, C, bias=bias)
            self.norms = nn.ModuleList([nn.RMSNorm(C // H, eps=1e-6) for _ in range(2)]) if qk_norm else None

        def forward(self, x, mask=None, causal=False, rope=None):
            B, T, C = x.shape
            q, k, v = self.qkv(x).view(B, T, 3, self.H, C // self.H).permute(2, 0, 3, 1, 4).unbind(0)
            if self.norms is not None:
                q, k = self.norms[0](q), self.norms[1](k)
            if rope is not None:
                q, k = turn(q, *rope), turn(k, *rope)
            o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
            return self.out(o.transpose(1, 2).reshape(B, T, C))

    def turn(x, cos, sin):
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)

    class Block(nn.Module):
        def __init__(self, C, H, F_):
            super().__init__()
            self.n1, self.n2, self.attn = nn.LayerNorm(C), nn.LayerNorm(C), Attention(C, H)
            self.fc1, self.fc2 = nn.Linear(C, F_), nn.Linear(F_, C)

        def forward(self, x, causal=False):
            x = x + self.attn(self.n1(x), causal=causal)
            return x + self.fc2(F.gelu(self.fc1(self.n2(x))))

    class Tower(nn.Module):
        def __init__(self, c):
            super().__init__()
            C, stages = c["C"], (c["patch"]).bit_length() - 1
            widths = [3] + [c["stem_width"] << i for i in range(stages - 1)] + [C]
            self.convs = nn.ModuleList([nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in zip(widths, widths[1:])])
            self.cls = nn.Parameter(torch.zeros(1, 1, C))
            self.pos = nn.Parameter(torch.randn(1, (c["image_size"] // c["patch"]) ** 2 + 1, C) * 0.02)
            self.blocks = nn.ModuleList([Block(C, c["H"], c["F"]) for _ in range(c["L"])])

        def forward(self, x):
            for i, conv in enumerate(self.convs):
                x = conv(x if i == 0 else F.gelu(x))
            x = x.flatten(2).transpose(1, 2)
            x = torch.cat((self.cls.expand(x.shape[0], -1, -1), x), dim=1) + self.pos
            for block in self.blocks:
                x = block(x)
            return x

    class Clip(nn.Module):
        def __init__(self, model):
            super().__init__()
            v, t = model["vision"], model["text"]
            self.tower, self.norm_v = Tower(v), nn.LayerNorm(v["C"])
            self.proj_v, self.proj_t = nn.Linear(v["C"], v["E"], bias=False), nn.Linear(t["C"], t["E"], bias=False)
            self.tokens = nn.Embedding(t["V"], t["C"])
            self.pos = nn.Parameter(torch.randn(1, t["T"], t["C"]) * 0.02)
            self.blocks = nn.ModuleList([Block(t["C"], t["H"], t["F"]) for _ in range(t["L"])])
            self.norm_t, self.scale = nn.LayerNorm(t["C"]), nn.Parameter(torch.tensor(2.6592))

        def forward(self, pixels, ids):
            u = F.normalize(self.proj_v(self.norm_v(self.tower(pixels)[:, 0])), dim=-1)
            x = self.tokens(ids) + self.pos[:, :ids.shape[1]]
            for block in self.blocks:
                x = block(x, causal=True)
            v = F.normalize(self.proj_t(self.norm_t(x[:, -1])), dim=-1)
            logits = self.scale.exp() * u @ v.T
            label = torch.arange(len(logits))
            return (F.cross_entropy(logits, label) + F.cross_entropy(logits.T, label)) / 2

    class DecoderBlock(nn.Module):
        def __init__(self, C, H, F_):
            super().__init__()
            self.n1, self.n2 = nn.RMSNorm(C, eps=1e-6), nn.RMSNorm(C, eps=1e-6)
            self.attn = Attention(C, H, bias=False, qk_norm=True)
            self.up, self.down = nn.Linear(C, 2 * F_, bias=False), nn.Linear(F_, C, bias=False)

        def forward(self, x, mask, rope):
            x = x + self.attn(self.n1(x), mask=mask, rope=rope)
            gate, up = self.up(self.n2(x)).chunk(2, dim=-1)
            return x + self.down(F.silu(gate) * up)

    class Vlm(nn.Module):
        def __init__(self, shape):
            super().__init__()
            model = shape["model"]
            v, d = model["vision"], model["decoder"]
            C = d["C"]
            self.tower, self.proj = Tower(v), nn.Linear(v["C"], C)
            self.tokens = nn.Embedding(d["V"], C)
            self.blocks = nn.ModuleList([DecoderBlock(C, d["H"], d["F"]) for _ in range(d["L"])])
            self.norm, self.head = nn.RMSNorm(C, eps=1e-6), nn.Linear(C, d["V"], bias=False)
            P, n, per = (v["image_size"] // v["patch"]) ** 2, shape["branches"], shape["branch_tokens"]
            answer = shape["supervised"] // n
            T = P + n * per
            branch = torch.cat((torch.full((P,), -1), torch.arange(n).repeat_interleave(per)))
            row = torch.arange(T)
            see = ((branch[None] == branch[:, None]) & (row[None] <= row[:, None])) | (row[None] < P)
            self.register_buffer("mask", see)
            pos = torch.cat((torch.arange(P), P + torch.arange(per).repeat(n)))
            half = C // d["H"] // 2
            angle = pos[:, None] * 1e4 ** (-torch.arange(half) / half)
            self.register_buffer("cos", angle.cos())
            self.register_buffer("sin", angle.sin())
            inside = torch.arange(n * per) % per
            learned = (inside >= per - answer).nonzero()[:, 0]
            self.register_buffer("from_rows", P + learned - 1)
            self.register_buffer("learned", learned)

        def forward(self, pixels, ids):
            x = torch.cat((self.proj(self.tower(pixels)[:, 1:]), self.tokens(ids)), dim=1)
            for block in self.blocks:
                x = block(x, self.mask, (self.cos, self.sin))
            logits = self.head(self.norm(x[:, self.from_rows]))
            return F.cross_entropy(logits.flatten(0, 1), ids[:, self.learned].flatten())

    return Clip, Vlm


def make_peer(torch, name, shape):
    """A model, and a function of no arguments that gives its loss on made-up data."""
    nn, F, model, B = torch.nn, torch.nn.functional, shape["model"], shape["batch"]
    v = model["vision"]
    pixels = torch.rand(B, 3, v["image_size"], v["image_size"]) * 2 - 1
    if name == "clip-vit-b32":
        from transformers import CLIPConfig, CLIPModel
        t = model["text"]
        net = CLIPModel(CLIPConfig(
            text_config=dict(vocab_size=t["V"], hidden_size=t["C"], intermediate_size=t["F"], num_hidden_layers=t["L"],
                             num_attention_heads=t["H"], max_position_embeddings=t["T"], projection_dim=t["E"]),
            vision_config=dict(hidden_size=v["C"], intermediate_size=v["F"], num_hidden_layers=v["L"],
                               num_attention_heads=v["H"], image_size=v["image_size"], patch_size=v["patch"]),
            projection_dim=v["E"], attn_implementation="sdpa"))
        ids = torch.randint(3, t["V"] - 1, (B, shape["tokens"]))
        return net, lambda f: f(input_ids=ids, pixel_values=pixels, return_loss=True).loss
    if name == "llava-160m":
        from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
        d = model["decoder"]
        net = LlavaForConditionalGeneration(LlavaConfig(
            vision_config=CLIPVisionConfig(hidden_size=v["C"], intermediate_size=v["F"], num_hidden_layers=v["L"],
                                           num_attention_heads=v["H"], image_size=v["image_size"], patch_size=v["patch"]),
            text_config=LlamaConfig(vocab_size=d["V"], hidden_size=d["C"], intermediate_size=d["F"],
                                    num_hidden_layers=d["L"], num_attention_heads=d["H"],
                                    max_position_embeddings=d["T"]),
            image_token_id=model["image_id"], vision_feature_layer=-1, attn_implementation="sdpa"))
        P = (v["image_size"] // v["patch"]) ** 2
        text = torch.randint(3, d["V"] - 1, (B, shape["tokens"] - P))
        ids = torch.cat((torch.full((B, P), model["image_id"]), text), dim=1)
        labels = torch.cat((torch.full((B, shape["tokens"] - shape["supervised"]), -100), text[:, -shape["supervised"]:]), dim=1)
        return net, lambda f: f(input_ids=ids, pixel_values=pixels, labels=labels).loss
    Clip, Vlm = make_small(torch, nn, F)
    if model["kind"] == "clip":
        ids = torch.randint(3, model["text"]["V"], (B, shape["tokens"]))
        return Clip(model), lambda f: f(pixels, ids)
    ids = torch.randint(3, model["decoder"]["V"] - 1, (B, shape["branches"] * shape["branch_tokens"]))
    return Vlm(shape), lambda f: f(pixels, ids)


def memory(what):
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith(what))


def peer(name, how, threads):
    """The other side of bench_train's protocol."""
    import torch
    if name in ("clip-vit-b32", "llava-160m"):
        import transformers  # noqa: F401 - before memory is looked at
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    start = memory("VmRSS:")
    shape = json.load(open(os.path.join(ROOT, "tests/bench/shapes.json")))[name]
    net, loss_of = make_peer(torch, name, shape)
    net.train()
    run = torch.compile(net) if how == "compile" else net
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-5, weight_decay=0.01, fused=True)

    def step():
        loss = loss_of(run)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        return float(loss.detach())

    print(json.dumps({"parameters": sum(p.numel() for p in net.parameters()), "torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        if line.startswith("sgemm"):
            a, b = torch.rand(2048, 2048), torch.rand(2048, 2048)
            best = min(timed(lambda: a @ b)[0] for _ in range(5))
            print(f"{2e-9 * 2048 ** 3 / best:.1f}", flush=True)
            continue
        print(json.dumps([timed(step) for _ in range(int(line))]), flush=True)
    print(json.dumps({"memory": memory("VmHWM:") - start}), flush=True)


def timed(work):
    began, cpu = time.perf_counter(), time.process_time()
    work()
    return [time.perf_counter() - began, time.process_time() - cpu]


# ---- taking turns ------------------------------------------------------------------------------------

class Worker:
    def __init__(self, label, command):
        self.label, self.steps, self.failed = label, [], None
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)
        self.about = self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.failed = (self.process.stderr.read().strip().splitlines() or ["no message"])[-1]
            return None
        return json.loads(line)

    def ask(self, what):
        if self.failed:
            return None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self):
        if self.failed:
            return None
        self.process.stdin.close()
        end = self.answer()
        self.process.wait()
        return end


def compare(name, options):
    command = [sys.executable, os.path.abspath(__file__), "--threads", str(options.threads), "--peer", name]
    workers = [Worker("percept", [options.bench, os.path.join(ROOT, "tests/bench/shapes.json"), name, str(options.threads)]),
               Worker("eager", command + ["eager"])]
    if not options.no_compile:
        workers.append(Worker("compile", command + ["compile"]))
    for w in workers:
        w.ask(2)  # pages are touched, torch.compile compiles
    first = workers[0].ask(1)
    if workers[0].failed:
        sys.exit(f"{name}: bench_train failed: {workers[0].failed}")
    count = max(1, min(20, int(1.0 / first[0][0])))
    rates = [0.0]
    for _ in range(options.rounds):
        for w in workers:
            time.sleep(0.3)  # threads of the one before have stopped waiting
            w.steps += w.ask(count) or []
    for w in workers[:2]:
        rates.append(w.ask("sgemm") or 0.0)
    ours, result = None, []
    for w in workers:
        end = w.close()
        if w.failed:
            print(f"{name}: {w.label} left out: {w.failed}", file=sys.stderr)
            continue
        row = {"shape": name, "who": w.label, "seconds": statistics.median(s[0] for s in w.steps),
               "cpu": statistics.median(s[1] for s in w.steps), "memory": end["memory"],
               "parameters": w.about["parameters"], "steps": len(w.steps)}
        result.append(row)
        ours = ours or row
    peers = result[1:]
    best = min(peers, key=lambda r: r["seconds"])
    ours.update(ratio=ours["seconds"] / best["seconds"],
                cpu_ratio=ours["cpu"] / min(r["cpu"] for r in peers),
                memory_ratio=ours["memory"] / min(r["memory"] for r in peers),
                gflops=workers[0].about["flops"] / ours["seconds"] * 1e-9,
                gflops_cpu=workers[0].about["flops"] / ours["cpu"] * options.threads * 1e-9,
                sgemm=max(rates), isa=workers[0].about["isa"], torch=workers[1].about["torch"])
    return result


def table(rows):
    print(f"{'shape':<16} {'who':<9} {'parameters':>11} {'s/step':>8} {'CPU s':>8} {'MiB':>6} "
          f"{'ratio':>6} {'CPU':>5} {'memory':>6}  GFLOP/s, share of sgemm")
    for r in rows:
        end = ""
        if "ratio" in r:
            end = (f" {r['ratio']:6.2f} {r['cpu_ratio']:5.2f} {r['memory_ratio']:6.2f}  {r['gflops']:.0f}, "
                   f"{100 * r['gflops'] / r['sgemm']:.0f} % of {r['sgemm']:.0f}; by CPU time {r['gflops_cpu']:.0f}")
        print(f"{r['shape']:<16} {r['who']:<9} {r['parameters']:>11,} {r['seconds']:8.4f} {r['cpu']:8.4f} "
              f"{r['memory'] / 2 ** 20:6.0f}{end}")


def enter_environment(options):
    python = os.path.join(options.venv, "bin", "python")
    if os.path.abspath(sys.prefix) == os.path.abspath(options.venv):
        return
    if not os.path.exists(os.path.join(options.venv, "ready")):
        subprocess.run([sys.executable, "-m", "venv", options.venv], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "numpy", "torch", "transformers"], check=True)
        open(os.path.join(options.venv, "ready"), "w").close()
    os.execv(python, [python, os.path.abspath(__file__)] + sys.argv[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side (default 5)")
    parser.add_argument("--only", nargs="+", help="shapes to run, by name")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--venv", default=os.path.join(ROOT, "build/venv-compare"), help="where the environment goes")
    parser.add_argument("--bench", default=os.path.join(ROOT, "build/tests/bench_train"), help="our side")
    parser.add_argument("--json", action="store_true", help="rows as JSON, one a line")
    parser.add_argument("--peer", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        peer(*options.peer, options.threads)
        return
    enter_environment(options)
    if not os.path.exists(options.bench):
        sys.exit(f"{options.bench} is not built: cmake --preset release && cmake --build --preset release")
    rows = []
    for name in options.only or json.load(open(os.path.join(ROOT, "tests/bench/shapes.json"))):
        done = compare(name, options)
        rows += done
        if options.json:
            for row in done:
                print(json.dumps(row), flush=True)
        else:
            table(done)
            sys.stdout.flush()
    if not options.json and len(rows) > 1:
        print(f"\n{rows[0]['isa']}, {options.threads} threads, PyTorch {rows[0]['torch']}; ratio = ours / PyTorch's better, "
              "of time, CPU time and memory")


if __name__ == "__main__":
    main()
