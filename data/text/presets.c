/*
 * presets.c - the table of names.
 *
 * A preset is a list of patterns, each splitting the pieces of the one before it; then the byte alphabet. Names
 * are those of GGUF's tokenizer.ggml.pre. Patterns are the families' own, from their tokenizer.json; where
 * llama.cpp splits otherwise (it composes nothing, and keeps runs of digits that no merge joins) the ids
 * are the same.
 */
#include "data/text/presets.h"

#include <string.h>

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
#define SPACES       "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define SYMBOLS      " ?[^\\s\\p{L}\\p{N}]+"

static const char gpt2[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+|" SYMBOLS "|\\s+(?!\\S)|\\s+";
static const char qwen2[] =
    CONTRACTIONS "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|" SYMBOLS "[\\r\\n]*|" SPACES;
static const char llama3[] =
    CONTRACTIONS "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|" SYMBOLS "[\\r\\n]*|" SPACES;
static const char tekken[] =
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|"
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|"
    "\\p{N}|" SYMBOLS "[\\r\\n/]*|" SPACES;
static const char gpt4o[] =
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*"
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    "\\p{N}{1,3}|" SYMBOLS "[\\r\\n/]*|" SPACES;
static const char bloom[] =
    " ?[^(\\s|.,!?\xE2\x80\xA6\xE3\x80\x82\xEF\xBC\x8C\xE3\x80\x81\xE0\xA5\xA4"
    "\xDB\x94\xD8\x8C)]+";

// DeepSeek's letters, without the scripts that it leaves to later steps (spec: tokenizers.md 4).
#define DEEPSEEK_LETTERS                                                                           \
    "A-Za-z\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}\\x{1BC}-\\x{1BF}\\x{1C4}-"        \
    "\\x{293}\\x{295}-\\x{2AF}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37B}-\\x{37D}\\x{37F}"          \
    "\\x{386}\\x{388}-\\x{38A}\\x{38C}\\x{38E}-\\x{3A1}\\x{3A3}-\\x{3F5}\\x{3F7}-\\x{481}"         \
    "\\x{48A}-\\x{52F}\\x{531}-\\x{556}\\x{10A0}-\\x{10C5}\\x{13A0}-\\x{13F5}\\x{13F8}-"           \
    "\\x{13FD}\\x{1C90}-\\x{1CBA}\\x{1CBD}-\\x{1CBF}\\x{1D00}-\\x{1D2B}\\x{1D6B}-\\x{1D77}"        \
    "\\x{1D79}-\\x{1D9A}\\x{1E00}-\\x{1F15}\\x{1F18}-\\x{1F1D}\\x{1F20}-\\x{1F45}\\x{1F48}-"       \
    "\\x{1F4D}\\x{1F50}-\\x{1F57}\\x{1F59}\\x{1F5B}\\x{1F5D}\\x{1F5F}-\\x{1F7D}\\x{1F80}-"         \
    "\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{1FBE}\\x{1FC2}-\\x{1FC4}\\x{1FC6}-\\x{1FCC}\\x{1FD0}-"        \
    "\\x{1FD3}\\x{1FD6}-\\x{1FDB}\\x{1FE0}-\\x{1FEC}\\x{1FF2}-\\x{1FF4}\\x{1FF6}-\\x{1FFC}"        \
    "\\x{2102}\\x{2107}\\x{210A}-\\x{2113}\\x{2115}\\x{2119}-\\x{211D}\\x{2124}\\x{2126}"          \
    "\\x{2128}\\x{212A}-\\x{212D}\\x{212F}-\\x{2134}\\x{2139}\\x{213C}-\\x{213F}\\x{2145}-"        \
    "\\x{2149}\\x{214E}\\x{2183}\\x{2184}\\x{2C00}-\\x{2C7B}\\x{2C7E}-\\x{2CE4}\\x{2CEB}-"         \
    "\\x{2CEE}\\x{2CF2}\\x{2CF3}\\x{A640}-\\x{A66D}\\x{A680}-\\x{A69B}\\x{A722}-\\x{A76F}"         \
    "\\x{A771}-\\x{A787}\\x{A78B}-\\x{A78E}\\x{AB70}-\\x{ABBF}\\x{FB00}-\\x{FB06}\\x{FB13}-"       \
    "\\x{FB17}\\x{FF21}-\\x{FF3A}\\x{FF41}-\\x{FF5A}\\x{10400}-\\x{1044F}\\x{104B0}-"              \
    "\\x{104D3}\\x{104D8}-\\x{104FB}\\x{10C80}-\\x{10CB2}\\x{10CC0}-\\x{10CF2}\\x{118A0}-"         \
    "\\x{118DF}\\x{1E900}-\\x{1E943}"
#define DEEPSEEK_MARKS                                                                             \
    "!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}\\x{2018}-\\x{201F}\\x{3000}-\\x{3002}"
#define DEEPSEEK_CJK "\\x{4E00}-\\x{9FA5}\\x{0800}-\\x{4E00}\\x{AC00}-\\x{D7FF}"

typedef struct preset {
    const char *name; // several, with a blank between them
    const char *pattern[7];
    bool nfc, ignore_merges, bos;
} preset;

static const preset presets[] = {
    {"gpt-2 gpt2 phi-2 jina-es jina-de jina-v2-es jina-v2-de mpt olmo jais roberta-bpe gigachat",
     {gpt2},
     false,
     false,
     false},
    {"qwen2 stablelm2 deepseek-r1-qwen megrez", {qwen2}, true, false, false},
    {"llama-bpe llama3 llama-v3 dbrx smaug-bpe glm4 chatglm-bpe falcon3 pixtral",
     {llama3},
     false,
     true,
     true},
    {"deepseek-llm",
     {"[\\r\\n]", "\\s?[" DEEPSEEK_LETTERS "]+", "\\s?[" DEEPSEEK_MARKS "]+", "\\s+$",
      "[" DEEPSEEK_CJK "]+", "\\p{N}"},
     false,
     false,
     true},
    {"deepseek-coder",
     {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", "[" DEEPSEEK_CJK "]+", "\\p{N}"},
     false,
     false,
     true},
    {"deepseek-v3",
     {"\\p{N}{1,3}", "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+",
      "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?"
      "[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|" SPACES},
     false,
     false,
     true},
    {"default",
     {"[\\p{P}\\$\\+<=>\\^~\\|]+",
      "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+|" SYMBOLS "|\\s+(?!\\S)", "\\p{N}+",
      "[0-9][0-9][0-9]"},
     false,
     false,
     false},
    {"falcon",
     {"[\\p{P}\\$\\+<=>\\^~\\|`]+",
      "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+|" SYMBOLS "|\\s+(?!\\S)", "[0-9][0-9][0-9]"},
     false,
     false,
     false},
    {"starcoder refact command-r smollm codeshell exaone minerva-7b",
     {"\\p{N}", gpt2},
     false,
     false,
     false},
    {"bloom poro-chat gpt3-finnish viking", {bloom}, false, false, false},
    {"tekken", {tekken}, false, true, true},
    {"gpt-4o llama4", {gpt4o}, false, false, false},
};
enum { PRESETS = sizeof presets / sizeof *presets };

static const preset *find(const char *name)
{
    const size_t size = strlen(name);
    for (int i = 0; i < PRESETS && size; i++)
        for (const char *at = presets[i].name; at;) {
            const char *end = strchr(at, ' ');
            const size_t n = end ? (size_t)(end - at) : strlen(at);
            if (n == size && memcmp(at, name, n) == 0) return &presets[i];
            at = end ? end + 1 : NULL;
        }
    return NULL;
}

static pc_status unknown(const char *name)
{
    const char *first[PRESETS];
    char words[PRESETS][64];
    for (int i = 0; i < PRESETS; i++) {
        const size_t n = strcspn(presets[i].name, " ");
        memcpy(words[i], presets[i].name, n);
        words[i][n] = '\0';
        first[i] = words[i];
    }
    const char *near = pc_nearest(name, first, PRESETS);
    return pc_fail(PC_ERR_FORMAT, "pre-tokeniser '%.60s' is not known; expected %s%s%s", name,
                   near ? "(nearest) '" : "one such as 'llama-bpe', 'qwen2', 'deepseek-llm', ",
                   near ? near : "'gpt-2'", near ? "'" : "");
}

bool pc_preset_adds_bos(const char *name)
{
    const preset *p = find(name);
    return p && p->bos;
}

static json_t *split(const char *pattern)
{
    return json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex", pattern,
                     "behavior", "Isolated", "invert", 0);
}

static json_t *bytes_step(int prefix)
{
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", prefix,
                     "trim_offsets", 1, "use_regex", 0);
}

