/*
 * gguf_export.h - a model into a pair of GGUF files that llama.cpp opens: the text model, and an "mmproj" with the
 * tower and the projector (spec: formats.md 3; docs/formats.md says what llama.cpp computes otherwise).
 *
 *   a decoder alone           text file                        architecture llama or qwen2
 *   tower+projector+decoder   text file and mmproj             LLaVA-1.5, LLaVA-NeXT, and what the files can say
 *   two towers                mmproj with the vision tower     the text tower has no place in these files
 *
 * Numbers are asked for a tensor at a time, in order, in pieces of whole rows: no more than a few rows are in memory.
 */
#ifndef PC_CHECKPOINTS_GGUF_EXPORT_H
#define PC_CHECKPOINTS_GGUF_EXPORT_H

#include "checkpoints/gguf.h"
#include "data/images/image.h"
#include "model/networks/model.h"

// What is known about the model besides its numbers; everything may be NULL or 0.
typedef struct pc_gguf_about {
    const char *name, *author, *version, *description, *url;
    const char *license, *license_link; // an SPDX name in lower case: "apache-2.0"
    const char *const *base_models;     // names or addresses of what it was tuned from
    int base_model_count;
    const char *const *datasets; // names or addresses
    int dataset_count;
} pc_gguf_about;

typedef struct pc_gguf_source {
    const pc_model_config *config;
    // `count` numbers of our parameter `name` (pc_params: "decoder.blocks.0.attn.qkv.weight") from number `at` on.
    pc_status (*read)(void *arg, float *out, const char *name, int64_t at, int64_t count);
    void *arg;
    const char *tokenizer_json; // text of a tokenizer.json (pc_tokenizer_json), NULL: none
    size_t tokenizer_size;
    int32_t bos, eos, pad;     // -1: none
    const char *chat_template; // Jinja text, or NULL
    const char *template_name; // a built-in layout (template.h), or NULL; stands below "percept."
    const pc_image_config *image; // NULL: CLIP's mean and standard deviation
    pc_gguf_about about;
} pc_gguf_source;

// A source whose numbers are bound f32 parameters.
pc_gguf_source pc_gguf_source_params(const pc_model_config *config, pc_params *params);

/*
 * The type of matrices: F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q6_K ... What the type cannot hold falls back: rows that are
 * no multiple of 256 take Q8_0, and F16 where 32 does not divide them either; vectors stay F32. `mixed` with Q4_K
 * stores the head, and the value and down projections of half of the blocks, as Q6_K (llama.cpp's Q4_K_M). Towers stay
 * at F16 or better (BF16, F32) unless `quantize_tower`.
 */
typedef struct pc_gguf_store {
    const pc_quant_type *type;
    bool mixed, quantize_tower;
} pc_gguf_store;

// Either path may be NULL: that file is not written. A path without anything to write to it, and a model that the files
// cannot say, are PC_ERR_INPUT. Both files are written beside their names and renamed when whole.
pc_status pc_gguf_export(const char *model_path, const char *mmproj_path, const pc_gguf_source *s,
                         const pc_gguf_store *store);

// "F16" or "q4_k_m" to a store; PC_ERR_INPUT names the nearest.
pc_status pc_gguf_store_named(pc_gguf_store *out, const char *name);

// A built-in layout as the Jinja text that others run, which a file gets when there is no chat_template; NULL: none.
const char *pc_gguf_chat_template(const char *name);

// What the stored type explains of a difference in logits (relative, Frobenius): the bound for verifying an export.
double pc_gguf_store_error(const pc_gguf_store *store);
// The same of one parameter's numbers.
double pc_gguf_store_tensor(const pc_gguf_store *store);

#endif
