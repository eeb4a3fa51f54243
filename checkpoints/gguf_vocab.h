/*
 * gguf_vocab.h - a tokenizer.json as the vocabulary of a GGUF text file. Private to gguf_export.c.
 */
#ifndef PC_CHECKPOINTS_GGUF_VOCAB_H
#define PC_CHECKPOINTS_GGUF_VOCAB_H

#include "checkpoints/gguf.h"

// Puts tokenizer.ggml.*: model, pre, tokens (V of them: rows that no token has are "[PAD<id>]"), scores, types, merges,
// the ids of bos, eos and pad (-1: none) and what is put around texts. PC_ERR_INPUT for a kind that files cannot say.
pc_status pc_gguf_put_vocabulary(pc_gguf_writer *w, const char *json, size_t size, int64_t V,
                                 int32_t bos, int32_t eos, int32_t pad);

#endif