pc_status pc_preset_bytes(json_t *root, json_t *model, const char *name)
{
    const preset *p = find(name);
    if (!p) return unknown(name);
    json_t *steps = json_array();
    int failed = 0;
    for (int i = 0; p->pattern[i]; i++)
        failed |= json_array_append_new(steps, split(p->pattern[i]));
    failed |= json_array_append_new(steps, bytes_step(0));
    failed |= json_object_set_new(root, "normalizer",
                                  p->nfc ? json_pack("{s:s}", "type", "NFC") : json_null());
    failed |=
        json_object_set_new(root, "pre_tokenizer",
                            json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", steps));
    failed |= json_object_set_new(root, "post_processor", bytes_step(0));
    failed |= json_object_set_new(root, "decoder", bytes_step(1));
    failed |= json_object_set_new(model, "ignore_merges", json_boolean(p->ignore_merges));
    return failed ? pc_fail(PC_ERR_MEMORY, "the parts of a tokenizer") : PC_OK;
}

pc_status pc_preset_pieces(json_t *root, bool prefix)
{
    static const char mark[] = "\xE2\x96\x81";
    json_t *normal = json_array(), *decode = json_array();
    int failed = 0;
    if (prefix)
        failed |= json_array_append_new(normal, json_pack("{s:s, s:s}", "type", "Prepend",
                                                          "prepend", mark));
    failed |= json_array_append_new(normal, json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace",
                                                      "pattern", "String", " ", "content", mark));
    failed |= json_array_append_new(decode, json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace",
                                                      "pattern", "String", mark, "content", " "));
    failed |= json_array_append_new(decode, json_pack("{s:s}", "type", "ByteFallback"));
    failed |= json_array_append_new(decode, json_pack("{s:s}", "type", "Fuse"));
    if (prefix)
        failed |= json_array_append_new(decode, json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip",
                                                          "content", " ", "start", 1, "stop", 0));
    failed |=
        json_object_set_new(root, "normalizer",
                            json_pack("{s:s, s:o}", "type", "Sequence", "normalizers", normal));
    failed |= json_object_set_new(root, "pre_tokenizer", json_null());
    failed |= json_object_set_new(root, "decoder",
                                  json_pack("{s:s, s:o}", "type", "Sequence", "decoders", decode));
    failed |= json_object_set_new(root, "post_processor", json_null());
    return failed ? pc_fail(PC_ERR_MEMORY, "the parts of a tokenizer") : PC_OK;
}

