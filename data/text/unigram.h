/*
 * unigram.h - a vocabulary with the logarithm of each piece's probability: a text is the pieces of the largest sum.
 *
 *   best[0] = 0;  best[e] = max over pieces that end at e, of b = their beginning:  best[b] + score(piece)
 *
 * Of equal sums the one that was found first stays: beginnings from left to right, so the longest last piece. A
 * character that no piece is costs the lowest score less 10 and is the unknown token; unknown ones that stand
 * together are one. Kudo 2018, "Subword Regularization", section 3.2.
 */
#ifndef PC_DATA_UNIGRAM_H
#define PC_DATA_UNIGRAM_H

#include "data/text/tokenizer.h"

#include <jansson.h>

// Pieces by their bytes: an edge (node, byte) -> node, open addressing; the root's edges are a table.
typedef struct pc_trie {
    uint64_t *edge; // 1 + (node << 8 | byte); 0: free
    int32_t *child; // (slots)
    size_t slots, edges;
    int32_t *piece; // (nodes): the piece that ends here, -1: none
    int32_t nodes, room;
    int32_t first[256]; // the root's children, -1: none
} pc_trie;

typedef struct pc_unigram {
    bool on;
    bool single; // sums are rounded to f32 at every step, as SentencePiece's are
    int32_t count;
    double *score;         // (count)
    unsigned char *chosen; // (count), SentencePiece: user-defined, worth `length * largest - 0.1`
    double unknown, largest;
    pc_trie trie;
} pc_unigram;

// model.vocab = [[piece, score], ...] and model.unk_id.
pc_status pc_unigram_vocab(pc_tokenizer *t, const json_t *model);
// Once it is known which tokens are special: the trie. `types`: of SentencePiece's pieces, NULL: the library
// tokenizers' ways, where every piece that is not special is found in texts.
pc_status pc_unigram_finish(pc_tokenizer *t, const json_t *types);
void pc_unigram_close(pc_unigram *u);

// Appends the ids of one word, or of a whole text.
pc_status pc_unigram_word(const pc_tokenizer *t, pc_ids *out, const char *word, size_t size);

#endif
