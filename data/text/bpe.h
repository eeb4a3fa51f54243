/*
 * bpe.h - inside a tokenizer: for the files that make one and the file that uses it; not for other rooms.
 */
#ifndef PC_DATA_BPE_H
#define PC_DATA_BPE_H

#include "data/text/bytemap.h"
#include "data/text/tokenizer.h"
#include "data/text/words.h"

#include <jansson.h>
#include <pthread.h>

typedef struct pc_piece {
    size_t at;    // its bytes: pool + at
    int32_t size; // -1: no token has this id
    bool added, special;
} pc_piece;

typedef struct pc_added {
    char *content;
    size_t size;
    int32_t id;
    bool special, single_word, lstrip, rstrip, normalized;
} pc_added;

typedef struct pc_merge {
    int32_t left, right; // left -1: a free slot
    int32_t rank, id;
} pc_merge;

// Words whose ids are known: a fixed table, later words overwrite. Guarded by stripes of locks.
enum { PC_CACHE_WORDS = 1 << 14, PC_CACHE_LOCKS = 16, PC_CACHE_BYTES = 30, PC_CACHE_IDS = 14 };
typedef struct pc_cached_word {
    uint32_t hash;
    uint8_t size, count; // size 0: free
    char word[PC_CACHE_BYTES];
    int32_t ids[PC_CACHE_IDS];
} pc_cached_word;
typedef struct pc_word_cache {
    pthread_mutex_t lock[PC_CACHE_LOCKS];
    pc_cached_word word[PC_CACHE_WORDS];
} pc_word_cache;

struct pc_tokenizer {
    char *json;       // what it was read from, roles included
    pc_bytemap names; // token as written in the file -> id
    pc_piece *pieces; // (vocab)
    int32_t vocab, longest;
    char *pool;
    size_t pool_used, pool_room;
    int32_t byte_id[256];
    pc_merge *merges; // open addressing on (left, right)
    size_t merge_slots;
    bool ignore_merges; // a word that is itself a token is not taken apart
    pc_added *added;
    int added_count;
    bool added_first[256]; // some added token begins with this byte
    pc_word_rules rules;
    pc_ids before, after; // what the post-processor puts around a text
    int32_t bos, eos, pad;
    pc_word_cache *cache;
};

// The byte alphabet of GPT-2: every byte is written as a printable character (spec: tokenizers.md 3).
uint32_t pc_byte_char(int byte);
int pc_byte_of_char(uint32_t code); // -1: no byte is written so

const pc_merge *pc_merge_find(const pc_tokenizer *t, int32_t left, int32_t right); // NULL: none
size_t pc_merge_slot(const pc_merge *merges, size_t slots, int32_t left, int32_t right);

// Appends the ids of one word.
pc_status pc_bpe_word(const pc_tokenizer *t, pc_ids *out, const char *word, size_t size);

// From a `tokenizer.json` in memory; the caller keeps it.
pc_status pc_tokenizer_build(pc_tokenizer **out, const json_t *root);

pc_status pc_ids_reserve(pc_ids *ids, int64_t more);

#endif
