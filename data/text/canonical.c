/*
 * canonical.c - SigLIP's text preparation, as its tokenizer class has it: lower case, no ASCII punctuation, white space
 * joined and off the ends. It stands in front of the normalisers, so that a `tokenizer.json` written here does the same
 * wherever it is read. SentencePiece's own normaliser, where the model came from its file, follows these steps.
 */
#include "data/text/bpe.h"
#include "data/text/layouts.h"
#include "data/text/presets.h"

#include <string.h>

bool pc_is_siglip_class(const json_t *config)
{
    const char *class = pc_tok_text(config, "tokenizer_class");
    return class && (!strcmp(class, "SiglipTokenizer") || !strcmp(class, "SiglipTokenizerFast"));
}

static json_t *replace(const char *kind, const char *pattern, const char *by)
{
    return json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", kind, pattern, "content",
                     by);
}

static json_t *steps_of(bool lower)
{
    json_t *steps = json_array();
    int failed = json_array_append_new(steps, replace("String", PC_MARK, " "));
    if (lower) { // Python's lower() knows the sigma that ends a word
        failed |= json_array_append_new(
            steps, replace("Regex",
                           "(?<=[\\p{L}\\p{M}])\xCE\xA3(?![\\p{M}'.:\xC2\xB7\xE2\x80\x99]*\\p{L})",
                           "\xCF\x82"));
        failed |= json_array_append_new(steps, json_pack("{s:s}", "type", "Lowercase"));
    }
    failed |= json_array_append_new(steps, replace("Regex", "[!-/:-@\\[-`{-~]", ""));
    // What white space is to Python: the separators of ASCII too.
    failed |= json_array_append_new(steps, replace("Regex", "[\\s\\x1c-\\x1f]+", " "));
    failed |= json_array_append_new(steps, json_pack("{s:s, s:b, s:b}", "type", "Strip",
                                                     "strip_left", 1, "strip_right", 1));
    if (!failed) return steps;
    json_decref(steps);
    return NULL;
}

/* A list that begins with these steps was prepared already. */
static bool begins_with(const json_t *list, const json_t *steps)
{
    const size_t n = json_array_size(steps);
    if (json_array_size(list) < n) return false;
    for (size_t i = 0; i < n; i++)
        if (!json_equal(json_array_get(list, i), json_array_get(steps, i))) return false;
    return true;
}

pc_status pc_siglip_keep(json_t *root, const pc_tokenizer *t, const json_t *config, bool *changed)
{
    bool lower;
    pc_status st;
    if (!pc_is_siglip_class(config)) return PC_OK;
    if ((st = pc_tok_flag(&lower, config, "do_lower_case", true)))
        return pc_context(st, "tokenizer_config.json");
    json_t *steps = steps_of(lower), *old = json_object_get(root, "normalizer");
    json_t *list = json_object_get(old, "normalizers"), *frame;
    int failed = !steps;
    if (!failed && begins_with(list, steps)) {
        json_decref(steps);
        return PC_OK;
    }
    *changed = true;
    json_t *own = json_object_get(json_object_get(json_object_get(root, "model"), "percept"),
                                  "sentencepiece");
    if (json_is_object(own))
        failed |=
            json_object_set_new(own, "prepared", json_integer((json_int_t)json_array_size(steps)));
    if (json_is_array(list))
        failed |= json_array_extend(steps, list);
    else if (!pc_tok_absent(old))
        failed |= json_array_append(steps, old);
    failed |=
        json_object_set_new(root, "normalizer",
                            json_pack("{s:s, s:o}", "type", "Sequence", "normalizers", steps));
    const char *end = "</s>";
    const int32_t id = pc_tokenizer_id(t, end);
    if (pc_tok_absent(json_object_get(root, "post_processor")) && id >= 0) {
        frame = pc_preset_frame(NULL, -1, end, id);
        failed |= !frame || json_object_set_new(root, "post_processor", frame);
    }
    return failed ? pc_fail(PC_ERR_MEMORY, "the preparation of texts") : PC_OK;
}
