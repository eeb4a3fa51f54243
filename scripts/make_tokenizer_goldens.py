#!/usr/bin/env python3
"""Small unigram tokenizers and what their own libraries make of some texts: tests/goldens/tokenizers.

  python3 scripts/make_tokenizer_goldens.py      needs sentencepiece, tokenizers, transformers 5 (protobuf for its classes)

  siglip   spiece.model with a table of characters, read by transformers' SiglipTokenizer (ids) and by sentencepiece (sp_ids)
  t5       the same pieces read by T5Tokenizer, with its sentinels
  bytes    byte fallback, user-defined pieces, spaces kept: sentencepiece alone
  json     tokenizer.json of model Unigram with byte fallback, trained and run by tokenizers

A row of cases.jsonl: text, ids and their decoded text, where the folder as a whole is meant; sp_ids, sp_decoded, where the
library is asked by itself. The models are trained on the texts below: what they learn does not matter, how it is used does.
"""
import json
import os
import pathlib
import random
import shutil
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
import sentencepiece as spm
import tokenizers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
import transformers

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "goldens" / "tokenizers"

NOUNS = "cat dog house tree bird photo picture painting street river mountain table bottle window garden".split()
COLOURS = "red green blue yellow grey white black brown".split()
OTHERS = [
    "A photo of a café in the rain, naïve façade, crème brûlée; it's 20 % off (today only)!",
    "Ein Bild von einem Hund, der über die Straße läuft. Größe: 3,5 m.",
    "日本語 の 写真 です。 東京 タワー の 夜景。", "Фотография старого города у реки зимой.",
    "two people walking on the beach at sunset, holding hands", "don't stop; we've seen it, haven't we? They're here.",
    "An x-ray of the left hand, anterior view. Weld #17: cracked = yes, score >= 0.75 [ok]",
]


def corpus():
    r = random.Random(3)
    lines = list(OTHERS) * 6
    for _ in range(400):
        a, b = r.sample(NOUNS, 2)
        c, d = r.choice(COLOURS), r.choice(COLOURS)
        lines.append(r.choice([f"a photo of a {c} {a}", f"The {c} {a} is left of the {d} {b}.", f"{r.randint(2, 999)} {a}s and one {b}",
                               f"Is there a {a} in the picture? {r.choice(['Yes', 'No'])}.", f"a {a}, a {b} and a {d} sky"]))
    return lines


# What becomes of which characters: wide letters, ligatures, two that become one, spaces of all kinds, some that vanish.
TABLE = ([(chr(0xFF01 + i), chr(0x21 + i)) for i in range(94)] +
         [("\ufb01", "fi"), ("\ufb02", "fl"), ("\u2026", "..."), ("\u00bd", "1\u20442"), ("e\u0301", "\u00e9"), ("a\u0300\u0301", "\u00e0"),
          ("\u2122", "TM"), ("\u00ad", ""), ("\u200d", "")] +
         [(c, " ") for c in "\t\n\r\u00a0\u2003\u200b\u2581\u3000\ufeff"])


def table(path):
    def hexes(s):
        return " ".join(f"{ord(c):X}" for c in s)
    path.write_text("".join(f"{hexes(a)}\t{hexes(b)}\n" for a, b in TABLE))


TEXTS = [
    "", " ", "   ", "\n", "a", "A", "a photo of a cat", "A PHOTO of a Cat.", "  leading and   inner   spaces  ", "tabs\tand\nlines\r\nhere",
    "Hello, World! It's 2024.", "naïve café, cre\u0300me bru\u0302le\u0301e", "e\u0301e\u0301 a\u0300\u0301", "ＡＢＣ　ｗｉｄｅ！？", "ﬁne ﬂow … ½ ™",
    "soft\u00adhyphen zero\u200bwidth joined\u200dhere\ufeff", "日本語の写真", "東京タワー 夜景。日", "фотография старого города", "ЁЖИК у реки",
    "emoji 😀😀 and 👩‍👩‍👧 family", "unknown ☃☃☃ in ☃ between☃", "mixed 日☃a", "▁already▁marked", "a▁b", "▁", "punct!!!only???", "!!!", "...a...",
    "(x+1)==2; y >= 3.75 [ok] {a|b} ~c^d `e` \\f/ g_h #i @j $k %l &m *n", "don't we've they're it's", "straße Größe ÜBER", "İstanbul ILIK",
    "<0x41> <0xE2>", "text </s> inside", "</s>first", "last</s>", "a</s></s>b", "<unk>", "is <unk> known", "<pad>", "<s> no", "<extra_id_0> one <extra_id_99>",
    "<mark>two</mark> <mark>", "aaaaaaaaaaaaaaaaaaaaaaaaaaaa", "catcatcatdogdogcat", "photophotograph", "x" * 70, "the red cat is left of the blue dog " * 3,
    "१२३ ४५६ 789", "\u00a0nbsp\u00a0", "\u3000\u3000wide spaces\u3000", "a\u2028b\u0085c\x1cd\x1fe", "ab\x00cd", "\ufffd", "\U0010ffff", "ﷺ",
]


def texts():
    r = random.Random(8)
    pool = [w for line in corpus()[:60] for w in line.split()] + ["☃", "日", "é", "ﬁ", "  ", "\t", "</s>", "Ａ", "!!", "'s"]
    out = list(TEXTS)
    for _ in range(24):
        out.append(r.choice(["", " "]).join(r.choice(pool) for _ in range(r.randint(2, 12))))
    return out


