/*
 * native.h - the native checkpoint: one HDF5 file that is all there is.
 *
 *   /                attributes: format "percept", version 1
 *   /text/           scalar strings: model, image, tokenizer, template, recipe, state (JSON or YAML text)
 *   /params/NAME     one dataset per parameter, f32; attribute `trained` (0/1)
 *   /moments/m/NAME  and /moments/v/NAME: AdamW's, of trained parameters
 *
 * Written beside, synced, renamed. No times and no library-made randomness inside: equal content is equal bytes.
 * Loading checks every name and shape; a missing or surplus tensor is an error that names it.
 */
#ifndef PC_CHECKPOINTS_NATIVE_H
#define PC_CHECKPOINTS_NATIVE_H

#include "model/layers/params.h"

typedef struct pc_native_text {
    char *model, *image, *tokenizer, *template_name, *recipe, *state; // malloc'ed; NULL when absent
} pc_native_text;
void pc_native_text_close(pc_native_text *t);

pc_status pc_native_write(const char *path, const pc_params *params, bool moments,
                          const pc_native_text *text);
pc_status pc_native_read_text(pc_native_text *out, const char *path);
// Into bound weights; into bound moments too when asked. `strict`: every parameter of the list must be there; otherwise
// parameters under prefixes the file has none of are left alone (a tower from one file, a decoder from another) and
// `loaded` tells how many came.
pc_status pc_native_load(pc_params *params, const char *path, bool moments, bool strict,
                         int64_t *loaded);
// The file's parameter list, without numbers: for inspect. Names are malloc'ed.
typedef struct pc_native_item {
    char *name;
    int rank;
    int64_t dim[PC_MAX_RANK];
    bool trained;
} pc_native_item;
pc_status pc_native_list(pc_native_item **out, int64_t *n, const char *path);
void pc_native_list_close(pc_native_item *items, int64_t n);

#endif
