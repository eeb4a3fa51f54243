/*
 * clip_text.c - a text as a two-tower model reads it: BOS, words, end-of-text, cut to the context.
 */
#include "data/datasets/loader.h"

#include <string.h>

pc_status pc_clip_text_ids(pc_ids *out, const pc_tokenizer *tok, const pc_text_config *c,
                           const char *text)
{
    const int32_t bos = pc_tokenizer_bos(tok);
    const int32_t end = c->eot_id >= 0 ? (int32_t)c->eot_id : pc_tokenizer_eos(tok);
    const int64_t first = out->count;
    size_t size = strlen(text);
    while (size > 0 && strchr(" \t\r\n\v\f", *text)) {
        text++;
        size--;
    }
    while (size > 0 && strchr(" \t\r\n\v\f", text[size - 1])) size--;
    if (end < 0)
        return pc_fail(PC_ERR_INPUT, "the tokenizer has no end-of-text token (such as </s>)");
    if (end >= c->V || bos >= c->V)
        return pc_fail(PC_ERR_INPUT, "tokens %d and %d around a text, the text tower has %lld", bos,
                       end, (long long)c->V);
    pc_status st = bos >= 0 ? pc_ids_add(out, bos) : PC_OK;
    if (!st) st = pc_tokenizer_encode(tok, out, text, size, false);
    if (st) return st;
    if (out->count - first > c->T - 1) out->count = first + c->T - 1;
    return pc_ids_add(out, end);
}
