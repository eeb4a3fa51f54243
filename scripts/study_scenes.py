#!/usr/bin/env python3
"""Which recipe learns the generated scenes best at a fixed number of FLOPs?

    percept-data scenes build/scenes
    python3 scripts/study_scenes.py build/scenes --plan plan.json --out study.jsonl

A plan is a JSON list of changes to DEFAULTS below; each runs pretrain (two towers, contrastive), align
(descriptions) and tune (questions), with the shapes that percept has: a ViT with a convolutional stem,
a projector, a Llama-shaped decoder in which all questions of an image share its rows and do not see
each other.
Steps follow from a budget in TFLOP (forward and backward, products only, no padding), so that all
configurations of a plan cost the same on a CPU. docs/scenes.md reports what came out.

The models are tiny, so a GPU would wait for launches. Hence every training step is one CUDA graph, the
data set lies on the GPU, configurations of equal shapes train side by side as one model with a leading
dimension R (products become batched products), and the groups run at once, each on its own stream. On
a CPU (--device cpu) the same code runs step by step; use it to try a plan at small size.

Needs torch and pillow. Words are the tokens here; percept's byte pairs come out nearly the same, since
the scenes' vocabulary is small.
"""
import argparse
import collections
import json
import math
import os
import random
import re
import sys
import time

import numpy as np
os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")  # one queue a stream
import torch
import torch.nn.functional as F

# The quickstart's recipe.
DEFAULTS = dict(
    name="recipe", seed=1,
    # tower
    vit_width=64, vit_depth=3, vit_heads=2, vit_mlp=3.0, stem=(32, 64),
    # text tower of the contrastive stage
    text_width=64, text_depth=2, text_heads=2, embed=64,
    # projector and decoder
    projector="linear", width=96, depth=4, heads=3, ffn=256, qk_norm=True, qk_gain=1.0, tied=False,
    rope2d=True, prefix=True, rope_base=10000.0,
    # stages: budget in TFLOP, batch, peak lr
    pre=(2.0, 128, 2e-3), align=(14.0, 16, 4.2e-3), tune=(30.0, 16, 3.6e-3),
    optim="muon", vision_lr=1.0, warmup=0.04, decay=0.05, beta2=0.95, clip=1.0, min_lr=0.0,
    # turns of the align stage: `describe` is xy, read (in reading order), swap (row or column first)
    # or none; `mix` is the chance that each of them comes along in tune; `inline`: names in a
    # request for sides carry their places; `few`: share of the align stage's steps that see at
    # most two objects
    describe="xy", where=True, what=True, sides=3, inline=0.0, few=0.0, mix=1.0, turns=12,
)
# A group trains together when these agree.
SHAPES = ["vit_width", "vit_depth", "vit_heads", "vit_mlp", "stem", "text_width", "text_depth",
          "text_heads", "embed", "projector", "width", "depth", "heads", "ffn", "qk_norm", "tied",
          "rope2d", "prefix", "rope_base", "optim", "beta2", "clip"]
TYPES = ["existence", "colour", "shape", "count", "relation", "comparison", "place", "side",
         "yes/no relation"]
GRID = 8


# ---- data


def words(text):
    return re.findall(r"[a-z0-9]+|[^\sa-z0-9]", text.lower())


class Vocabulary:
    def __init__(self):
        self.ids = {"<pad>": 0, "<end>": 1, "<ask>": 2, "<answer>": 3, "<caption>": 4}
        self.seen = {}

    def encode(self, text):
        if text not in self.seen:
            self.seen[text] = [self.ids.setdefault(w, len(self.ids)) for w in words(text)]
        return self.seen[text]


def load_scenes(folder, limit=None):
    from PIL import Image
    scenes = json.load(open(os.path.join(folder, "scenes.json")))
    if limit:
        kept = collections.Counter()
        chosen = []
        for s in scenes:
            cap = limit if s["split"] == "train" else min(limit, 500)
            if kept[s["split"]] < cap:
                kept[s["split"]] += 1
                chosen.append(s)
        scenes = chosen
    pixels = np.stack([np.asarray(Image.open(os.path.join(folder, s["image"]))) for s in scenes])
    index = {s["image"]: i for i, s in enumerate(scenes)}
    return scenes, torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), index


def square(o, form, rng):
    """Column a..h and row 1..8 of an object's centre, two words: byte pairs split there too."""
    cell = lambda v: min(GRID - 1, max(0, int(v * GRID)))
    column, row = "abcdefgh"[cell(o["x"])], str(1 + cell(o["y"]))
    return f"{row} {column}" if form == "swap" and rng.random() < 0.5 else f"{column} {row}"


def unique_names(objects, rng, i):
    """A name of object i that fits no other, shorter ones first, at times fuller than needed."""
    o = objects[i]
    tries = [(0, 0, 1), (0, 1, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, 1)]
    if rng.random() < 0.5:
        tries = tries[2:]
    for size, colour, shape in tries:
        same = [p for p in objects if (not size or p["size"] == o["size"])
                and (not colour or p["colour"] == o["colour"])
                and (not shape or p["shape"] == o["shape"])]
        if len(same) == 1:
            return " ".join([o["size"]] * size + [o["colour"]] * colour
                            + [o["shape"] if shape else "object"])
    return None


