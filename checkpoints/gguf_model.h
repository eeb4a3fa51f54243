/*
 * gguf_model.h - a model out of GGUF files as llama.cpp has them: a text model (architecture llama or qwen2) and, beside
 * it, an mmproj with the vision tower and the projector.
 *
 *   gguf_config.c   metadata -> pc_model_config, image settings     gguf_model.c   the pair, its tensors, loading
 *   gguf_views.c    the same without reading them                   gguf_names.c   names and the order of rows
 *   gguf_vocab.c    the vocabulary both ways
 */
#ifndef PC_CHECKPOINTS_GGUF_MODEL_H
#define PC_CHECKPOINTS_GGUF_MODEL_H

#include "checkpoints/gguf.h"
#include "checkpoints/gguf_names.h"
#include "data/images/image.h"
#include "data/text/tokenizer.h"
#include "model/families/families.h"

typedef struct pc_gguf_model {
    pc_gguf *text, *eyes; // either may be NULL: a decoder alone, an mmproj alone
    pc_model_config config;
    bool llama;            // rows of queries and keys are permuted
    pc_aliases aliases;    // of both files; `theirs` are names in the files
    int eyes_first;        // index of the first alias in `eyes`
    pc_image_config image; // with eyes
    char *chat_template;   // NULL: none
    char *template_name; // a built-in layout that the file was written with; NULL: it does not say
    int32_t bos, eos;    // -1: none
} pc_gguf_model;

/*
 * `path`: a text file, or an mmproj alone. `mmproj`: the file beside it; NULL looks for mmproj-*.gguf and
 * *-mmproj.gguf in the folder of `path` and takes the one whose projector is as wide as the decoder (of several, the
 * one whose name is most like the text's). "" looks for none.
 */
pc_status pc_gguf_model_open(pc_gguf_model *out, const char *path, const char *mmproj);
void pc_gguf_model_close(pc_gguf_model *m);

// What of the model the files lack, have in another shape or have without use: indices of aliases and, for surplus,
// of tensors (text first, then eyes).
typedef struct pc_gguf_match {
    int64_t *missing, *misshapen, *surplus;
    int64_t missing_count, misshapen_count, surplus_count;
} pc_gguf_match;
pc_status pc_gguf_match_open(pc_gguf_match *out, const pc_gguf_model *m);
void pc_gguf_match_close(pc_gguf_match *x);
// The i-th tensor of the pair, text first.
pc_gguf_tensor pc_gguf_model_tensor(const pc_gguf_model *m, int64_t i);
int64_t pc_gguf_model_tensors(const pc_gguf_model *m);

// The numbers of alias i as our parameters have them (rows in our order), to where its run of numbers begins in ours
// (pc_alias_data). A frame of a grid's stem is put between the others.
pc_status pc_gguf_model_read(float *out, const pc_gguf_model *m, int i);
// All of them into bound f32 parameters; what is missing, misshapen or surplus is an error that names it.
pc_status pc_gguf_model_load(pc_params *params, const pc_gguf_model *m);

/*
 * For inference: matrices stay in the files, in their types (mapped.h), blocks included. Rows of queries and keys that
 * are permuted are copied into our order, as they are stored. The views belong to the bundle that they serve.
 */
typedef struct pc_gguf_views {
    pc_gguf_model model; // taken over from the caller
    void **copies;
    int count;
} pc_gguf_views;
pc_status pc_gguf_views_bind(pc_gguf_views *out, pc_model *model, pc_arena *room, pc_gguf_model *m);
void pc_gguf_views_close(pc_gguf_views *v); // a zeroed one is fine

// The vocabulary of a text file; *out NULL with PC_OK when it has none.
pc_status pc_gguf_tokenizer(pc_tokenizer **out, const pc_gguf *g);

// A parameter of ours that the files leave out and that has neutral values (see pc_gguf_spelling.implied_norm).
bool pc_gguf_model_implies(const pc_gguf_model *m, const char *ours);

// ---- for these files alone ----
pc_status pc_gguf_decoder_config(pc_model_config *out, bool *llama, const pc_gguf *g);
pc_status
pc_gguf_model_check(const pc_gguf_model *m); // that nothing is missing, misshapen or surplus
bool pc_gguf_model_find(pc_gguf_tensor *out, const pc_gguf_model *m,
                        int i); // the tensor of alias i
pc_status pc_gguf_eyes_config(pc_model_config *out, pc_image_config *image,
                              pc_gguf_spelling *spelling, const pc_gguf *g);

#endif
