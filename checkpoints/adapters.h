/*
 * adapters.h - low-rank adapters between files, names and models (layers: model/layers/adapters.h).
 *
 *   from a PEFT folder   pc_adapters_load        the tensors of peft.h onto an open model
 *   into and out of a native checkpoint          text 'adapters' says where they stand; their numbers lie in /params
 *   new ones             pc_modules_list, pc_modules_choose    a model's linears under the library's names
 *
 * The text is {"dropout": p, "list": [{"module", "weight", "row", "rows", "r", "alpha", "scale"}, ...]}.
 */
#ifndef PC_CHECKPOINTS_ADAPTERS_H
#define PC_CHECKPOINTS_ADAPTERS_H

#include "checkpoints/peft.h"
#include "model/networks/model.h"

// A PEFT folder's adapters onto a model of this family, values included.
pc_status pc_adapters_load(pc_model *m, const pc_family *f, const char *dir);

// As text, malloc'ed (NULL: no memory); and from text onto a model, with memory but without values.
char *pc_adapters_text(const pc_adapters *a, double dropout);
pc_status pc_adapters_from_text(pc_model *m, double *dropout, const char *text);
// The text alone: a malloc'ed list.
pc_status pc_adapters_read_text(pc_adapter_site **out, int *count, double *dropout,
                                const char *text);

// Their names for A and B of every adapter: "base_model.model.MODULE.lora_A.weight"; ours without a module.
pc_status pc_adapters_names(pc_aliases *out, const pc_model *m);

// A linear, or a part of a fused one, under its path in the library's model ("model.language_model.layers.0.
// self_attn.q_proj"); without a family under ours, the parts named alike ("decoder.blocks.0.attn.q_proj").
typedef struct pc_module {
    pc_adapter_site site; // r, alpha and scale not set
    bool chosen;          // by pc_modules_choose
} pc_module;
pc_status pc_modules_list(pc_module **out, int *count, const pc_model *m, const pc_family *f);

/*
 * PEFT's rule: a module is chosen when a target is its path or the end of it behind a dot; "all-linear" chooses all.
 * A target with any of *+?()[]|^$\ is a regular expression for the whole path. PC_ERR_INPUT names a target
 * that chooses nothing, and the nearest name.
 */
pc_status pc_modules_choose(pc_module *list, int count, const char *const *targets, int64_t n);

#endif
