/*
 * tokenizer.h - text to token ids and back.
 *
 * Byte-level BPE (GPT-2, Qwen2, DeepSeek, Llama 3), BPE with byte fallback (Llama, Mistral), SentencePiece, CLIP's
 * BPE and tiktoken, from any of the files in which they are published and from a GGUF. Whatever it was read from, a
 * tokenizer is written as a `tokenizer.json` (pc_tokenizer_json) that others read and that comes back identical here.
 * Streamed text never ends in half a character.
 */
#ifndef PC_DATA_TOKENIZER_H
#define PC_DATA_TOKENIZER_H

#include "model/core/status.h"

typedef struct pc_tokenizer pc_tokenizer;

typedef struct pc_ids {
    int32_t *list;
    int64_t count, capacity;
} pc_ids;
void pc_ids_close(pc_ids *ids);
pc_status pc_ids_add(pc_ids *ids, int32_t id);

// The text of a tokenizer.json.
pc_status pc_tokenizer_parse(pc_tokenizer **out, const char *json, size_t size);
// SentencePiece's tokenizer.model: encodes and decodes exactly as its own library does.
pc_status pc_tokenizer_sentencepiece_parse(pc_tokenizer **out, const void *bytes, size_t size);
// tiktoken's lines of base64 and rank, with Qwen's special tokens (Llama 3's when there are 128,000).
pc_status pc_tokenizer_tiktoken_parse(pc_tokenizer **out, const char *text, size_t size);
// vocab.json and merges.txt; `kind`: a tokenizer_class or model_type ("CLIPTokenizer", "qwen2"), NULL: by the pieces.
pc_status pc_tokenizer_merges_parse(pc_tokenizer **out, const char *vocab, size_t vocab_size,
                                    const char *merges, size_t merges_size, const char *kind);
// CLIP's bpe_simple_vocab_16e6.txt.gz.
pc_status pc_tokenizer_clip_gz_parse(pc_tokenizer **out, const void *bytes, size_t size);

// Any of these files, or a folder with one: tokenizer.json first, else tokenizer.model, else vocab.json with
// merges.txt, else *.tiktoken. tokenizer_config.json, special_tokens_map.json and added_tokens.json of the folder say
// which tokens begin, end and pad texts (otherwise their usual names do) and which were added. A tokenizer.model with
// such files beside it is read as Hugging Face's classes do; alone, or given by its own name, as its library does.
pc_status pc_tokenizer_open(pc_tokenizer **out, const char *path);
bool pc_tokenizer_in(const char *folder); // it holds one of these files

// A vocabulary given as arrays: what the metadata of a GGUF holds. Everything is copied.
typedef struct pc_tokenizer_parts {
    const char *model; // "llama": SentencePiece BPE by scores; "gpt2": byte-level BPE by merges
    const char *pre;   // how texts are split before merging, for "gpt2"; NULL is "default"
    int32_t count;     // tokens; id = place
    const char *const *token;
    const size_t *token_size; // (count)
    const float *score;       // (count), for "llama"; otherwise NULL
    const int32_t *type;      // (count) or NULL: 1 normal, 2 unknown, 3 control, 4 user-defined,
                              // 5 unused, 6 byte
    int64_t merge_count;
    const char *const *merge; // (merge_count): "LEFT RIGHT", for "gpt2"
    const size_t *merge_size;
    int32_t bos, eos, pad, unk;             // -1: none
    int add_bos, add_eos, add_space_prefix; // 0, 1, or -1: the model's default
} pc_tokenizer_parts;
// PC_ERR_FORMAT names the array and the place at fault, or the pre-tokeniser that is not known.
pc_status pc_tokenizer_from_parts(pc_tokenizer **out, const pc_tokenizer_parts *parts);

void pc_tokenizer_close(pc_tokenizer *t);
char *pc_tokenizer_json(
    const pc_tokenizer *t); // malloc'ed text that pc_tokenizer_parse reads back; NULL: no memory

int32_t pc_tokenizer_vocab(const pc_tokenizer *t);                 // number of ids
int32_t pc_tokenizer_id(const pc_tokenizer *t, const char *token); // id of an exact token, -1
int32_t pc_tokenizer_bos(const pc_tokenizer *t);                   // -1 when there is none
int32_t pc_tokenizer_eos(const pc_tokenizer *t);
int32_t pc_tokenizer_pad(const pc_tokenizer *t);
bool pc_tokenizer_is_special(const pc_tokenizer *t, int32_t id);
// Puts around ids what the file's post-processor puts around a text (a BOS for a Llama).
pc_status pc_tokenizer_frame(const pc_tokenizer *t, pc_ids *ids);

// Appends ids. `parse_special`: special tokens written in the text are recognised. No BOS or EOS is added.
// Bytes that are no UTF-8 become U+FFFD first. May run on several threads at once.
pc_status pc_tokenizer_encode(const pc_tokenizer *t, pc_ids *out, const char *text, size_t size,
                              bool parse_special);

// malloc'ed text of ids (NUL-terminated); special tokens are skipped when asked.
pc_status pc_tokenizer_decode(const pc_tokenizer *t, char **out, const int32_t *ids, int64_t n,
                              bool skip_special);

// The same with the text's size, for texts that hold NUL bytes.
pc_status pc_tokenizer_decode_sized(const pc_tokenizer *t, char **out, size_t *size,
                                    const int32_t *ids, int64_t n, bool skip_special);

// Streaming: feed ids one by one; text is emitted as soon as its characters are whole. The pieces together are what
// pc_tokenizer_decode gives without special tokens, but for CLIP's, which trims the end of a whole text.
enum { PC_STREAM_HELD = 120 };
typedef struct pc_stream_decoder {
    const pc_tokenizer *tokenizer;
    unsigned char held[PC_STREAM_HELD]; // bytes that are no whole character yet
    int held_count, stripped;
    bool begun, text_begun, mark_seen, strip_over, space_waits;
} pc_stream_decoder; // all zero but the tokenizer at the beginning
// Writes whole characters into buf (NUL-terminated, at most size-1 bytes); flush at the end emits U+FFFD for a rest.
// Special tokens give no text. pc_stream_room bytes are enough for any token.
size_t pc_stream_room(const pc_tokenizer *t);
pc_status pc_stream_decode(pc_stream_decoder *d, int32_t id, char *buf, size_t size);
void pc_stream_flush(pc_stream_decoder *d, char *buf, size_t size);

// Trains a byte-level BPE on texts: 256 byte tokens, then merges by falling count (ties: the pair that sorts
// first), then special tokens. vocab counts all three. Deterministic. Special tokens written in the texts are
// left out; the first word of a text counts with a space before it too, marks at its end with a newline behind
// them, as templates will show them. Fewer tokens come out when no pair of neighbours is left that occurs twice.
pc_status pc_tokenizer_train(pc_tokenizer **out, const char *const *texts, int64_t n, int32_t vocab,
                             const char *const *specials, int n_specials);

#endif