def train(folder, prefix, **more):
    text = folder / "corpus.txt"
    text.write_text("\n".join(corpus()))
    spm.SentencePieceTrainer.train(input=str(text), model_prefix=str(folder / prefix), model_type="unigram", hard_vocab_limit=False,
                                   num_threads=1, minloglevel=2, **more)
    return folder / f"{prefix}.model"


def write(name, rows):
    (OUT / name).mkdir(parents=True, exist_ok=True)
    with open(OUT / name / "cases.jsonl", "w") as f:
        for row in rows:
            f.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")
    print(name, len(rows), "texts,", sum(p.stat().st_size for p in (OUT / name).iterdir()), "bytes")


def sp_row(sp, text):
    ids = sp.encode(text)
    return {"sp_ids": ids, "sp_decoded": sp.decode(ids)}


def make_siglip(model):
    d = OUT / "siglip"
    d.mkdir(parents=True, exist_ok=True)
    shutil.copy(model, d / "spiece.model")
    flags = {"lstrip": True, "normalized": False, "rstrip": True, "single_word": False, "special": True}
    config = {"added_tokens_decoder": {"1": {"content": "</s>", **flags}, "2": {"content": "<unk>", **flags}}, "additional_special_tokens": [],
              "do_lower_case": True, "eos_token": "</s>", "model_max_length": 64, "pad_token": "</s>", "sp_model_kwargs": {},
              "tokenizer_class": "SiglipTokenizer", "unk_token": "<unk>"}
    (d / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    tok = transformers.SiglipTokenizer.from_pretrained(str(d))
    sp = spm.SentencePieceProcessor(model_file=str(model))
    rows = []
    for t in texts():
        if "\x00" in t:
            continue
        ids = tok(t, add_special_tokens=False)["input_ids"]
        full = tok(t, padding="max_length", truncation=True, max_length=16)["input_ids"]
        rows.append({"text": t, "ids": ids, "ids_padded16": full, **sp_row(sp, t)})
    write("siglip", rows)


def make_t5(model):
    d = OUT / "t5"
    d.mkdir(parents=True, exist_ok=True)
    shutil.copy(model, d / "spiece.model")
    config = {"eos_token": "</s>", "extra_ids": 100, "pad_token": "<pad>", "tokenizer_class": "T5Tokenizer", "unk_token": "<unk>"}
    (d / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    tok = transformers.T5Tokenizer.from_pretrained(str(d))
    rows = []
    for t in texts():
        ids = tok(t, add_special_tokens=False)["input_ids"]
        rows.append({"text": t, "ids": ids, "decoded": tok.decode(ids, clean_up_tokenization_spaces=False),
                     "decoded_skip_special": tok.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)})
    write("t5", rows)


def make_bytes(model):
    d = OUT / "bytes"
    d.mkdir(parents=True, exist_ok=True)
    shutil.copy(model, d / "tokenizer.model")
    sp = spm.SentencePieceProcessor(model_file=str(model))
    write("bytes", [{"text": t, **sp_row(sp, t)} for t in texts()])


def make_json():
    tok = Tokenizer(models.Unigram())
    tok.normalizer = normalizers.Sequence([
        normalizers.Lowercase(), normalizers.Replace(Regex(r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"), ""), normalizers.NFKC(),
        normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()])
    tok.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    special = ["<pad>", "</s>", "<unk>"]
    byte_pieces = [f"<0x{b:02X}>" for b in range(256)]
    tok.train_from_iterator(corpus(), trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="<unk>", shrinking_factor=0.7))
    learnt = json.loads(tok.to_str())["model"]["vocab"]
    vocab = [(p, s) for p, s in learnt[:3]] + [(b, 0.0) for b in byte_pieces] + [(p, s) for p, s in learnt[3:]]
    both = Tokenizer(models.Unigram(vocab, unk_id=2, byte_fallback=True))
    both.normalizer, both.pre_tokenizer = tok.normalizer, tok.pre_tokenizer
    both.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    both.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    both.add_special_tokens(special)
    d = OUT / "json"
    d.mkdir(parents=True, exist_ok=True)
    (d / "tokenizer.json").write_text(both.to_str(pretty=False) + "\n")
    rows = []
    for t in texts():
        ids = both.encode(t, add_special_tokens=False).ids
        rows.append({"text": t, "ids": ids, "decoded": both.decode(ids, skip_special_tokens=False), "decoded_skip_special": both.decode(ids)})
    write("json", rows)


def main():
    with tempfile.TemporaryDirectory() as tmp:
        tmp = pathlib.Path(tmp)
        table(tmp / "table.tsv")
        usual = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
        # SigLIP's pieces were learnt from texts as it prepares them; a few marks are left in, as T5 has them.
        make_siglip(train(tmp, "spiece", vocab_size=340, normalization_rule_tsv=str(tmp / "table.tsv"), **usual))
        make_t5(train(tmp, "t5", vocab_size=340, normalization_rule_tsv=str(tmp / "table.tsv"), **usual))
        make_bytes(train(tmp, "bytes", vocab_size=560, byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
                         character_coverage=0.98, user_defined_symbols=["<mark>", "</mark>", "cat", "  "]))
    make_json()
    versions = {m.__name__: m.__version__ for m in (spm, tokenizers, transformers)}
    (OUT / "versions.json").write_text(json.dumps(versions, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
