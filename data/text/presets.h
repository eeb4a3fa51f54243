/*
 * presets.h - ways of splitting and normalising that go by a name: the pre-tokenisers of GGUF files and the
 * classes of tokenizer_config.json. Each gives the parts of a `tokenizer.json`.
 */
#ifndef PC_DATA_PRESETS_H
#define PC_DATA_PRESETS_H

#include "model/core/status.h"

#include <jansson.h>

// Puts `normalizer`, `pre_tokenizer`, `decoder` and `post_processor` of the named byte-level kind into root, and
// model.ignore_merges into model. PC_ERR_FORMAT: no such name.
pc_status pc_preset_bytes(json_t *root, json_t *model, const char *name);
// Whether a text of this kind begins with a BOS when its file does not say.
bool pc_preset_adds_bos(const char *name);

// The parts of a SentencePiece model: U+2581 for a space, one before every text when `prefix`.
pc_status pc_preset_pieces(json_t *root, bool prefix);

// {"type": "TemplateProcessing"} that puts tokens (NULL: none) before and behind a text; null when there are none.
json_t *pc_preset_frame(const char *bos, int32_t bos_id, const char *eos, int32_t eos_id);

#endif
