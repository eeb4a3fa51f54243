/*
 * pipeline_json.c - what stands around the model in a `tokenizer.json` (spec: tokenizers.md 2): normaliser,
 * pre-tokeniser, post-processor, decoder; each one entry or a sequence of them.
 *
 *   normaliser      NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents, Prepend, Replace, Nmt, Precompiled, ByteLevel
 *   pre-tokeniser   ByteLevel, Split (all behaviours), Metaspace, Digits, Whitespace, WhitespaceSplit, Punctuation,
 *                   CharDelimiterSplit, BertPreTokenizer
 *   post-processor  TemplateProcessing, RobertaProcessing, BertProcessing, ByteLevel
 *   decoder         ByteLevel, Replace, ByteFallback, Fuse, Strip, Metaspace, BPEDecoder
 *
 * Anything else is refused by name: a tokenizer that is nearly right is worse than none.
 */
#include "data/text/base64.h"
#include "data/text/bpe.h"
#include "data/text/utf8.h"

#include <stdlib.h>
#include <string.h>

enum { DEPTH = 8, DECODE_STEPS = 16 };

const char *pc_tok_text(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_string(v) ? json_string_value(v) : NULL;
}

bool pc_tok_absent(const json_t *v)
{
    return !v || json_is_null(v);
}

pc_status pc_tok_flag(bool *out, const json_t *o, const char *key, bool absent)
{
    const json_t *v = json_object_get(o, key);
    *out = v && !json_is_null(v) ? json_is_true(v) : absent;
    if (v && !json_is_null(v) && !json_is_boolean(v))
        return pc_fail(PC_ERR_FORMAT, "`%s` is neither true nor false", key);
    return PC_OK;
}

/* What stands under "type", for messages. */
static const char *kind_of(const json_t *o)
{
    const char *kind = pc_tok_text(o, "type");
    return kind ? kind : json_is_object(o) ? "(no type)" : "(not an object)";
}

static bool is(const json_t *part, const char *kind)
{
    return strcmp(kind_of(part), kind) == 0;
}

typedef struct reader {
    pc_tokenizer *t;
    pc_decode_step decode[DECODE_STEPS]; // the decoder's steps before Fuse
    int decode_count;
    bool fused, bytes_last; // after Fuse; the last splitting step so far is the byte alphabet
} reader;
typedef pc_status part_fn(reader *r, const json_t *part);

static pc_status each_part(reader *r, const json_t *part, const char *list, part_fn *fn, int depth)
{
    if (pc_tok_absent(part)) return PC_OK;
    if (!json_is_object(part)) return pc_fail(PC_ERR_FORMAT, "expected an object or null");
    if (!is(part, "Sequence")) return fn(r, part);
    const json_t *parts = json_object_get(part, list), *one;
    size_t i;
    if (!json_is_array(parts)) return pc_fail(PC_ERR_FORMAT, "Sequence without `%s`", list);
    if (depth == DEPTH)
        return pc_fail(PC_ERR_FORMAT, "more than %d Sequences in each other", DEPTH);
    json_array_foreach(parts, i, one)
    {
        pc_status st = each_part(r, one, list, fn, depth + 1);
        if (st) return st;
    }
    return PC_OK;
}