def dense_turns(scene, c, rng):
    """Turns of the align stage: (request, reply)."""
    objects = list(scene["objects"])
    turns = []
    if c["describe"] == "read":
        objects.sort(key=lambda o: (int(o["y"] * GRID), o["x"]))
    else:
        rng.shuffle(objects)
    form = "swap" if c["describe"] == "swap" else "xy"
    full = lambda o: f"{o['size']} {o['colour']} {o['shape']}"
    if c["describe"] != "none":
        turns.append(("Describe the scene.",
                      " , ".join(full(o) + " " + square(o, form, rng) for o in objects)))
    for i, o in enumerate(objects):
        name = unique_names(objects, rng, i)
        if c["where"] and name:
            turns.append((f"Where is the {name}?", square(o, form, rng)))
        if c["what"]:
            if sum(square(p, "xy", rng) == square(o, "xy", rng) for p in objects) == 1:
                turns.append((f"What is at {square(o, form, rng)}?", full(o)))
    pairs = [(i, j) for i in range(len(objects)) for j in range(len(objects)) if i != j]
    for i, j in rng.sample(pairs, min(c["sides"], len(pairs))):
        a, b = unique_names(objects, rng, i), unique_names(objects, rng, j)
        dx, dy = objects[i]["x"] - objects[j]["x"], objects[i]["y"] - objects[j]["y"]
        if not (a and b and max(abs(dx), abs(dy)) > 0.1):
            continue
        if rng.random() < c["inline"]:
            a += " " + square(objects[i], form, rng)
            b += " " + square(objects[j], form, rng)
        reply = [("left" if dx < 0 else "right")] * (abs(dx) > 0.1)
        reply += [("above" if dy < 0 else "below")] * (abs(dy) > 0.1)
        turns.append((f"Where is the {a} from the {b}?", " ".join(reply)))
    return turns


def dense_kind(request):
    if request.startswith("Where is"):
        return TYPES.index("side" if " from " in request else "place")
    return -1


class Turns:
    """Rows of (image, packed turns): ids, labels, segment and position of each token, and the type
    of each turn at the row that predicts its answer."""

    def __init__(self, rows, vocabulary):
        encoded = []
        for image, turns in rows:
            ids, labels, segment, position, kind = [], [], [], [], []
            for k, (q, a, t) in enumerate(turns):
                prompt = [2] + vocabulary.encode(q) + [3]
                reply = vocabulary.encode(a) + [1]
                seq = prompt + reply
                for j in range(len(seq) - 1):
                    ids.append(seq[j])
                    labels.append(seq[j + 1] if j + 1 >= len(prompt) else -100)
                    segment.append(k + 1)
                    position.append(j)
                    kind.append(t if j == len(prompt) - 1 else -1)
            encoded.append((image, ids, labels, segment, position, kind))
        n, length = len(encoded), max(len(e[1]) for e in encoded)
        self.length = length
        self.tokens = sum(len(e[1]) for e in encoded) / n
        self.pairs = sum(sum(p + 1 for p in e[4]) for e in encoded) / n  # attention inside turns
        self.image = torch.tensor([e[0] for e in encoded])
        arrays = [np.full((n, length), fill, dtype=np.int64) for fill in (0, -100, 0, 0, -1)]
        for r, (_, *columns) in enumerate(encoded):
            for target, values in zip(arrays, columns):
                target[r, :len(values)] = values
        self.ids, self.labels, self.segment, self.position, self.kind = map(torch.from_numpy, arrays)

    def fields(self):
        return (self.image, self.ids, self.labels, self.segment, self.position, self.kind)

    def to(self, device):
        self.image, self.ids, self.labels, self.segment, self.position, self.kind = (
            f.to(device) for f in self.fields())
        return self


