/*
 * hf.h - a Hugging Face model directory: config.json, weights, and which of their tensors is which of ours.
 */
#ifndef PC_CHECKPOINTS_HF_H
#define PC_CHECKPOINTS_HF_H

#include "checkpoints/safetensors.h"
#include "data/images/image.h"
#include "model/families/families.h"

// config.json: the family and our description. Quantised weights are refused by the name of their method.
typedef struct pc_hf_config {
    json_t *json;
    const pc_family *family;
    pc_model_config model;
} pc_hf_config;
pc_status pc_hf_config_open(pc_hf_config *out, const char *dir);
void pc_hf_config_close(pc_hf_config *c);

// A file of the directory as JSON; *out NULL with PC_OK when there is no such file.
pc_status pc_hf_json(json_t **out, const char *dir, const char *name);

/*
 * The layout of the family that fits a set of tensors best, and how well: `missing` indexes aliases that the
 * file has no tensor for, `misshapen` those whose tensor has another shape, `surplus` tensors that mean nothing.
 */
typedef struct pc_hf_match {
    pc_aliases aliases;
    int variant;
    int64_t *missing, *misshapen, *surplus;
    int64_t missing_count, misshapen_count, surplus_count;
} pc_hf_match;
pc_status pc_hf_match_open(pc_hf_match *out, const pc_family *f, const pc_model_config *c,
                           const pc_safetensors *s);
void pc_hf_match_close(pc_hf_match *m);
// PC_OK when nothing is missing, misshapen or surplus; otherwise an error that names them.
pc_status pc_hf_match_status(const pc_hf_match *m, const pc_safetensors *s);

// The numbers of one alias (its `count`), widened, in our order.
pc_status pc_hf_read(float *out, const pc_alias *a, const pc_st_entry *e);
// Their numbers into our bound f32 parameters; every number of ours must come from somewhere.
pc_status pc_hf_load(pc_params *params, const pc_hf_match *m, const pc_safetensors *s);

#endif
