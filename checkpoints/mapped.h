/*
 * mapped.h - a model whose matrices stay in their files, in the types of the files: for inference.
 *
 * Matrices of linears, token tables and heads are views into the mapping: nothing of them is read before a product wants
 * it, and nothing is copied. What else there is (biases, gains, positions: a thousandth) is widened into memory. A
 * fused matrix whose parts lie apart is placed in pieces (pc_linear.piece).
 */
#ifndef PC_CHECKPOINTS_MAPPED_H
#define PC_CHECKPOINTS_MAPPED_H

#include "checkpoints/safetensors.h"
#include "model/families/families.h"

// Where the numbers of a list of names are.
typedef struct pc_mapped_source {
    const pc_aliases *names;
    // How the whole of theirs lies, rows dense; false: it has to be read.
    bool (*find)(void *arg, int alias, pc_dtype *t, const void **data);
    pc_status (*read)(void *arg, int alias, float *out); // the alias's `count` numbers
    void *arg;
} pc_mapped_source;

// Binds every parameter of a model opened without memory. Matrices that have to be read although others of the same
// linear stay get memory from `room`, which is opened here. Files must outlive the model.
pc_status pc_mapped_bind(pc_model *m, pc_arena *room, const pc_mapped_source *s);

// Tensors under the names of a family (or ours): F32, BF16 and F16 stay, others are read.
pc_status pc_mapped_tensors(pc_model *m, pc_arena *room, const pc_aliases *names,
                            const pc_safetensors *files);

#endif