json_t *pc_preset_frame(const char *bos, int32_t bos_id, const char *eos, int32_t eos_id)
{
    if (!bos && !eos) return json_null();
    const char *const name[2] = {bos, eos};
    const int32_t id[2] = {bos_id, eos_id};
    json_t *single = json_array(), *pair = json_array(), *specials = json_object();
    int failed = 0;
    for (int text = 0; text < 2; text++)
        for (int part = 0; part < 3; part++) {
            json_t *item = NULL;
            const int end = part / 2;
            if (part == 1)
                item = json_pack("{s:{s:s, s:i}}", "Sequence", "id", text ? "B" : "A", "type_id",
                                 text);
            else if (name[end])
                item =
                    json_pack("{s:{s:s, s:i}}", "SpecialToken", "id", name[end], "type_id", text);
            if (!item) continue;
            if (text == 0) failed |= json_array_append(single, item);
            failed |= json_array_append_new(pair, item);
        }
    for (int end = 0; end < 2; end++)
        if (name[end])
            failed |= json_object_set_new(specials, name[end],
                                          json_pack("{s:s, s:[i], s:[s]}", "id", name[end], "ids",
                                                    (int)id[end], "tokens", name[end]));
    json_t *out = json_pack("{s:s, s:o, s:o, s:o}", "type", "TemplateProcessing", "single", single,
                            "pair", pair, "special_tokens", specials);
    if (!failed) return out;
    json_decref(out);
    return NULL;
}
