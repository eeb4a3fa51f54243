/*
 * hf_config.h - the JSON files of a Hugging Face directory, made from a model of ours.
 *
 * config.json is the one that came with the model, where there is one and it still says what the model is; otherwise
 * one is made for the family that can say it: clip, siglip, llava, qwen2_vl, deepseek_vl, llama, mistral, qwen2.
 * Either is read back and compared with the model key by key: what a family's config.json cannot say is refused by
 * the key's name.
 */
#ifndef PC_CHECKPOINTS_HF_CONFIG_H
#define PC_CHECKPOINTS_HF_CONFIG_H

#include "checkpoints/hf_carry.h"
#include "data/images/image.h"
#include "data/text/tokenizer.h"

// `carried` may be NULL. dtype: "float32", "bfloat16", "float16".
pc_status pc_hf_config_json(json_t **out, const pc_family **family, const pc_model_config *c,
                            const json_t *carried, const pc_tokenizer *tok, const char *dtype);

// preprocessor_config.json of these settings; *out NULL when no processor of the library has these steps.
pc_status pc_hf_preprocessor_json(json_t **out, const pc_image_config *image);

// generation_config.json and tokenizer_config.json beside a tokenizer of ours.
json_t *pc_hf_generation_json(const pc_tokenizer *tok);
json_t *pc_hf_tokenizer_config_json(const pc_tokenizer *tok, int64_t max_length);

#endif
