/*
 * sentencepiece.h - SentencePiece's own file (`tokenizer.model`) and its own ways with white space (spec:
 * tokenizers.md 1): for the files that make a tokenizer.
 */
#ifndef PC_DATA_SENTENCEPIECE_H
#define PC_DATA_SENTENCEPIECE_H

#include "data/text/bpe.h"

enum { // types of pieces
    PC_SP_NORMAL = 1,
    PC_SP_UNKNOWN,
    PC_SP_CONTROL,
    PC_SP_USER_DEFINED,
    PC_SP_UNUSED,
    PC_SP_BYTE
};

// The `tokenizer.json` that says the same. `own`: exactly as the library encodes and decodes, with control pieces
// never found in texts; otherwise as Hugging Face's classes do, whose tokenizer_config.json is `config` (may be
// NULL): special tokens are found, and a text behind one begins with a space again unless "legacy" is false.
pc_status pc_sentencepiece_json(json_t **root, const void *bytes, size_t size, bool own,
                                const json_t *config);

// model.percept.sentencepiece = {"add_dummy_prefix", "remove_extra_whitespaces", "escape_whitespaces": bool,
// "unk_surface": text, "charsmap": base64, "prepared": how many of the file's normalising steps go before},
// into a tokenizer whose pieces are known.
pc_status pc_sentencepiece_read(pc_tokenizer *t, const json_t *model);

// The library's normaliser: spaces, the table of characters, user-defined pieces left as they are. `prefix`: a mark
// before a text that is not empty.
pc_status pc_sentencepiece_normal(const pc_tokenizer *t, pc_buffer *out, const char *text,
                                  size_t size, bool prefix);

#endif
