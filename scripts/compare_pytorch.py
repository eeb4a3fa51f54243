#!/usr/bin/env python3
"""percept's training step beside PyTorch's: same shapes, same batch, fp32, same threads, AdamW both, turns taken.

    scripts/compare_pytorch.py [--threads 2] [--rounds 5] [--only NAME ...] [--json]

Makes its own environment (build/venv-compare) with PyTorch and transformers, starts tests/bench's
bench_train and its PyTorch peers (eager, and torch.compile where a C++ compiler is) as processes side by side,
lets them take turns so that whatever else the machine does meets all of them, and prints medians. The better of the
peers counts, of time and of memory each. Shapes stand in tests/bench/shapes.json; the two large ones are
transformers' CLIPModel and LlavaForConditionalGeneration, the two small ones plain nn.Modules: rows are padded to the
longest of the batch, branches are a mask, laid out outside the step as ours are.

Columns: milliseconds of a step, ratio ours / PyTorch of medians, of the least of all steps and of CPU time, memory
(largest resident set above the start, libraries loaded), the share of the machine's best measured matrix product, ours,
OpenBLAS's or PyTorch's, that our step reaches, and what other processes took of the machine meanwhile. Above a few
per cent the medians of two threads are not to be trusted: PyTorch's threads wait for each other at every operation and
lose far more than ours do. `--threads 1` and the ratio by CPU time are what remains true on a busy machine.
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SHAPES = os.path.join(ROOT, "tests/bench/shapes.json")


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

        def forward(self, pixels, ids, last):
            u = F.normalize(self.proj_v(self.norm_v(self.tower(pixels)[:, 0])), dim=-1)
            x = self.tokens(ids) + self.pos[:, :ids.shape[1]]
            for block in self.blocks:
                x = block(x, causal=True)
            v = F.normalize(self.proj_t(self.norm_t(x[torch.arange(len(x)), last])), dim=-1)
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
        def __init__(self, model):
            super().__init__()
            v, d = model["vision"], model["decoder"]
            C = d["C"]
            self.tower, self.proj = Tower(v), nn.Linear(v["C"], C)
            self.tokens = nn.Embedding(d["V"], C)
            self.blocks = nn.ModuleList([DecoderBlock(C, d["H"], d["F"]) for _ in range(d["L"])])
            self.norm, self.head = nn.RMSNorm(C, eps=1e-6), nn.Linear(C, d["V"], bias=False)

        def forward(self, pixels, ids, mask, cos, sin, learned, labels):
            x = torch.cat((self.proj(self.tower(pixels)[:, 1:]), self.tokens(ids)), dim=1)
            for block in self.blocks:
                x = block(x, mask, (cos, sin))
            return F.cross_entropy(self.head(self.norm(x.flatten(0, 1)[learned])), labels)

    return Clip, Vlm


def lay_out(torch, shape):
    """Rows of branches as PyTorch takes them: padded to the longest, a mask of who sees whom, positions in two directions."""
    model = shape["model"]
    side, D = model["vision"]["image_size"] // model["vision"]["patch"], model["decoder"]["C"] // model["decoder"]["H"]
    P = side * side
    rows = [[tuple(map(int, part.split("/"))) for part in row.split()] for row in shape["rows"]]
    B, T = len(rows), P + max(sum(n for n, _ in row) for row in rows)
    branch = torch.full((B, T), -1)  # of an image's row: -1; of padding: -2
    places = torch.zeros(B, T, 2)
    places[:, :P, 0], places[:, :P, 1] = torch.arange(P) % side, torch.arange(P) // side
    ids = torch.zeros(B, T - P, dtype=torch.long)
    learned, labels = [], []
    for b, row in enumerate(rows):
        at = P
        for i, (n, answer) in enumerate(row):
            branch[b, at:at + n] = i
            places[b, at:at + n] = side + torch.arange(n)[:, None]
            ids[b, at - P:at - P + n] = torch.randint(3, model["decoder"]["V"] - 1, (n,))
            for t in range(at + n - answer, at + n):
                learned.append(b * T + t - 1)
                labels.append(int(ids[b, t - P]))
            at += n
        branch[b, at:] = -2
    t = torch.arange(T)
    see = (branch[:, :, None] == branch[:, None]) & (t[None] <= t[:, None])  # padding sees padding: no row is empty
    see |= (branch[:, None] == -1)  # an image is seen by all, itself both ways
    mask = torch.zeros(B, 1, T, T).masked_fill(~see[:, None], float("-inf"))
    j = torch.arange(D // 2)
    angle = places[:, :, j % 2] * 1e4 ** (-j / (D // 2))
    return (ids, mask, angle.cos()[:, None], angle.sin()[:, None], torch.tensor(learned), torch.tensor(labels))


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
        lengths = torch.tensor([shape["texts"][i % len(shape["texts"])] for i in range(B)])
        ids = torch.randint(3, model["text"]["V"], (B, int(lengths.max())))
        return Clip(model), lambda f: f(pixels, ids, lengths - 1)
    rest = lay_out(torch, shape)
    return Vlm(model), lambda f: f(pixels, *rest)


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
    shape = json.load(open(SHAPES))[name]
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
        if line.startswith("memory"):
            print(memory("VmHWM:") - start, flush=True)
            continue
        if line.startswith("sgemm"):
            a, b = torch.rand(2048, 2048), torch.rand(2048, 2048)
            best = min(timed(lambda: a @ b)[0] for _ in range(5))
            print(f"{2e-9 * 2048 ** 3 / best:.1f}", flush=True)
            continue
        print(json.dumps([timed(step) for _ in range(int(line))]), flush=True)


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
        self.process.stdin.close()
        self.process.wait()


def machine_seconds():
    """Seconds that all processors worked, and that passed for all of them (Linux)."""
    with open("/proc/stat") as f:
        t = [int(x) / os.sysconf("SC_CLK_TCK") for x in f.readline().split()[1:9]]
    return sum(t) - t[3] - t[4], sum(t)


def compare(name, options):
    command = [sys.executable, os.path.abspath(__file__), "--threads", str(options.threads), "--peer", name]
    workers = [Worker("percept", [options.bench, name, "--serve", "--shapes", SHAPES, "--threads", str(options.threads)]),
               Worker("eager", command + ["eager"])]
    if not options.no_compile and any(map(shutil.which, ("c++", "g++", "clang++"))):
        workers.append(Worker("compile", command + ["compile"]))
    for w in workers:
        w.ask(2)  # pages are touched, torch.compile compiles
    first = workers[0].ask(1)
    if workers[0].failed:
        sys.exit(f"{name}: bench_train failed: {workers[0].failed}")
    count = max(1, min(20, int(1.0 / first[0][0])))
    began = machine_seconds()
    for _ in range(options.rounds):
        for w in workers:
            time.sleep(0.3)  # threads of the one before have stopped waiting
            w.steps += w.ask(count) or []
    busy, whole = (b - a for a, b in zip(began, machine_seconds()))
    others = max(0.0, busy - sum(s[1] for w in workers for s in w.steps)) / whole
    peaks = [w.ask("memory") for w in workers]
    sgemm = max(w.ask("sgemm") or 0.0 for _ in range(2) for w in workers[:2])
    result = []
    for w, peak in zip(workers, peaks):
        if w.failed:
            print(f"{name}: {w.label} left out: {w.failed}", file=sys.stderr)
            continue
        w.close()
        result.append({"shape": name, "who": w.label, "ms": 1e3 * statistics.median(s[0] for s in w.steps),
                       "least_ms": 1e3 * min(s[0] for s in w.steps), "cpu_ms": 1e3 * statistics.median(s[1] for s in w.steps), "memory": peak,
                       "parameters": w.about["parameters"], "steps": len(w.steps)})
    ours, peers = result[0], result[1:]
    if not peers:
        sys.exit(f"{name}: no peer ran")
    best = min(peers, key=lambda r: r["ms"])
    gflop = workers[0].about["flops"] * 1e-9
    ours.update(pytorch_ms=best["ms"], pytorch_who=best["who"], ratio=ours["ms"] / best["ms"],
                least_ratio=ours["least_ms"] / min(r["least_ms"] for r in peers), others=others,
                cpu_ratio=ours["cpu_ms"] / min(r["cpu_ms"] for r in peers),
                pytorch_memory=min(r["memory"] for r in peers), gflop=gflop, gflops=1e3 * gflop / ours["ms"], sgemm=sgemm,
                share=1e3 * gflop / ours["ms"] / sgemm, isa=workers[0].about["isa"], torch=workers[1].about["torch"])
    return result


HEAD = (f"{'shape':<20} {'ours ms':>9} {'PyTorch ms':>11} {'ratio':>6} {'least':>6} {'by CPU':>6} {'ours MiB':>9} {'PyTorch MiB':>11} "
        f"{'GFLOP/s':>8} {'of sgemm':>9} {'others':>7}")


def table_line(rows):
    r = rows[0]
    others = ", ".join(f"{p['who']} {p['ms']:.1f} ms, {p['memory'] / 2 ** 20:.0f} MiB" for p in rows[1:])
    return (f"{r['shape']:<20} {r['ms']:9.1f} {r['pytorch_ms']:11.1f} {r['ratio']:6.2f} {r['least_ratio']:6.2f} {r['cpu_ratio']:6.2f} "
            f"{r['memory'] / 2 ** 20:9.0f} {r['pytorch_memory'] / 2 ** 20:11.0f} {r['gflops']:8.1f} {100 * r['share']:7.0f} % {100 * r['others']:5.0f} %"
            f"  ({others})")


def enter_environment(options):
    python = os.path.join(options.venv, "bin", "python")
    if os.path.abspath(sys.prefix) == os.path.abspath(options.venv):
        return
    there = "import sys, importlib.util as u; sys.exit(not (u.find_spec('torch') and u.find_spec('transformers')))"
    if not os.path.exists(python) or subprocess.run([python, "-c", there], check=False).returncode:
        subprocess.run([sys.executable, "-m", "venv", options.venv], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "numpy", "torch", "transformers"], check=True)
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
    for name in options.only or []:
        if name not in json.load(open(SHAPES)):
            sys.exit(f"no shape '{name}' in {SHAPES}")
    rows = []
    if not options.json:
        print(HEAD, flush=True)
    for name in options.only or json.load(open(SHAPES)):
        rows = compare(name, options)
        print("\n".join(map(json.dumps, rows)) if options.json else table_line(rows), flush=True)
    if not options.json:
        print(f"{rows[0]['isa']}, {options.threads} threads, PyTorch {rows[0]['torch']}, medians of {options.rounds} rounds in turn; "
              f"best product {rows[0]['sgemm']:.0f} GFLOP/s")


if __name__ == "__main__":
    main()
