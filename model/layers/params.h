/*
 * params.h - the list of a model's parameters.
 *
 * Weights are listed once, in one function per layer (`*_params`), which gives names, shapes, initial
 * values, decay and, through the list, freezing; sizes, checkpoints, the optimiser, the plan and the
 * tests read the same list. A layer's weights are pc_weight members of its struct; the list points
 * at them, so binding an arena to the list is what gives the layers their memory.
 *
 * Names are dotted paths: "vision.blocks.3.attn.qkv.weight". A network pushes its prefix around the
 * calls of its parts.
 */
#ifndef PC_LAYERS_PARAMS_H
#define PC_LAYERS_PARAMS_H

#include "model/core/memory.h"
#include "model/ops/ops.h"

typedef struct pc_weight {
    pc_tensor w;
    pc_tensor g; // gradient; absent when the parameter is frozen
} pc_weight;

typedef enum pc_init {
    PC_INIT_ZERO,
    PC_INIT_ONE,
    PC_INIT_NORMAL,  // mean 0, standard deviation `init_scale`
    PC_INIT_UNIFORM, // (-init_scale, init_scale)
    PC_INIT_CONST,   // init_scale itself
    PC_INIT_PLACES, // (n,C): sines and cosines of the columns and lines of a square grid of n places
} pc_init;

#define PC_NAME_MAX 128

typedef struct pc_param {
    char name[PC_NAME_MAX];
    pc_weight *weight;
    struct pc_linear *linear; // of which it is the matrix; NULL: it is none
    bool adapter;             // a low-rank adapter's (adapters.h)
    bool stays;               // may lie elsewhere, in another type: pc_param_place
    int rank;
    int64_t dim[PC_MAX_RANK];
    pc_init init;
    double init_scale;
    bool decay; // weight decay applies: by default tensors of two or more dimensions
    // A matrix from hidden rows to hidden rows, which optimisers of matrices (Muon) take; tables, heads, single
    // rows and what reads pixels are none. Fused ones are `parts` matrices, one above the other.
    bool hidden;
    int parts;
    int64_t part_rows[3];
    bool trainable; // set by pc_params_train; frozen parameters get no gradient
    bool fixed; // a table that files store and nothing ever trains: pc_params_train leaves it alone
    double lr_scale;  // 1 unless a recipe says otherwise
    pc_tensor m, v;   // AdamW's moments; absent until the optimiser binds them
    pc_tensor master; // f32: what is updated where the weight itself is bf16; absent: the weight is
    // f32 (PC_FP8_OPERANDS,PC_FP8_HISTORY), the host's: what its operands are scaled by in eight bits (ops/fp8.h); absent
    // without them. Kept with the moments.
    pc_tensor history;
} pc_param;

typedef struct pc_params {
    pc_param *list;
    int count, capacity;
    char prefix[PC_NAME_MAX]; // "vision.blocks.3." while listing
    pc_status status; // the first failure while listing (no memory), reported by pc_params_end
} pc_params;

// Listing. pc_params_push appends "name." to the prefix and returns the length to pop to.
size_t pc_params_push(pc_params *p, const char *fmt, ...) PC_PRINTF(2, 3);
void pc_params_pop(pc_params *p, size_t length);
void pc_param_add(pc_params *p, pc_weight *w, const char *name, pc_init init, double init_scale,
                  int rank, const int64_t *dim);
// Says what the listed weight is: hidden or not, and the matrices fused in it (rows sum up to dim[0]).
void pc_param_hidden(pc_params *p, const pc_weight *w, bool hidden);
void pc_param_fused(pc_params *p, const pc_weight *w, int parts, const int64_t *rows);
// Whose matrix it is: where adapters may be added.
void pc_param_linear(pc_params *p, const pc_weight *w, struct pc_linear *linear);
// A table or head: only linear, linear_xent and embedding read it, so it may be of any type (ops.h).
void pc_param_table(pc_params *p, const pc_weight *w);
// Says that the listed weight is never trained.
void pc_param_fixed(pc_params *p, const pc_weight *w);
#define PC_DIMS(...)                                                                               \
    (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[])                         \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }

pc_status pc_params_end(pc_params *p);
void pc_params_close(pc_params *p); // frees the list, not the memory bound to it

pc_param *pc_params_find(pc_params *p, const char *name); // NULL when there is none
int64_t pc_params_numel(const pc_params *p, bool trainable_only);
size_t pc_params_bytes(const pc_params *p, pc_dtype t, bool trainable_only); // as bound: aligned
size_t pc_params_moment_bytes(const pc_params *p, pc_dtype t);               // AdamW's two
size_t pc_params_master_bytes(const pc_params *p);

// Marks every parameter whose name starts with `prefix` ("" is all) trainable or frozen.
int pc_params_train(pc_params *p, const char *prefix, bool trainable); // returns how many matched

// Binding. Weights in list order, each aligned; gradients, moments and masters of trainable ones only. Of bf16 a
// parameter of one dimension (bias, gain, scale) takes f32.
pc_dtype pc_param_type(const pc_param *q, pc_dtype t);
void pc_params_bind_weights(pc_params *p, pc_arena *a, pc_dtype t);
void pc_params_bind_weights_from(pc_params *p, int first, pc_arena *a, pc_dtype t);
void pc_params_bind_absent(pc_params *p, pc_arena *a, pc_dtype t); // those without numbers so far
void pc_params_bind_grads(pc_params *p, pc_arena *a, pc_dtype t);
void pc_params_bind_moments(pc_params *p, pc_arena *a, pc_dtype t); // zeroed, on the CPU
void pc_params_bind_masters(pc_params *p, pc_arena *a); // of the trained weights that are bf16
// A replica's list (same model) uses the master's weights; its gradients are its own.
void pc_params_share_weights(pc_params *replica, const pc_params *master);

// Initial values as a function of (seed, index of the parameter in the list).
void pc_params_init(pc_params *p, uint64_t seed);
void pc_params_init_from(pc_params *p, int first, uint64_t seed); // entries from `first` on only
void pc_params_zero_grads(pc_params *p);

// The first parameter (weights, or gradients) that holds a NaN or an infinity, or NULL.
const pc_param *pc_params_nonfinite(const pc_params *p, bool grads);

#endif