/* pattern.Regex or pattern.String; old files have a bare string. */
static pc_status read_pattern(pc_pattern *p, const json_t *part)
{
    const json_t *pattern = json_object_get(part, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex"),
                 *text = json_object_get(pattern, "String");
    if (json_is_string(pattern)) text = pattern;
    const json_t *v = json_is_string(regex) ? regex : text;
    if (!json_is_string(v))
        return pc_fail(PC_ERR_FORMAT, "%s: no pattern.Regex or .String", kind_of(part));
    return pc_pattern_open(p, json_string_value(v), json_string_length(v), v == text);
}

static pc_status read_text(char **out, const json_t *part, const char *key)
{
    const char *text = pc_tok_text(part, key);
    if (!text) return pc_fail(PC_ERR_FORMAT, "%s: no `%s`", kind_of(part), key);
    *out = strdup(text);
    return *out ? PC_OK : pc_fail(PC_ERR_MEMORY, "%s: `%s`", kind_of(part), key);
}

/* ---- normaliser ---- */

static pc_status read_charsmap(pc_charsmap *m, const json_t *part)
{
    const json_t *v = json_object_get(part, "precompiled_charsmap");
    const size_t n = json_string_length(v);
    if (!json_is_string(v)) return pc_fail(PC_ERR_FORMAT, "Precompiled: no precompiled_charsmap");
    unsigned char *bytes = malloc(n + 1);
    size_t size;
    if (!bytes) return pc_fail(PC_ERR_MEMORY, "a table of %zu bytes", n);
    pc_status st = pc_base64_decode(bytes, &size, json_string_value(v), n)
                       ? pc_charsmap_open(m, bytes, size)
                       : pc_fail(PC_ERR_FORMAT, "Precompiled: the table is no base64");
    free(bytes);
    return st;
}

static const struct {
    const char *name;
    pc_normal_kind kind;
    bool compose, compatible;
} normalizers[] = {
    {"NFC", PC_NORMAL_FORM, true, false},      {"NFD", PC_NORMAL_FORM, false, false},
    {"NFKC", PC_NORMAL_FORM, true, true},      {"NFKD", PC_NORMAL_FORM, false, true},
    {"Lowercase", PC_NORMAL_LOWER, 0, 0},      {"Strip", PC_NORMAL_STRIP, 0, 0},
    {"StripAccents", PC_NORMAL_ACCENTS, 0, 0}, {"Prepend", PC_NORMAL_PREPEND, 0, 0},
    {"Replace", PC_NORMAL_REPLACE, 0, 0},      {"Nmt", PC_NORMAL_CONTROL, 0, 0},
    {"Precompiled", PC_NORMAL_CHARS, 0, 0},    {"ByteLevel", PC_NORMAL_BYTES, 0, 0},
};

static pc_status normalizer_part(reader *r, const json_t *part)
{
    size_t i = 0;
    while (i < sizeof normalizers / sizeof *normalizers && !is(part, normalizers[i].name)) i++;
    if (i == sizeof normalizers / sizeof *normalizers)
        return pc_fail(PC_ERR_FORMAT,
                       "\"%s\" is not supported; expected NFC, NFD, NFKC, NFKD, Lowercase, Strip, "
                       "StripAccents, Prepend, Replace, Nmt, Precompiled, ByteLevel or a Sequence",
                       kind_of(part));
    pc_normal_step *s = pc_normal_add(&r->t->normal, normalizers[i].kind);
    pc_status st = PC_OK;
    if (!s) return PC_ERR_INPUT;
    s->compose = normalizers[i].compose;
    s->compatible = normalizers[i].compatible;
    if (s->kind == PC_NORMAL_STRIP) {
        if (!(st = pc_tok_flag(&s->left, part, "strip_left", true)))
            st = pc_tok_flag(&s->right, part, "strip_right", true);
    } else if (s->kind == PC_NORMAL_PREPEND) {
        st = read_text(&s->text, part, "prepend");
    } else if (s->kind == PC_NORMAL_REPLACE) {
        if (!(st = read_pattern(&s->pattern, part))) st = read_text(&s->text, part, "content");
    } else if (s->kind == PC_NORMAL_CHARS) {
        st = read_charsmap(&s->chars, part);
    } else if (s->kind == PC_NORMAL_BYTES) {
        r->t->rules.coded = r->t->byte_level = true;
    }
    if (!st && s->text) s->size = strlen(s->text);
    return st;
}

/* ---- pre-tokeniser ---- */

// Word characters by Unicode's rule, which is not quite the one that \w stands for in a file's own patterns.
#define WORDS                                                                                      \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{200c}\\x{200d}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}"  \
    "\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}"
static const char words_or_marks[] = "[" WORDS "]+|[^" WORDS "\\s]+";
static const char not_a_word[] = "[!-/:-@\\[-`{-~\\p{P}]";

static pc_status read_behavior(pc_split_rule *rule, const json_t *part, const char *absent)
{
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    static const pc_split_rule rules[] = {PC_SPLIT_ISOLATED, PC_SPLIT_REMOVED,
                                          PC_SPLIT_WITH_PREVIOUS, PC_SPLIT_WITH_NEXT,
                                          PC_SPLIT_CONTIGUOUS};
    const char *name = pc_tok_text(part, "behavior");
    if (!name) name = absent;
    for (int i = 0; i < 5 && name; i++)
        if (strcmp(name, names[i]) == 0) {
            *rule = rules[i];
            return PC_OK;
        }
    const char *near = name ? pc_nearest(name, names, 5) : NULL;
    return pc_fail(PC_ERR_FORMAT, "%s: behavior \"%s\" is not known; expected %s", kind_of(part),
                   name ? name : "(none)",
                   near ? near
                        : "Isolated, Removed, MergedWithPrevious, "
                          "MergedWithNext or Contiguous");
}

static pc_status add_split(reader *r, const char *pattern, pc_split_rule rule, bool invert)
{
    pc_status st = pc_word_rules_split(&r->t->rules, pattern);
    if (st) return st;
    pc_word_step *s = &r->t->rules.step[r->t->rules.count - 1];
    s->rule = rule;
    s->invert = invert;
    return PC_OK;
}

static pc_status split_part(reader *r, const json_t *part)
{
    pc_word_step *s = pc_word_rules_add(&r->t->rules, PC_WORD_SPLIT);
    pc_status st;
    if (!s) return PC_ERR_INPUT;
    if ((st = read_behavior(&s->rule, part, NULL)) ||
        (st = pc_tok_flag(&s->invert, part, "invert", false)))
        return st;
    return pc_context(read_pattern(&s->pattern, part), "Split");
}

static pc_status bytes_part(reader *r, const json_t *part)
{
    bool prefix_space, use_regex;
    pc_status st;
    if ((st = pc_tok_flag(&prefix_space, part, "add_prefix_space", true)) ||
        (st = pc_tok_flag(&use_regex, part, "use_regex", true)))
        return st;
    if (prefix_space && !pc_word_rules_add(&r->t->rules, PC_WORD_PREFIX)) return PC_ERR_INPUT;
    if (use_regex && (st = pc_word_rules_split(&r->t->rules, pc_pattern_gpt2))) return st;
    r->t->byte_level = true;
    // Written out only for steps that follow; at the end words stay bytes.
    if (!pc_word_rules_add(&r->t->rules, PC_WORD_BYTES)) return PC_ERR_INPUT;
    r->bytes_last = true;
    return PC_OK;
}

static pc_status digits_part(reader *r, const json_t *part)
{
    bool each;
    pc_status st = pc_tok_flag(&each, part, "individual_digits", false);
    return st ? st : add_split(r, each ? "\\p{N}" : "\\p{N}+", PC_SPLIT_ISOLATED, false);
}

static pc_status mark_part(reader *r, const json_t *part)
{
    pc_word_step *s = pc_word_rules_add(&r->t->rules, PC_WORD_MARK);
    const char *mark = pc_tok_text(part, "replacement"),
               *scheme = pc_tok_text(part, "prepend_scheme");
    bool prefixed;
    pc_status st;
    if (!s) return PC_ERR_INPUT;
    if ((st = pc_tok_flag(&s->split, part, "split", true)) ||
        (st = pc_tok_flag(&prefixed, part, "add_prefix_space", true)))
        return st;
    if (!mark) mark = PC_MARK;
    if ((size_t)pc_utf8_step((const unsigned char *)mark, strlen(mark)) != strlen(mark) || !*mark)
        return pc_fail(PC_ERR_FORMAT, "Metaspace: replacement \"%.20s\", expected one character",
                       mark);
    s->prefixed = prefixed ? PC_MARK_ALWAYS : PC_MARK_NEVER;
    if (scheme && strcmp(scheme, "first") == 0)
        s->prefixed = PC_MARK_FIRST;
    else if (scheme && strcmp(scheme, "never") == 0)
        s->prefixed = PC_MARK_NEVER;
    else if (scheme && strcmp(scheme, "always") != 0)
        return pc_fail(PC_ERR_FORMAT,
                       "Metaspace: prepend_scheme \"%s\", expected first, always or never", scheme);
    return pc_pattern_open(&s->pattern, mark, strlen(mark), true);
}

static pc_status pre_tokenizer_part(reader *r, const json_t *part)
{
    pc_split_rule rule;
    pc_status st;
    if (r->bytes_last) r->t->rules.coded = true; // steps behind the byte alphabet see it
    r->bytes_last = false;
    if (is(part, "Split")) return split_part(r, part);
    if (is(part, "ByteLevel")) return bytes_part(r, part);
    if (is(part, "Digits")) return digits_part(r, part);
    if (is(part, "Metaspace")) return mark_part(r, part);
    if (is(part, "Whitespace")) return add_split(r, words_or_marks, PC_SPLIT_REMOVED, true);
    if (is(part, "WhitespaceSplit")) return add_split(r, "\\s", PC_SPLIT_REMOVED, false);
    if (is(part, "Punctuation")) {
        st = read_behavior(&rule, part, "Isolated");
        return st ? st : add_split(r, not_a_word, rule, false);
    }
    if (is(part, "BertPreTokenizer")) {
        st = add_split(r, "\\s", PC_SPLIT_REMOVED, false);
        return st ? st : add_split(r, not_a_word, PC_SPLIT_ISOLATED, false);
    }
    if (is(part, "CharDelimiterSplit")) {
        const char *delimiter = pc_tok_text(part, "delimiter");
        pc_word_step *s = pc_word_rules_add(&r->t->rules, PC_WORD_SPLIT);
        if (!s) return PC_ERR_INPUT;
        s->rule = PC_SPLIT_REMOVED;
        return pc_pattern_open(&s->pattern, delimiter ? delimiter : "",
                               delimiter ? strlen(delimiter) : 0, true);
    }
    return pc_fail(PC_ERR_FORMAT,
                   "\"%s\" is not supported; expected ByteLevel, Split, Metaspace, Digits, "
                   "Whitespace, WhitespaceSplit, Punctuation, CharDelimiterSplit or a Sequence",
                   kind_of(part));
}

/* ---- decoder ---- */

static pc_status read_count(int32_t *out, const json_t *part, const char *key)
{
    const json_t *v = json_object_get(part, key);
    const json_int_t n = json_integer_value(v);
    if (!pc_tok_absent(v) && (!json_is_integer(v) || n < 0 || n > INT32_MAX))
        return pc_fail(PC_ERR_FORMAT, "%s: `%s` is no count", kind_of(part), key);
    *out = (int32_t)n;
    return PC_OK;
}

static pc_status strip_step(reader *r, const json_t *part, pc_decode_step *s)
{
    pc_decoder *d = &r->t->decoder;
    pc_status st = read_text(&s->text, part, "content");
    if (st || (st = read_count(&s->start, part, "start")) ||
        (st = read_count(&s->stop, part, "stop")))
        return st;
    if (strlen(s->text) == 0 || strlen(s->text) >= sizeof d->strip)
        return pc_fail(PC_ERR_FORMAT, "Strip: content \"%.20s\", expected one character", s->text);
    if (!r->fused) return PC_OK;
    if (s->stop || d->strip_count)
        return pc_fail(PC_ERR_FORMAT, "Strip: behind Fuse only one, with stop 0, is supported");
    strcpy(d->strip, s->text);
    d->strip_count = s->start;
    return PC_OK;
}

static pc_status decoder_part(reader *r, const json_t *part)
{
    static const struct {
        const char *name;
        pc_decode_kind kind;
    } kinds[] = {{"ByteLevel", PC_DECODE_BYTES}, {"Replace", PC_DECODE_REPLACE},
                 {"Strip", PC_DECODE_STRIP},     {"ByteFallback", PC_DECODE_FALLBACK},
                 {"Metaspace", PC_DECODE_MARK},  {"BPEDecoder", PC_DECODE_SUFFIX}};
    if (is(part, "Fuse")) {
        r->fused = true;
        return PC_OK;
    }
    size_t i = 0;
    while (i < sizeof kinds / sizeof *kinds && !is(part, kinds[i].name)) i++;
    if (i == sizeof kinds / sizeof *kinds)
        return pc_fail(PC_ERR_FORMAT,
                       "\"%s\" is not supported; expected ByteLevel, Replace, ByteFallback, Fuse, "
                       "Strip, Metaspace, BPEDecoder or a Sequence",
                       kind_of(part));
    if (r->fused && kinds[i].kind != PC_DECODE_STRIP)
        return pc_fail(PC_ERR_FORMAT, "%s behind Fuse is not supported", kind_of(part));
    if (r->decode_count == DECODE_STEPS)
        return pc_fail(PC_ERR_FORMAT, "more than %d decoding steps", DECODE_STEPS);
    pc_decode_step *s = &r->decode[r->decode_count++];
    *s = (pc_decode_step){.kind = kinds[i].kind};
    pc_status st = PC_OK;
    switch (s->kind) {
    case PC_DECODE_REPLACE:
        st = read_pattern(&s->pattern, part);
        return st ? st : read_text(&s->text, part, "content");
    case PC_DECODE_STRIP:
        st = strip_step(r, part, s);
        if (r->fused && !st) free(r->decode[--r->decode_count].text); // of the whole text
        return st;
    case PC_DECODE_FALLBACK: r->t->decoder.bytes = PC_DECODE_RUNS; return PC_OK;
    case PC_DECODE_MARK: {
        const char *mark = pc_tok_text(part, "replacement"),
                   *scheme = pc_tok_text(part, "prepend_scheme");
        bool prefixed;
        if ((st = pc_tok_flag(&prefixed, part, "add_prefix_space", true))) return st;
        if (mark && strcmp(mark, PC_MARK) != 0)
            return pc_fail(PC_ERR_FORMAT, "Metaspace: replacement \"%s\", expected U+2581", mark);
        r->t->decoder.drops_marks = scheme ? strcmp(scheme, "never") != 0 : prefixed;
        s->text = strdup(" ");
        if (!s->text) return pc_fail(PC_ERR_MEMORY, "Metaspace");
        return pc_pattern_open(&s->pattern, PC_MARK, 3, true);
    }
    case PC_DECODE_SUFFIX: {
        const char *suffix = pc_tok_text(part, "suffix");
        if (!suffix) suffix = "</w>";
        return pc_pattern_open(&s->pattern, suffix, strlen(suffix), true);
    }
    case PC_DECODE_BYTES:
        if (r->decode_count > 1)
            return pc_fail(PC_ERR_FORMAT, "ByteLevel behind other steps is not supported");
        // CLIP: its tokens' ends are spaces, and the whole text is trimmed.
        if (!r->t->suffix) return PC_OK;
        r->t->decoder.trims = true;
        r->decode[1] = *s;
        *s = (pc_decode_step){.kind = PC_DECODE_SUFFIX};
        r->decode_count = 2;
        return pc_pattern_open(&s->pattern, r->t->suffix, strlen(r->t->suffix), true);
    }
    return st;
}

static pc_status read_decoder(reader *r, const json_t *part)
{
    r->t->decoder.spaced = pc_tok_absent(part);
    pc_status st = each_part(r, part, "decoders", decoder_part, 0);
    if (!st) st = pc_decode_pieces(r->t, r->decode, r->decode_count);
    for (int i = 0; i < r->decode_count; i++) {
        pc_pattern_close(&r->decode[i].pattern);
        free(r->decode[i].text);
    }
    return st;
}

/* ---- post-processor: what stands around a text ---- */

static pc_status template_ids(pc_tokenizer *t, pc_ids *out, const json_t *part, const char *name)
{
    const json_t *special = json_object_get(json_object_get(part, "special_tokens"), name);
    const json_t *ids = json_object_get(special, "ids"),
                 *tokens = json_object_get(special, "tokens");
    const size_t n = json_array_size(ids);
    if (!json_is_array(ids) || json_array_size(tokens) != n)
        return pc_fail(
            PC_ERR_FORMAT,
            "TemplateProcessing: special_tokens[\"%s\"] needs `ids` and as many `tokens`", name);
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_array_get(ids, i), *token = json_array_get(tokens, i);
        const char *text = json_is_string(token) ? json_string_value(token) : "";
        const int32_t known = pc_tokenizer_id(t, text);
        if (!json_is_integer(id) || known < 0 || json_integer_value(id) != known)
            return pc_fail(PC_ERR_FORMAT,
                           "TemplateProcessing: \"%s\" has id %lld here and %d in the vocabulary",
                           text, (long long)json_integer_value(id), known);
        pc_status st = pc_ids_add(out, known);
        if (st) return st;
    }
    return PC_OK;
}

