/*
 * layouts.h - other files than `tokenizer.json`, made into one. Each gives a new object; `config` is what a
 * tokenizer_config.json says (NULL: nothing), its "added_tokens.json" what a file of that name does.
 */
#ifndef PC_DATA_LAYOUTS_H
#define PC_DATA_LAYOUTS_H

#include "data/text/tokenizer.h"

#include <jansson.h>

// vocab.json and merges.txt: CLIP's when pieces end in "</w>", Qwen2's, RoBERTa's or GPT-2's by `class`, the
// configuration's tokenizer_class or a family's name (NULL: unknown).
pc_status pc_merges_txt_json(json_t **root, json_t *vocab, const char *merges, size_t size,
                             const char *class, const json_t *config);
// CLIP's bpe_simple_vocab_16e6.txt.gz.
pc_status pc_clip_gz_json(json_t **root, const void *bytes, size_t size);
// Lines of base64 and rank, with Qwen's special tokens (Llama 3's when there are 128,000).
pc_status pc_tiktoken_json(json_t **root, const char *text, size_t size);
bool pc_looks_like_tiktoken(const char *text, size_t size);

// Adds to root's added_tokens what the configuration adds: added_tokens_decoder, added_tokens.json, and the special
// tokens it names.
pc_status pc_added_from_config(json_t *root, const json_t *config);

// canonical.c: whether the configuration is SigLIP's, and its text preparation in front of root's normalisers
// (*changed: it was not there yet).
bool pc_is_siglip_class(const json_t *config);
pc_status pc_siglip_keep(json_t *root, const pc_tokenizer *t, const json_t *config, bool *changed);

#endif
