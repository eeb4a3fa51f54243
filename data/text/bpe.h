/*
 * bpe.h - inside a tokenizer: for the files that make one and the files that use it; not for other rooms.
 *
 *   tokenizer.c       encoding, questions        bpe.c        the merges of one word
 *   decode.c          ids to text, streamed      pairs.c      which pairs merge
 *   tokenizer_json.c  vocabulary, merges         pipeline_json.c  what stands around them
 *   unigram.c         the best way through a word of a unigram model
 *   sentencepiece.c, tokenizer_parts.c, tiktoken.c, merges_txt.c, clip_gz.c: other layouts, made into the first
 */
#ifndef PC_DATA_BPE_H
#define PC_DATA_BPE_H

#include "data/text/bytemap.h"
#include "data/text/matcher.h"
#include "data/text/normal.h"
#include "data/text/tokenizer.h"
#include "data/text/unigram.h"
#include "data/text/words.h"

#include <jansson.h>
#include <pthread.h>

typedef enum pc_piece_kind {
    PC_PIECE_TEXT,
    PC_PIECE_BYTE,   // one byte of a character
    PC_PIECE_SILENT, // SentencePiece's control pieces give no text
} pc_piece_kind;

typedef struct pc_piece {
    size_t at;    // what it decodes to: pool + at
    int32_t size; // -1: no token has this id
    int32_t name; // its entry in `names`
    uint8_t kind;
    bool special;
    bool marked;      // its name begins with a mark, which the first token of a text loses
    bool space_after; // its end-of-word suffix stood for a space
    bool unused;      // SentencePiece: merged through, never given out
    bool outside;     // an added token that the model's own vocabulary lacks
} pc_piece;

typedef struct pc_added {
    char *content;
    size_t size;
    int32_t id;
    bool special, single_word, lstrip, rstrip, normalized;
} pc_added;

// Symbols are ids of tokens; from `vocab` on they are characters that no token is, yet that merges begin with.
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

// How tokens become text. Steps before `Fuse` are applied to every piece when the file is read.
typedef enum pc_decoding {
    PC_DECODE_WHOLE, // pieces are whole characters, or bytes of a byte alphabet: broken ones replaced
    PC_DECODE_RUNS, // byte pieces: a run of them is text, or U+FFFD for each
    PC_DECODE_EACH, // byte pieces: every byte that is no text becomes U+FFFD (SentencePiece)
} pc_decoding;

typedef struct pc_decoder {
    pc_decoding bytes;
    bool spaced;            // no decoder at all: a space between tokens
    bool drops_marks;       // Metaspace: the first token loses its marks
    bool drops_prefix;      // SentencePiece: the first piece loses the mark it begins with,
    bool drops_all_leading; // or all pieces do until there is text
    char strip[5];          // so many of this character are taken off the beginning
    int32_t strip_count;
    bool trims; // CLIP: white space off both ends
} pc_decoder;

// SentencePiece's own normaliser, which knows the user-defined pieces.
typedef struct pc_sentencepiece {
    bool on;
    bool dummy_prefix, remove_spaces, escape;
    int prepared; // SigLIP's class: added tokens are cut out, so many normalising steps go first
    pc_charsmap chars;
} pc_sentencepiece;

enum { PC_AFFIX = 32 }; // bytes of what stands around a symbol within a word and at its end

struct pc_tokenizer {
    char *json;        // what it was read from, roles included
    bool lacks_merges; // `json` has no merges: pc_tokenizer_json puts them in
    pc_bytemap names;  // token as written in the file -> id
    pc_piece *pieces;  // (vocab)
    int32_t vocab;
    size_t longest, longest_name;
    char *pool;
    size_t pool_used, pool_room;

    // the model
    bool byte_level;         // words are bytes; otherwise characters
    int32_t byte_id[4][256]; // [within a word + 2 at its end][byte] -> symbol, -1: none
    pc_bytemap chars;        // a character -> symbol
    int64_t chars_known;     // so many of them are tokens; symbol vocab + i is the i-th behind them
    int32_t ascii_id[128];
    int32_t fallback[256]; // the token of a byte that is no character's part, -1: none
    bool falls_back, whole_fallback;
    int32_t unk;
    char *unk_missing; // named by the file but not there
    bool fuse_unk;
    char *prefix, *suffix; // of symbols within a word, at its end; NULL: none
    bool ignore_merges;    // a word that is itself a token is not taken apart
    bool scored;           // SentencePiece: any split of a piece merges
    bool has_unused;
    pc_merge *merges; // open addressing on (left, right)
    size_t merge_slots;
    int64_t merge_count;
    uint8_t (
        *joins)[32];    // bit (last byte class, first byte class): some merge joins such neighbours
    pc_matcher defined; // user-defined pieces
    pc_unigram unigram; // instead of merges