static pc_status template_part(pc_tokenizer *t, const json_t *part)
{
    const json_t *single = json_object_get(part, "single"), *item;
    size_t i;
    bool behind = false;
    if (!json_is_array(single))
        return pc_fail(PC_ERR_FORMAT, "TemplateProcessing: `single` is no array");
    json_array_foreach(single, i, item)
    {
        const char *name = pc_tok_text(json_object_get(item, "SpecialToken"), "id");
        if (!name) {
            if (behind) return pc_fail(PC_ERR_FORMAT, "TemplateProcessing: the text stands twice");
            behind = true;
            continue;
        }
        pc_status st = template_ids(t, behind ? &t->after : &t->before, part, name);
        if (st) return st;
    }
    return PC_OK;
}

/* "cls": ["<s>", 0] before a text, "sep" behind it. */
static pc_status ends_part(pc_tokenizer *t, const json_t *part)
{
    static const char *const keys[2] = {"cls", "sep"};
    for (int i = 0; i < 2; i++) {
        const json_t *pair = json_object_get(part, keys[i]), *id = json_array_get(pair, 1);
        const char *name = json_string_value(json_array_get(pair, 0));
        if (!name || !json_is_integer(id) || pc_tokenizer_id(t, name) != json_integer_value(id))
            return pc_fail(PC_ERR_FORMAT, "%s: `%s` is no pair of a token and its id",
                           kind_of(part), keys[i]);
        pc_status st = pc_ids_add(i ? &t->after : &t->before, (int32_t)json_integer_value(id));
        if (st) return st;
    }
    return PC_OK;
}