class Data:
    def __init__(self, folder, device, limit=None):
        self.folder, self.device = folder, device
        self.scenes, self.pixels, self.index = load_scenes(folder, limit)
        self.pixels = self.pixels.to(device)
        self.vocabulary = Vocabulary()
        self.cache = {}
        v = self.vocabulary
        v.encode("a b c d e f g h 0 1 2 3 4 5 6 7 8")
        self.captions = {s: self.read_captions(s) for s in ("train", "test")}
        self.vqa = {s: self.read_questions(s) for s in ("train", "test", "unseen")}
        self.pope = self.read_pope()
        v.encode("describe the scene. where is from what at , ? small large left right above below")
        self.size = 64 * ((len(v.ids) + 80) // 64)  # room for words met later

    def read_captions(self, split):
        rows = []
        for line in open(os.path.join(self.folder, f"captions-{split}.jsonl")):
            r = json.loads(line)
            if r["image"] in self.index:
                rows.append((self.index[r["image"]], [[4] + self.vocabulary.encode(c) + [1]
                                                      for c in r["captions"]]))
        length = max(len(c) for _, cs in rows for c in cs)
        self.caption_tokens = sum(len(c) for _, cs in rows for c in cs) / sum(len(cs) for _, cs in rows)
        ids = torch.zeros(len(rows), len(rows[0][1]), length, dtype=torch.int64)
        for r, (_, cs) in enumerate(rows):
            for k, c in enumerate(cs):
                ids[r, k, :len(c)] = torch.tensor(c)
        return torch.tensor([i for i, _ in rows]).to(self.device), ids.to(self.device)

    def read_questions(self, split):
        rows = []
        for c in json.load(open(os.path.join(self.folder, f"vqa-{split}.json"))):
            if c["image"] not in self.index:
                continue
            t = c["conversations"]
            turns = [(t[2 * k]["value"].replace("<image>\n", ""), t[2 * k + 1]["value"],
                      TYPES.index(m["type"])) for k, m in enumerate(c["turn_meta"])]
            turns = [(q, a, 8 if k == 4 and a in ("yes", "no") else k) for q, a, k in turns]
            rows.append((self.index[c["image"]], turns))
        return rows if split == "train" else Turns(rows, self.vocabulary).to(self.device)

    def read_pope(self):
        rows = collections.defaultdict(list)
        for kind in ("random", "popular", "adversarial"):
            for line in open(os.path.join(self.folder, f"pope-{kind}.jsonl")):
                r = json.loads(line)
                if r["image"] in self.index:
                    rows[self.index[r["image"]]].append((r["text"], r["label"], 0))
        return Turns(list(rows.items()), self.vocabulary).to(self.device)

    def train_turns(self, c, stage):
        """The rows of a stage; `check` asks the align stage's requests on test images."""
        fields = ("describe", "where", "what", "sides", "inline", "mix", "turns")
        key = json.dumps([stage] + [c[k] for k in fields])
        if key in self.cache:
            return self.cache[key]
        rng = random.Random(5)
        wanted = "test" if stage == "check" else "train"
        chosen = [(i, s) for i, s in enumerate(self.scenes) if s["split"] == wanted]
        rows = [(i, [(q, a, dense_kind(q)) for q, a in dense_turns(s, c, rng)]) for i, s in chosen]
        if stage == "tune":
            rows = [(i, t[:c["turns"]] + [d for d in e[1] if rng.random() < c["mix"]])
                    for (i, t), e in zip(self.vqa["train"], rows)]
        self.cache[key] = Turns(rows, self.vocabulary).to(self.device)
        self.cache[key].few = torch.tensor([len(s["objects"]) <= 2 for _, s in chosen])
        assert len(self.vocabulary.ids) <= self.size
        return self.cache[key]


# ---- models


class Parameters:
    """Parameters of R models as slices of one (R, n) tensor: clipping and AdamW are a few kernels."""

    def __init__(self, configs):
        self.list, self.count = [], 0
        self.generators = [torch.Generator().manual_seed(c["seed"]) for c in configs]

    def __call__(self, name, *shape, std=None, fill=None, decay=None, matrix=False):
        if fill is not None:
            values = [torch.full(shape, float(f)) for f in
                      (fill if isinstance(fill, list) else [fill] * len(self.generators))]
        else:
            values = [torch.randn(*shape, generator=g) * std for g in self.generators]
        size = values[0].numel()
        self.list.append(dict(name=name, shape=shape, value=torch.stack(values), at=self.count,
                              size=size, decay=len(shape) >= 2 if decay is None else decay,
                              matrix=matrix))
        self.count += size
        return len(self.list) - 1

    def linear(self, name, out, inp, scale=1.0, bias=False, matrix=True):
        w = self(name + ".weight", out, inp, std=scale * math.sqrt(2.0 / (inp + out)), matrix=matrix)
        return (w, self(name + ".bias", out, fill=0.0)) if bias else (w, None)

    def flat(self):
        return torch.cat([p["value"].flatten(1) for p in self.list], 1)

    def each(self, value):
        """A row of n values, one a parameter element."""
        return torch.cat([torch.full((p["size"],), float(value(p))) for p in self.list])

    def views(self, flat):
        return [flat[:, p["at"]:p["at"] + p["size"]].unflatten(1, p["shape"]) for p in self.list]


def linear(x, w, b=None):
    """x (R,N,I), w (R,O,I), b (R,O) -> (R,N,O)"""
    if b is None:
        return torch.bmm(x, w.transpose(1, 2))
    return torch.baddbmm(b.unsqueeze(1), x, w.transpose(1, 2))


def rms(x, g):
    return F.rms_norm(x, (x.shape[-1],), eps=1e-6) * g


def rope(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Model:
    """R times tower, text tower, projector, decoder. Forward functions take the parameter views."""

    def __init__(self, configs, vocab, device):
        c = self.c = configs[0]
        self.R, self.vocab = len(configs), vocab
        p = self.p = Parameters(configs)
        W = c["vit_width"]
        self.side = 8
        self.P = self.side ** 2
        widths = [3, *c["stem"], W]
        assert 64 >> (len(widths) - 1) == self.side
        self.stem = [(p(f"vision.stem.{i}.weight", widths[i + 1], 9 * widths[i],
                        std=math.sqrt(2.0 / (9 * widths[i] + widths[i + 1])), matrix=i > 0),
                      p(f"vision.stem.{i}.bias", widths[i + 1], fill=0))
                     for i in range(len(widths) - 1)]
        self.pos = p("vision.pos", self.P + 1, W, std=0.02, decay=False)
        self.cls = p("vision.class", W, std=0.02)
        self.vit = [self.vit_block(f"vision.{i}", W, int(W * c["vit_mlp"]), c["vit_depth"])
                    for i in range(c["vit_depth"])]
        self.vit_ln = (p("vision.post.g", W, fill=1), p("vision.post.b", W, fill=0))
        E, TW = c["embed"], c["text_width"]
        self.img_proj = p.linear("clip.image", E, W)[0]
        self.txt_emb = p("text.embed", vocab, TW, std=0.02)
        self.txt_pos = p("text.pos", 96, TW, std=0.01, decay=False)
        self.txt = [self.vit_block(f"text.{i}", TW, 4 * TW, c["text_depth"])
                    for i in range(c["text_depth"])]
        self.txt_ln = (p("text.post.g", TW, fill=1), p("text.post.b", TW, fill=0))
        self.txt_proj = p.linear("clip.text", E, TW)[0]
        self.temperature = p("clip.scale", 1, fill=math.log(1 / 0.07))
        C, D = c["width"], c["width"] // c["heads"]
        self.D = D
        self.proj = [p.linear("projector.0", C, W, bias=True)]
        if c["projector"] == "mlp":
            self.proj.append(p.linear("projector.2", C, C, bias=True))
        self.emb = p("decoder.embed", vocab, C, std=0.1)
        self.layers = []
        for i in range(c["depth"]):
            n, s = f"decoder.{i}", 1.0 / math.sqrt(2 * c["depth"])
            layer = dict(n1=p(n + ".n1", C, fill=1), n2=p(n + ".n2", C, fill=1),
                         q=p.linear(n + ".q", C, C)[0], k=p.linear(n + ".k", C, C)[0],
                         v=p.linear(n + ".v", C, C)[0], o=p.linear(n + ".o", C, C, scale=s)[0],
                         gate=p.linear(n + ".gate", c["ffn"], C)[0],
                         up=p.linear(n + ".up", c["ffn"], C)[0],
                         down=p.linear(n + ".down", C, c["ffn"], scale=s)[0])
            if c["qk_norm"]:
                gains = [k["qk_gain"] for k in configs]
                layer["qn"], layer["kn"] = p(n + ".qn", D, fill=gains), p(n + ".kn", D, fill=gains)
            self.layers.append(layer)
        self.norm = p("decoder.norm", C, fill=1)
        self.head = self.emb if c["tied"] else p.linear("decoder.head", vocab, C, matrix=False)[0]
        inverse = c["rope_base"] ** (-torch.arange(0, D, 2, dtype=torch.float64) / D)
        self.inverse = inverse.float().to(device)
        grid = torch.arange(self.P, device=device)
        self.grid_x, self.grid_y = grid % self.side, grid // self.side

    def vit_block(self, name, W, hidden, depth):
        p, s = self.p, 1.0 / math.sqrt(2 * depth)
        return dict(g1=p(name + ".ln1.g", W, fill=1), b1=p(name + ".ln1.b", W, fill=0),
                    g2=p(name + ".ln2.g", W, fill=1), b2=p(name + ".ln2.b", W, fill=0),
                    qkv=[p.linear(f"{name}.{x}", W, W, bias=True) for x in "qkv"],
                    o=p.linear(name + ".o", W, W, scale=s, bias=True),
                    up=p.linear(name + ".up", hidden, W, bias=True),
                    down=p.linear(name + ".down", W, hidden, scale=s, bias=True))

    def norm_affine(self, w, x, g, b):
        return torch.addcmul(w[b].unsqueeze(1), F.layer_norm(x, (x.shape[-1],)), w[g].unsqueeze(1))

    def heads_of(self, w, x, weights, heads, T):
        """Products for q, k and v in one: three tensors (R*B, H, T, D)."""
        R, N, _ = x.shape
        matrix = torch.cat([w[m] for m, _ in weights], 1)
        bias = None if weights[0][1] is None else torch.cat([w[b] for _, b in weights], 1)
        y = linear(x, matrix, bias)
        return y.view(R * N // T, T, 3, heads, -1).permute(2, 0, 3, 1, 4)

    def block(self, w, b, x, heads, T, mask=None):
        R, N, W = x.shape
        q, k, v = self.heads_of(w, self.norm_affine(w, x, b["g1"], b["b1"]), b["qkv"], heads, T)
        a = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + linear(a.transpose(1, 2).reshape(R, N, W), w[b["o"][0]], w[b["o"][1]])
        h = linear(self.norm_affine(w, x, b["g2"], b["b2"]), w[b["up"][0]], w[b["up"][1]])
        return x + linear(F.gelu(h), w[b["down"][0]], w[b["down"][1]])

    def vision(self, w, pixels):
        """pixels (R,B,3,64,64) u8 -> (R,B,P+1,W)"""
        R, B = pixels.shape[:2]
        x = ((pixels.flatten(0, 1).float() / 255.0 - 0.48) / 0.27).permute(0, 2, 3, 1)
        for i, (k, b) in enumerate(self.stem):
            side = x.shape[1] // 2
            x = F.pad(F.gelu(x) if i else x, (0, 0, 1, 1, 1, 1))
            x = x.unfold(1, 3, 2).unfold(2, 3, 2)[:, :side, :side].reshape(R, B * side * side, -1)
            x = linear(x, w[k], w[b]).view(R * B, side, side, -1)
        x = x.view(R, B, self.P, -1)
        first = w[self.cls][:, None, None].expand(R, B, 1, x.shape[-1])
        x = (torch.cat([first, x], 2) + w[self.pos][:, None]).flatten(1, 2)
        for b in self.vit:
            x = self.block(w, b, x, self.c["vit_heads"], self.P + 1)
        return x.view(R, B, self.P + 1, -1)

    def image_embedding(self, w, pixels):
        x = self.norm_affine(w, self.vision(w, pixels)[:, :, 0], *self.vit_ln)
        return F.normalize(linear(x, w[self.img_proj]), dim=-1)

    def text_embedding(self, w, ids):
        """ids (R,B,T)"""
        R, B, T = ids.shape
        rows = torch.arange(R, device=ids.device)[:, None, None]
        x = (w[self.txt_emb][rows, ids] + w[self.txt_pos][:, None, :T]).flatten(1, 2)
        mask = torch.ones(T, T, dtype=torch.bool, device=ids.device).tril()
        for b in self.txt:
            x = self.block(w, b, x, self.c["text_heads"], T, mask)
        end = (ids == 1).long().argmax(2)
        x = x.view(R, B, T, -1).gather(2, end[..., None, None].expand(R, B, 1, x.shape[-1]))[:, :, 0]
        return F.normalize(linear(self.norm_affine(w, x, *self.txt_ln), w[self.txt_proj]), dim=-1)

    def contrast(self, w, pixels, ids):
        """The loss of each of the R models."""
        a, b = self.image_embedding(w, pixels), self.text_embedding(w, ids)
        scale = w[self.temperature].clamp(max=math.log(100.0)).exp()
        logits = scale[:, :, None] * torch.bmm(a, b.transpose(1, 2))
        own = logits.diagonal(dim1=1, dim2=2)
        return (0.5 * (logits.logsumexp(1) + logits.logsumexp(2)) - own).mean(1)

    def logits(self, w, pixels, ids, segment, position, blind=False):
        """(R,B,T) tokens -> (R,B,T,V)"""
        c, P = self.c, self.P
        R, B, T = ids.shape
        f = self.vision(w, pixels)[:, :, 1:].flatten(1, 2)
        for i, (k, b) in enumerate(self.proj):
            f = linear(F.gelu(f) if i else f, w[k], w[b])
        rows = torch.arange(R, device=ids.device)[:, None, None]
        x = torch.cat([f.view(R, B, P, -1), w[self.emb][rows, ids]], 2).flatten(1, 2)
        N, n = P + T, R * B
        seg = F.pad(segment.view(n, T), (P, 0))
        order = torch.arange(N, device=ids.device)
        image = order < P
        see = (seg[:, :, None] == seg[:, None, :]) & (order[:, None] >= order)
        if not blind:
            see = see | (image & ~image[:, None])
        if c["prefix"]:
            see = see | (image & image[:, None])
        see = see[:, None]
        place = position.view(n, T)
        if c["rope2d"]:  # even frequencies turn with x, odd ones with y; text moves along both
            px = torch.cat([self.grid_x.expand(n, P), place + self.side], 1)
            py = torch.cat([self.grid_y.expand(n, P), place + self.side], 1)
            odd = torch.arange(self.inverse.numel(), device=ids.device) % 2
            angle = torch.where(odd == 1, py[..., None], px[..., None]).float() * self.inverse
        else:
            pos = torch.cat([torch.arange(P, device=ids.device).expand(n, P), place + P], 1)
            angle = pos[..., None].float() * self.inverse
        cos, sin = angle.cos()[:, None], angle.sin()[:, None]
        H, D = c["heads"], self.D
        gain = lambda g: g[:, None, None, None].expand(R, B, 1, 1, D).reshape(n, 1, 1, D)
        for layer in self.layers:
            h = rms(x, w[layer["n1"]].unsqueeze(1))
            q, k, v = self.heads_of(w, h, [(layer[m], None) for m in "qkv"], H, N)
            if c["qk_norm"]:
                q, k = rms(q, gain(w[layer["qn"]])), rms(k, gain(w[layer["kn"]]))
            a = F.scaled_dot_product_attention(rope(q, cos, sin), rope(k, cos, sin), v, attn_mask=see)
            x = x + linear(a.transpose(1, 2).reshape(R, B * N, H * D), w[layer["o"]])
            h = rms(x, w[layer["n2"]].unsqueeze(1))
            gate, up = linear(h, torch.cat([w[layer["gate"]], w[layer["up"]]], 1)).chunk(2, -1)
            x = x + linear(F.silu(gate) * up, w[layer["down"]])
        x = rms(x.view(R, B, N, -1)[:, :, P:].flatten(1, 2), w[self.norm].unsqueeze(1))
        return linear(x, w[self.head]).view(R, B, T, -1)

    # Products only, forward and backward: 6 FLOP a weight and row.

    def vision_flops(self):
        c, P, W = self.c, self.P + 1, self.c["vit_width"]
        f, side, widths = 0.0, 64, [3, *c["stem"], W]
        for i in range(len(widths) - 1):
            side //= 2
            f += 2.0 * side * side * 9 * widths[i] * widths[i + 1]
        f += c["vit_depth"] * (2.0 * P * (4 * W * W + 2 * W * int(W * c["vit_mlp"])) + 4.0 * P * P * W)
        return 3.0 * f

    def contrast_flops(self, tokens):
        c, W = self.c, self.c["text_width"]
        f = c["text_depth"] * (2.0 * tokens * 12 * W * W + 2.0 * tokens * tokens * W)
        return self.vision_flops() + 3.0 * f

    def turns_flops(self, turns, supervised):
        c, C, P = self.c, self.c["width"], self.P
        rows = P + turns.tokens
        pairs = (P * P if c["prefix"] else P * P / 2) + turns.tokens * P + turns.pairs
        f = c["depth"] * (2.0 * rows * (4 * C * C + 3 * C * c["ffn"]) + 4.0 * pairs * C)
        f += 2.0 * P * (c["vit_width"] * C + (C * C if c["projector"] == "mlp" else 0))
        f += 2.0 * supervised * C * self.vocab
        return self.vision_flops() + 3.0 * f


# ---- training


def orthogonal(g):
    """Newton-Schulz: roughly the nearest (semi-)orthogonal matrices (Jordan et al. 2024)."""
    x = g / (g.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.transpose(1, 2)
    for _ in range(5):
        a = torch.bmm(x, x.transpose(1, 2))
        b = torch.baddbmm(a, a, a, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, b, x, beta=3.4445)
    return x.transpose(1, 2) if tall else x


class Group:
    """Configurations of equal shapes: their stages one after the other, each step one graph."""

    def __init__(self, configs, data):
        self.configs, self.data, self.device = configs, data, data.device
        self.R = len(configs)
        self.model = Model(configs, data.size, data.device)
        p = self.model.p
        self.flat = p.flat().to(self.device)
        self.decay = p.each(lambda q: q["decay"]).to(self.device)
        self.scale = torch.stack([
            p.each(lambda q: c["vision_lr"] if q["name"].startswith("vision") else 1.0)
            for c in configs]).to(self.device)
        count = lambda s: sum(q["size"] for q in p.list if q["name"].startswith(s))
        sizes = {s: count(s) for s in ("vision", "text", "projector", "decoder")}
        self.results = [dict(name=c["name"], seed=c["seed"], parameters=sizes, tflop={}, steps={},
                             loss={}, config={k: v for k, v in c.items() if DEFAULTS.get(k) != v})
                        for c in configs]
        self.stages = [s for s in ("pre", "align", "tune") if configs[0][s][0] > 0]
        self.cuda = self.device.type == "cuda"
        self.stream = torch.cuda.Stream() if self.cuda else None
        self.done, self.name = False, configs[0]["name"]
        by_shape = collections.defaultdict(list)
        for q in p.list:
            if q["matrix"]:
                by_shape[q["shape"]].append(q)
        self.matrices = list(by_shape.values())
        self.began = time.time()

    def tables(self, stage):
        """Rows of all configurations one under another, where each begins, what a row costs, how
        many there are, and which show few objects."""
        R = self.R
        if stage == "pre":
            images, captions = self.data.captions["train"]
            cost = self.model.contrast_flops(self.data.caption_tokens)
            return (images, captions), [0] * R, [cost] * R, [images.shape[0]] * R, [None] * R
        sets = [self.data.train_turns(c, stage) for c in self.configs]
        unique, starts, at = [], {}, 0
        length = max(t.length for t in sets)
        for t in sets:
            if id(t) not in starts:
                starts[id(t)] = at
                at += t.image.shape[0]
                unique.append(t)
        fields = [torch.cat([t.image for t in unique])]
        for k, fill in ((1, 0), (2, -100), (3, 0), (4, 0)):
            fields.append(torch.cat([F.pad(t.fields()[k], (0, length - t.length), value=fill)
                                     for t in unique]))
        supervised = [float((t.labels >= 0).float().sum(1).mean()) for t in sets]
        cost = [self.model.turns_flops(t, s) for t, s in zip(sets, supervised)]
        return (fields, [starts[id(t)] for t in sets], cost, [t.image.shape[0] for t in sets],
                [t.few for t in sets])

    def begin(self, shrink=1.0):
        stage = self.stage = self.stages.pop(0)
        c, R = self.configs[0], self.R
        B = self.B = c[stage][1]
        fields, starts, cost, rows, few = self.tables(stage)
        own = [max(4, int(shrink * k[stage][0] * 1e12 / (f * B))) for k, f in zip(self.configs, cost)]
        self.steps = max(own)
        order = torch.zeros(self.steps, R, B, dtype=torch.int64)
        rate = torch.zeros(self.steps, R)
        pick = torch.zeros(self.steps, R, B, dtype=torch.int64)
        for r, k in enumerate(self.configs):
            g = torch.Generator().manual_seed(1000 * k["seed"] + len(self.stages))
            epochs = own[r] * B // rows[r] + 2
            o = torch.cat([torch.randperm(rows[r], generator=g) for _ in range(epochs)])
            early = int(k["few"] * own[r]) * B if stage == "align" else 0
            if early:
                o = torch.cat([o[few[r][o]].repeat(4)[:early], o])
            order[:own[r], r] = starts[r] + o[:own[r] * B].view(own[r], B)
            pick[:, r] = torch.randint(0, 4, (self.steps, B), generator=g)
            warm = max(1, int(k["warmup"] * own[r]))
            s = torch.arange(own[r], dtype=torch.float32)
            cosine = 0.5 * (1 + torch.cos(math.pi * (s - warm) / max(1, own[r] - warm)))
            rate[:own[r], r] = k[stage][2] * torch.where(
                s < warm, (s + 1) / warm, k["min_lr"] + (1 - k["min_lr"]) * cosine)
            self.results[r]["tflop"][stage] = round(own[r] * B * cost[r] / 1e12, 2)
            self.results[r]["steps"][stage] = own[r]
        order, rate, pick = (x.to(self.device) for x in (order, rate, pick))
        self.rate = rate
        self.counter = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.m, self.v = torch.zeros_like(self.flat), torch.zeros_like(self.flat)
        self.loss = torch.zeros(R, device=self.device)
        model, data, p = self.model, self.data, self.model.p
        b1, b2, muon = 0.9, c["beta2"], c["optim"] == "muon"
        wd = torch.tensor([[k["decay"]] for k in self.configs], device=self.device) * self.decay
        # Parameters that a stage does not use must not decay either.
        unused = {"pre": ("projector", "decoder"), "align": ("text", "clip", "vision.post"),
                  "tune": ("text", "clip", "vision.post")}[stage]
        live = p.each(lambda q: not q["name"].startswith(unused)).to(self.device)

        def step():
            row = order.index_select(0, self.counter)[0]
            flat = self.flat.detach().requires_grad_(True)
            views = p.views(flat)
            if stage == "pre":
                images, captions = fields
                ids = captions[row, pick.index_select(0, self.counter)[0]]
                loss = model.contrast(views, data.pixels[images[row]], ids)
            else:
                image, ids, labels, segment, position = (f[row] for f in fields)
                out = model.logits(views, data.pixels[image], ids, segment, position)
                each = F.cross_entropy(out.flatten(0, 2), labels.flatten(), ignore_index=-100,
                                       reduction="none").view(R, -1)
                loss = each.sum(1) / (labels >= 0).view(R, -1).sum(1)
            grads = torch.autograd.grad(loss.sum(), views, allow_unused=True)
            gradient = torch.cat([(torch.zeros_like(x) if d is None else d).reshape(R, -1)
                                  for d, x in zip(grads, views)], 1)
            norm = gradient.norm(dim=1, keepdim=True)
            gradient = gradient * (c["clip"] / (norm + 1e-6)).clamp(max=1.0)
            t = (self.counter + 1).float()
            self.m.lerp_(gradient, 1 - b1)
            self.v.lerp_(gradient * gradient, 1 - b2)
            update = (self.m / (1 - b1 ** t)) / ((self.v / (1 - b2 ** t)).sqrt() + 1e-8)
            if muon:
                look = torch.lerp(gradient, self.m, b1)  # Nesterov
                for same in self.matrices:
                    used = [q for q in same if not q["name"].startswith(unused)]
                    if not used:
                        continue
                    cut = torch.cat([look[:, q["at"]:q["at"] + q["size"]] for q in used])
                    fixed = orthogonal(cut.unflatten(1, used[0]["shape"])).flatten(1)
                    fixed = fixed * (0.2 * math.sqrt(max(used[0]["shape"])))
                    for q, u in zip(used, fixed.split(R)):
                        update[:, q["at"]:q["at"] + q["size"]] = u
            now = rate.index_select(0, self.counter)[0][:, None]
            self.flat.sub_(live * now * self.scale * (update + wd * self.flat))
            self.loss.lerp_(loss.detach(), 0.02)
            self.counter += 1

        self.at, self.step, self.graph, self.events = 0, step, None, collections.deque()
        if not self.cuda:
            return
        saved = self.flat.clone()
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for _ in range(2):
                step()
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"):
            step()
        self.flat.copy_(saved)
        for t in (self.counter, self.m, self.v, self.loss):
            t.zero_()
        torch.cuda.synchronize()

    def ready(self):
        """False while enough of its steps wait on the GPU."""
        while self.events and self.events[0].query():
            self.events.popleft()
        return len(self.events) < 4

    def advance(self, steps):
        """Some steps of the current stage; True when the stage is over."""
        n = min(steps, self.steps - self.at)
        if self.cuda:
            with torch.cuda.stream(self.stream):
                for _ in range(n):
                    self.graph.replay()
                event = torch.cuda.Event()
                event.record()
                self.events.append(event)
        else:
            for _ in range(n):
                self.step()
        self.at += n
        return self.at >= self.steps

    def hurry(self, steps):
        """Ends the stage `steps` from now, with what is left of its schedule squeezed together."""
        left = self.steps - self.at
        if steps >= left:
            return
        pick = self.at + (torch.arange(steps, device=self.device) * left) // steps
        self.rate[self.at:self.at + steps] = self.rate[pick]
        self.steps = self.at + steps
        for r in self.results:
            r["cut"] = f"{self.stage} ended after {self.steps} steps"

    @torch.no_grad()
    def answers(self, turns, blind=False):
        """Guesses (R, questions), truths and types of the questions."""
        w, R = self.model.p.views(self.flat), self.R
        kinds, said, truth = [], [], []
        for a in range(0, turns.image.shape[0], 50):
            image, ids, labels, segment, position, kind = (f[a:a + 50] for f in turns.fields())
            spread = lambda x: x.expand(R, *x.shape).contiguous()
            out = self.model.logits(w, spread(self.data.pixels[image]), spread(ids), spread(segment),
                                    spread(position), blind)
            asked = kind >= 0
            said.append(out.argmax(-1)[:, asked])
            truth.append(labels[asked])
            kinds.append(kind[asked])
        return torch.cat(said, 1), torch.cat(truth), torch.cat(kinds)

    def score(self, turns, blind=False):
        said, truth, kinds = self.answers(turns, blind)
        out = []
        for r in range(self.R):
            right = (said[r] == truth).float()
            share = lambda which: round(100 * float(right[which].mean()), 1) if which.any() else None
            types = {t: share(kinds == k) for k, t in enumerate(TYPES) if (kinds == k).any()}
            if "yes/no relation" in types:  # the reported type is both forms together
                types["choice relation"] = types["relation"]
                types["relation"] = share((kinds == 4) | (kinds == 8))
            out.append((round(100 * float(right.mean()), 1), types))
        return out

    @torch.no_grad()
    def retrieval(self):
        w, R = self.model.p.views(self.flat), self.R
        images, captions = self.data.captions["test"]
        step = range(0, images.shape[0], 125)
        spread = lambda x: x.expand(R, *x.shape).contiguous()
        a = torch.cat([self.model.image_embedding(w, spread(self.data.pixels[images[i:i + 125]]))
                       for i in step], 1)
        b = torch.cat([self.model.text_embedding(w, spread(captions[i:i + 125].flatten(0, 1)))
                       for i in step], 1)
        scores = torch.bmm(a, b.transpose(1, 2))
        own = torch.arange(b.shape[1], device=a.device) // captions.shape[1]
        image = torch.arange(a.shape[1], device=a.device)
        for s, result in zip(scores, self.results):
            result["i2t_r1"] = round(100 * float((own[s.argmax(1)] == image).float().mean()), 1)
            result["t2i_r1"] = round(100 * float((s.argmax(0) == own).float().mean()), 1)

    def finish(self):
        """Evaluates what the stage was for."""
        for r, result in enumerate(self.results):
            result["loss"][self.stage] = round(float(self.loss[r]), 4)
        if self.stage == "pre":
            self.retrieval()
        else:
            asked = self.data.train_turns({**DEFAULTS, "describe": "none", "what": False}, "check")
            for result, (_, types) in zip(self.results, self.score(asked)):
                result[f"{self.stage}_check"] = types
        if not self.stages:
            yes = self.data.vocabulary.ids["yes"]
            said, truth, _ = self.answers(self.data.pope)
            vqa = self.data.vqa
            rows = zip(self.results, self.score(vqa["test"]), self.score(vqa["test"], True),
                       self.score(vqa["unseen"]), said)
            for result, test, blind, unseen, pope in rows:
                result["test"], result["types"] = test
                result["blind"], result["blind_types"] = blind
                result["unseen"], result["unseen_types"] = unseen
                tp = float(((pope == yes) & (truth == yes)).sum())
                wrong = float(((pope == yes) != (truth == yes)).sum())
                result["pope_f1"] = round(100 * 2 * tp / max(1.0, 2 * tp + wrong), 1)
                result["seconds"] = round(time.time() - self.began, 1)
            self.done = True
        self.graph = None


def run_all(plan, data, out, minutes, shrink):
    groups = collections.defaultdict(list)
    for c in plan:
        key = [c[k] for k in SHAPES] + [c[s][1] for s in ("pre", "align", "tune")]
        groups[json.dumps(key)].append(c)
    groups = [Group(g, data) for g in groups.values()]
    print(len(plan), "configurations in", len(groups), "groups", flush=True)
    for g in groups:
        g.begin(shrink)
    began = shown = time.time()
    hurried = False
    while any(not g.done for g in groups):
        idle = True
        spent = (time.time() - began) / (60 * minutes)
        if not hurried and spent > 0.85:
            hurried = True
            for g in groups:
                if not g.done and not g.stages:
                    g.hurry(max(1, int(0.15 * g.at)))
        for g in groups:
            if g.done or not (spent > 1 or g.ready()):
                continue
            idle = False
            if spent <= 1 and not g.advance(8 if g.cuda else 1):
                continue
            if g.cuda:
                g.stream.synchronize()
            if spent > 1:
                g.stages = []
            g.finish()
            if not g.done:
                g.begin(shrink)
                continue
            for r in g.results:
                with open(out, "a") as f:
                    f.write(json.dumps(r) + "\n")
                show(r)
        if idle:
            time.sleep(2e-4)
        if time.time() - shown > 20:
            shown = time.time()
            print(f"[{shown - began:.0f} s]", " ".join(
                f"{g.name}:{g.stage[0]}{100 * g.at // g.steps}:{float(g.loss[0]):.2f}"
                for g in groups if not g.done), flush=True)


def show(r):
    t, none = r.get("types", {}), {}
    checks = [list(r.get(s + "_check", none).values()) for s in ("align", "tune")]
    print(f"{r['name']:<20} s{r['seed']} {r.get('test')} | "
          + " ".join(f"{k[:4]} {v}" for k, v in t.items())
          + f" | blind {r.get('blind')} unseen {r.get('unseen')} pope {r.get('pope_f1')}"
          + f" r1 {r.get('i2t_r1')}/{r.get('t2i_r1')} | check {checks}"
          + f" | {sum(r['tflop'].values()):.0f} TF {list(r['steps'].values())}"
          + f" loss {list(r['loss'].values())} {r.get('seconds')}s {r.get('cut', '')}", flush=True)


def main():
    a = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    a.add_argument("folder")
    a.add_argument("--plan", help="a JSON file: a list of overrides of the defaults")
    a.add_argument("--out", default="study.jsonl")
    a.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    a.add_argument("--limit", type=int, help="images of the training split")
    a.add_argument("--shrink", type=float, default=1.0, help="a factor on every stage's steps")
    a.add_argument("--minutes", type=float, default=9.0)
    a = a.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = True
    began = time.time()
    data = Data(a.folder, torch.device(a.device), a.limit)
    print(f"{len(data.scenes)} scenes, {len(data.vocabulary.ids)} words, "
          f"caption {data.caption_tokens:.1f} tokens, read in {time.time() - began:.0f} s", flush=True)
    plan = json.load(open(a.plan)) if a.plan else [{}]
    run_all([{**DEFAULTS, **c} for c in plan], data, a.out, a.minutes, a.shrink)


if __name__ == "__main__":
    main()
