/*
 * families.h - open-weight families: their config.json <-> our config, their tensor names <-> ours.
 *
 * One file per family (clip.c, siglip.c, llava.c ...) and one line in the table of families.c. A family
 * turns a parsed config.json into a pc_model_config and lists, for that config, which of their tensors is
 * which part of ours. The list works both ways: loading, and writing parameters or gradients under their names.
 */
#ifndef PC_FAMILIES_H
#define PC_FAMILIES_H

#include "model/networks/model.h"

// One of their tensors: rows [row, row + dim[0]) of our parameter `ours` viewed as (rows, rest), dense; their
// shape may differ in rank ([C,3,p,p] for our (C,3p^2)). Both sides are dense, so the copy is one run of numbers:
// `count` of theirs from `offset` on <-> ours from row `row` on. Usually offset 0 and count all of theirs; a tensor
// of theirs that is split over two of ours (SigLIP's in_proj: query; key and value) has two entries of one name.
typedef struct pc_alias {
    char theirs[192];
    char ours[PC_NAME_MAX];
    int rank;
    int64_t dim[PC_MAX_RANK + 1]; // the whole of theirs
    int64_t row;                  // first row of ours
    int64_t offset, count;        // elements of theirs
    bool transposed; // theirs is (in, out): number (i, o) is ours (o, i); always the whole of both
} pc_alias;

typedef struct pc_aliases {
    pc_alias *list;
    int count, capacity;
    pc_status status; // the first failure while listing (no memory); pc_family.aliases returns it
} pc_aliases;

typedef struct pc_family {
    const char *name;       // "llava"
    const char *model_type; // config.json's
    pc_status (*config)(pc_model_config *out, const json_t *json);
    // Their names in the layout that files use; `variant` picks among layouts a file may have (0: the one we write).
    pc_status (*aliases)(pc_aliases *out, const pc_model_config *c, int variant);
    int variants;
    int modules; // the variant whose names are the module paths of the library's class (adapters go by them)
    const char *const
        *ignored; // NULL-terminated name endings that may be in a file and mean nothing
} pc_family;

const pc_family *
pc_family_find(const char *model_type); // NULL: none; pc_family_names lists what is known
const char *const *pc_family_names(int *count);

// From a parsed config.json: family and our config. Errors name the key, the value seen and what is expected.
pc_status pc_family_from_config(const pc_family **family, pc_model_config *out, const json_t *json);

// For family files: add one alias (printf name), by whole parameter or by rows.
void pc_alias_add(pc_aliases *a, const char *ours, int64_t row, int rank, const int64_t *dim,
                  const char *fmt, ...) PC_PRINTF(6, 7);
// The same for `count` elements of theirs from `offset` on.
void pc_alias_add_part(pc_aliases *a, const char *ours, int64_t row, int64_t offset, int64_t count,
                       int rank, const int64_t *dim, const char *fmt, ...) PC_PRINTF(8, 9);
// Theirs (in, out), applied as x W, of our matrix (out, in).
void pc_alias_add_transposed(pc_aliases *a, const char *ours, int64_t O, int64_t I, const char *fmt,
                             ...) PC_PRINTF(5, 6);
void pc_aliases_close(pc_aliases *a);
int64_t pc_alias_numel(const pc_alias *a); // elements of theirs; 1 for rank 0
// Where the entry's run of numbers begins in our parameter's tensor (its weight, gradient or moment, dense f32).
float *pc_alias_data(const pc_alias *a, pc_tensor ours);
// `count` numbers in our order as they stand in theirs, and the other way; the same where nothing is transposed.
void pc_alias_to_theirs(float *theirs, const pc_alias *a, const float *ours);
void pc_alias_to_ours(float *ours, const pc_alias *a, const float *theirs);

// config.json helpers with defaults; a value of the wrong type or outside [min, max] is PC_ERR_FORMAT naming the key.
pc_status pc_json_int(int64_t *out, const json_t *o, const char *key, int64_t def, int64_t min,
                      int64_t max);
pc_status pc_json_real(double *out, const json_t *o, const char *key, double def);
pc_status pc_json_bool(bool *out, const json_t *o, const char *key, bool def);
pc_status pc_json_act(pc_act *out, const json_t *o, const char *key, const char *def);

#endif