static pc_status post_part(reader *r, const json_t *part)
{
    if (is(part, "ByteLevel")) return PC_OK; // only moves offsets
    if (is(part, "TemplateProcessing")) return template_part(r->t, part);
    if (is(part, "RobertaProcessing") || is(part, "BertProcessing")) return ends_part(r->t, part);
    return pc_fail(PC_ERR_FORMAT,
                   "\"%s\" is not supported; expected ByteLevel, TemplateProcessing, "
                   "RobertaProcessing, BertProcessing or a Sequence",
                   kind_of(part));
}

pc_status pc_pipeline_words(pc_tokenizer *t, const json_t *root)
{
    reader r = {.t = t};
    pc_status st =
        each_part(&r, json_object_get(root, "normalizer"), "normalizers", normalizer_part, 0);
    if (st) return pc_context(st, "normalizer");
    st = each_part(&r, json_object_get(root, "pre_tokenizer"), "pretokenizers", pre_tokenizer_part,
                   0);
    // A byte alphabet that nothing follows is not written out: the model takes bytes.
    if (!st && r.bytes_last && t->rules.step[t->rules.count - 1].kind == PC_WORD_BYTES)
        t->rules.count--;
    return pc_context(st, "pre_tokenizer");
}

pc_status pc_pipeline_rest(pc_tokenizer *t, const json_t *root, bool own_decoder)
{
    reader r = {.t = t};
    pc_status st = own_decoder ? PC_OK : read_decoder(&r, json_object_get(root, "decoder"));
    if (st) return pc_context(st, "decoder");
    st = each_part(&r, json_object_get(root, "post_processor"), "processors", post_part, 0);
    return pc_context(st, "post_processor");
}