    // what stands around it
    pc_added *added;
    int added_count;
    pc_matcher added_match[2]
                          [2]; // [matched in normalised text][special ones too] -> place in `added`
    pc_normal normal;
    pc_sentencepiece sp;
    pc_word_rules rules;
    pc_decoder decoder;
    pc_ids before, after; // what the post-processor puts around a text
    int32_t bos, eos, pad;
    pc_word_cache *cache;
};

// The byte alphabet of GPT-2: every byte is written as a printable character (spec: tokenizers.md 3).
uint32_t pc_byte_char(int byte);
int pc_byte_of_char(uint32_t code); // -1: no byte is written so
// A text in the byte alphabet to bytes (out: room for size bytes); false: other characters are in it.
bool pc_bytes_of_name(unsigned char *out, size_t *out_size, const char *name, size_t size);

#define PC_MARK "\xE2\x96\x81" // U+2581, SentencePiece's space

// pairs.c: the table of merges.
const pc_merge *pc_merge_find(const pc_tokenizer *t, int32_t left, int32_t right); // NULL: none
pc_status pc_merges_room(pc_tokenizer *t, int64_t count);
// A repeated pair takes the later rank, as the reference does.
void pc_merges_add(pc_tokenizer *t, int32_t left, int32_t right, int32_t rank, int32_t id);
// Every way to cut a token in two symbols is a merge; rank (vocab): the lower the earlier, -1: no text's token.
pc_status pc_merges_all(pc_tokenizer *t, const int32_t *rank, bool bytes);
pc_status pc_merges_joins(pc_tokenizer *t);                    // fills `joins`
pc_status pc_merges_json(json_t *list, const pc_tokenizer *t); // as a `tokenizer.json` lists them
bool pc_name_of(const pc_tokenizer *t, int32_t id, const char **name, size_t *size);

// bpe.c: appends the ids of one word.
pc_status pc_bpe_word(const pc_tokenizer *t, pc_ids *out, const char *word, size_t size);
pc_status pc_bpe_cache(pc_tokenizer *t);

// decode.c: the text of every piece, once the decoder is known. The steps before `Fuse`:
typedef enum pc_decode_kind {
    PC_DECODE_REPLACE,
    PC_DECODE_FALLBACK,
    PC_DECODE_STRIP,
    PC_DECODE_MARK,
    PC_DECODE_SUFFIX,
    PC_DECODE_BYTES,
} pc_decode_kind;
typedef struct pc_decode_step {
    pc_decode_kind kind;
    pc_pattern pattern; // REPLACE; MARK, SUFFIX: its text
    char *text;         // REPLACE: by this; STRIP: this character
    int32_t start, stop;
} pc_decode_step;
pc_status pc_decode_pieces(pc_tokenizer *t, const pc_decode_step *steps, int count);

// tokenizer_json.c: from a `tokenizer.json` in memory; the caller keeps it.
// `config`: what a tokenizer_config.json says, or NULL; what it changes is written into root.
pc_status pc_tokenizer_build(pc_tokenizer **out, json_t *root, const json_t *config);
pc_status pc_tokenizer_parse_with(pc_tokenizer **out, const char *json, size_t size,
                                  const json_t *config);
pc_status pc_tok_room(pc_tokenizer *t, int32_t wanted); // that many ids, the new ones unnamed
pc_status pc_tok_name(pc_tokenizer *t, int32_t id, const char *name, size_t size);
pc_status pc_pool_add(pc_tokenizer *t, size_t *at, const void *bytes, size_t size);

// pipeline_json.c
pc_status pc_pipeline_words(pc_tokenizer *t, const json_t *root); // normaliser, pre-tokeniser
// Decoder and post-processor; without the decoder when SentencePiece's own is used.
pc_status pc_pipeline_rest(pc_tokenizer *t, const json_t *root, bool own_decoder);
const char *pc_tok_text(const json_t *o, const char *key); // NULL: no string
pc_status pc_tok_flag(bool *out, const json_t *o, const char *key, bool absent);
bool pc_tok_absent(const json_t *v); // or null

// roles.c: which tokens begin, end and pad texts.
void pc_roles_read(pc_tokenizer *t, const json_t *root);
// Writes what a tokenizer_config.json says into `root`; *changed: it says something new.
pc_status pc_roles_keep(json_t *root, const pc_tokenizer *t, const json_t *config, bool *changed);

pc_status pc_ids_reserve(pc_ids *ids, int64_t more);

#endif
