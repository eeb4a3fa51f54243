/*
 * peft.h - low-rank adapters as PEFT keeps them: adapter_config.json and adapter_model.safetensors (formats.md 4).
 *
 *   base_model.model.<module path>.lora_A.weight (r,I)    .lora_B.weight (O,r)    W' = W + s B A
 *
 * s = alpha / r, or alpha / sqrt(r) with use_rslora; rank_pattern and alpha_pattern say otherwise for single
 * modules. A module path is the name of one of their linears; it is looked up among the family's tensor names
 * (every layout of it: adapters of either generation of transformers fit), which gives one of our weights
 * and the rows of it that are meant: their q_proj is the first rows of our fused attn.qkv.weight.
 */
#ifndef PC_CHECKPOINTS_PEFT_H
#define PC_CHECKPOINTS_PEFT_H

#include "checkpoints/safetensors.h"
#include "model/families/families.h"

// What adapter_config.json says beside the tensors. Texts are malloc'ed.
typedef struct pc_peft_config {
    int64_t r;
    double alpha, dropout;
    bool rslora;
    char *base;      // base_model_name_or_path; NULL: none
    char *task_type; // "CAUSAL_LM"; NULL: null
} pc_peft_config;

// One adapted linear of theirs.
typedef struct pc_peft_pair {
    char module[192]; // "model.language_model.layers.0.self_attn.q_proj"
    int64_t r, I, O;
    double alpha, scale;      // s above
    const pc_st_entry *A, *B; // (r,I), (O,r), of any floating type: read with pc_st_floats
    char ours[PC_NAME_MAX];   // after pc_peft_match: our weight, "decoder.blocks.0.attn.qkv.weight"
    int64_t row;              // ... and its first row: rows [row, row + O) are adapted
} pc_peft_pair;

typedef struct pc_peft {
    pc_peft_config config;
    pc_peft_pair *list; // by module
    int64_t count;
    pc_safetensors *file; // owns what A and B point into
} pc_peft;

// Reads a folder. Refused with the key's name: another peft_type than LORA, DoRA, biases, modules_to_save, adapted
// embeddings or convolutions, and whatever else would change the numbers.
pc_status pc_peft_open(pc_peft *out, const char *dir);
void pc_peft_close(pc_peft *p);       // a zeroed one is fine
bool pc_peft_is_dir(const char *dir); // has an adapter_config.json

// Which of our weights each pair is for; shapes are checked. PC_ERR_FORMAT names a module that the model lacks.
pc_status pc_peft_match(pc_peft *p, const pc_family *f, const pc_model_config *c);

// W' of every pair that has this weight of ours, in place: w dense f32, rows as in the model.
pc_status pc_peft_merge(const pc_peft *p, const char *ours, pc_tensor w);

// An adapter of ours, to be written: rows [row, row + O) of weight `ours`, which may span several of their linears
// (they then share A and part B). A (r,I), B (O,r) dense f32, not copied.
typedef struct pc_peft_out {
    const char *ours;
    int64_t row, r, I, O;
    double alpha; // 0: the config's
    const float *A, *B;
} pc_peft_out;

// Writes both files under the module paths of layout `variant` (negative: pc_family.modules, the one that the
// classes of today's transformers have). config.r and alpha are the usual ones; others go to the patterns.
// target_modules: name endings when these mean exactly what is adapted, whole paths otherwise.
pc_status pc_peft_write(const char *dir, const pc_peft_config *config, const pc_family *f,
                        const pc_model_config *c, int variant, const pc_peft_out *list, int64_t n);

#endif
