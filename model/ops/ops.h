/*
 * ops.h - every operation, declared once: formula, shapes, what backward needs; forward and backward
 * side by side.
 *
 * A backend fills two tables of these functions. Inference asks for the first (pc_ops) only, so no
 * backward code is linked into it; training asks for the second (pc_grad_ops) too. Layers call
 * ctx->ops->NAME_forward(ctx, ...) and ctx->grad_ops->NAME_backward(ctx, ...) and nothing else: no layer
 * touches data itself, so every layer runs unchanged in float, in double (gradient checks), dry
 * (planning) or on another device.
 *
 * The contract of every operation on every backend:
 *   - outputs come first; a parameter's gradient ACCUMULATES (+=), an activation's gradient is
 *     OVERWRITTEN; an argument marked ? may be absent (data NULL): absent gradients are not computed. What
 *     a step first adds to a matrix it writes instead, without reading it: `fresh`.
 *   - tensors have ctx->real type unless said otherwise; ids, positions and offsets are i32. Under bf16 only
 *     activations and parameters of two or more dimensions are bf16; statistics (means, log-sum-exps, losses a row),
 *     unit rows, rotary tables and parameters of one dimension are f32 (pc_stat), gradients f32 or bf16.
 *   - rank-2 activations may be strided rows (pc_tensor.stride); parameters are dense.
 *   - the matrix of linear, linear_act and linear_xent's forward, and embedding's table, may be of any floating or block
 *     type (pc_dtype): it is widened as it is read. Backward takes ctx->real alone.
 *   - sums over rows are made in a fixed order for a given shape and thread count.
 *   - a kernel returns nothing: shapes are the caller's promise (PC_ASSERT in debug builds).
 */
#ifndef PC_OPS_H
#define PC_OPS_H

#include "model/core/memory.h"
#include "model/core/rng.h"
#include "model/core/tensor.h"
#include "model/core/threads.h"

typedef enum pc_act {
    PC_ACT_GELU,      // z/2 (1 + erf(z/sqrt 2))
    PC_ACT_GELU_TANH, // z/2 (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3)))
    PC_ACT_QUICK,     // z sigmoid(1.702 z)
    PC_ACT_SILU,      // z sigmoid(z)
    PC_ACT_RELU,
} pc_act;

/*
 * Who sees whom. The rows of all sequences lie one after the other; sequence s owns query rows
 * [q_off[s], q_off[s+1]) and key rows [k_off[s], k_off[s+1]). Query row n sees key rows [lo[n], hi[n])
 * and, where given, also the shared prefix [plo[n], phi[n]), which lies wholly before lo[n]. Key rows
 * are numbered over the whole batch. One pair of intervals covers causal, bidirectional, padded,
 * sliding-window, packed and cross attention, a KV cache, and many questions behind one image.
 * A row that sees nothing gives o = 0, lse = -inf and no gradient.
 */
typedef struct pc_mask {
    int64_t S;              // sequences
    pc_tensor q_off, k_off; // i32 (S+1)
    pc_tensor lo, hi;       // i32 (N)
    pc_tensor plo, phi;     // i32 (N), ? both or none
    double pairs; // pairs of a query row and a key row it sees, in all: what the dry backend counts
} pc_mask;

/*
 * A convolution as rows: image b, output place (oy,ox), kernel place (ky,kx), channel c.
 * Columns are ordered (c, ky, kx), as convolution weights [O, C, K, K] are stored.
 */
typedef struct pc_conv {
    int64_t B, C, H, W; // input
    int64_t kernel, step, pad;
    bool channels_last;   // input rows (B*H*W, C) instead of planes (B, C, H, W)
    int64_t out_h, out_w; // floor((H + 2 pad - kernel)/step) + 1
} pc_conv;

typedef struct pc_adamw {
    double lr, beta1, beta2, eps, weight_decay;
    double correct1, correct2; // 1 - beta^t, t counted from 1
    double grad_scale;         // multiplies the gradient first: the clipping factor
} pc_adamw;

/*
 * A run of a parameter's numbers with what the optimiser keeps of them, dense and alike in number. What changes all
 * parameters at once takes an array of these, which lies where numbers do: in a device's memory, when one computes.
 */
typedef struct pc_piece {
    void *w, *master, *m, *v, *g; // master?: the f32 original of a w in bf16
    int64_t n;
    int64_t
        first; // where its numbers stand among all trained ones: what rounding is drawn by. A multiple of 8
    double lr_scale, decay;               // multiply lr and weight_decay
    pc_dtype w_type, moment_type, g_type; // ctx->real, f32 or bf16
} pc_piece;

/*
 * What lets a step through, f64 (PC_GATE), in the memory of the device that computes. Once it is shut, the operations
 * that take it change nothing, whatever comes: a loss or a norm that is not finite leaves the weights as they were.
 */
enum { PC_GATE_LOSS, PC_GATE_NORM, PC_GATE_SCALE, PC_GATE_SHUT, PC_GATE };

/*
 * The list. FORWARD(name, arguments) declares name_forward in pc_ops, BACKWARD(name, arguments)
 * name_backward in pc_grad_ops, TRAIN(name, arguments) a training-only operation.
 */
// clang-format off
#define PC_OP_LIST(FORWARD, BACKWARD, TRAIN)                                                       \
    /* linear     y = x W^T + b + r         x (N,I)  W (O,I)  b (O)?  y, r (N,O); r? may be y     */ \
    /*            dx = dy W   dW += dy^T x   db += sum_n dy   (dx?, dW?, db?; dr is dy itself)      */ \
    /*            A fresh dW holds nothing yet, zeros not even: dW = dy^T x, 0 of no rows           */ \
    FORWARD(linear, (pc_ctx * ctx, pc_tensor y, pc_tensor x, pc_tensor w, pc_tensor b, pc_tensor r))   \
    BACKWARD(linear, (pc_ctx * ctx, pc_tensor dx, pc_tensor dw, pc_tensor db, pc_tensor dy,            \
                      pc_tensor x, pc_tensor w, bool fresh))                                       \
    /* act        a = f(z)                  any rows (N,F)                                        */ \
    /*            dz = da f'(z)             dz may be da                                          */ \
    FORWARD(act, (pc_ctx * ctx, pc_tensor a, pc_tensor z, pc_act kind))                              \
    BACKWARD(act, (pc_ctx * ctx, pc_tensor dz, pc_tensor da, pc_tensor z, pc_act kind))              \
    /* linear_act z = x W^T + b, a = f(z)   fused. Under ctx->grad_ops z is whatever the table's    */ \
    /*            backward makes its factor of: z itself, or f'(z), which costs little beside f(z)  */ \
    /*            dz = da f'(z)   db += sum_n dz   (db?; dz may be da); linear's of dz has the rest  */ \
    FORWARD(linear_act, (pc_ctx * ctx, pc_tensor a, pc_tensor z, pc_tensor x, pc_tensor w,           \
                         pc_tensor b, pc_act kind))                                                \
    BACKWARD(linear_act, (pc_ctx * ctx, pc_tensor dz, pc_tensor db, pc_tensor da, pc_tensor z,      \
                          pc_act kind))                                                            \
    /* swiglu     h = silu(g) u             gu (N,2F): columns [0,F) g, [F,2F) u;  h (N,F)        */ \
    /*            dgu                        may not be gu                                         */ \
    FORWARD(swiglu, (pc_ctx * ctx, pc_tensor h, pc_tensor gu))                                       \
    BACKWARD(swiglu, (pc_ctx * ctx, pc_tensor dgu, pc_tensor dh, pc_tensor gu))                      \
    /* layernorm  y = g (x - mean) rstd + b   x, y (N,C)  mean, rstd (N) kept                      */ \
    /*            dx = LN'(dy) + add?,  dg += , db +=   (dx may be dy or add; dg, db ?)            */ \
    FORWARD(layernorm, (pc_ctx * ctx, pc_tensor y, pc_tensor mean, pc_tensor rstd, pc_tensor x,      \
                        pc_tensor g, pc_tensor b, double eps))                                     \
    BACKWARD(layernorm, (pc_ctx * ctx, pc_tensor dx, pc_tensor dg, pc_tensor db, pc_tensor dy,       \
                         pc_tensor x, pc_tensor g, pc_tensor mean, pc_tensor rstd, pc_tensor add))   \
    /* rmsnorm    y = g x rstd, rstd = 1/sqrt(mean_c x^2 + eps). x, y (N,C), or (N,H,C) strided    */ \
    /*            heads with rstd (N,H): query/key norm. y may be x. rstd kept                     */ \
    /*            dx = RMS'(dy) + add?,  dg +=         (dx may be dy or add; dg ?)                 */ \
    FORWARD(rmsnorm, (pc_ctx * ctx, pc_tensor y, pc_tensor rstd, pc_tensor x, pc_tensor g,           \
                      double eps))                                                                 \
    BACKWARD(rmsnorm, (pc_ctx * ctx, pc_tensor dx, pc_tensor dg, pc_tensor dy, pc_tensor x,          \
                       pc_tensor g, pc_tensor rstd, pc_tensor add))                                \
    /* rope       rotates pairs (j, j + D/2) by the angle of table row pos[n]: x, y (N,H,D)        */ \
    /*            strided, cos, sin (R,D/2), pos i32 (N). y may be x. Backward: the inverse turn   */ \
    FORWARD(rope, (pc_ctx * ctx, pc_tensor y, pc_tensor x, pc_tensor cos_table, pc_tensor sin_table,  \
                   pc_tensor pos))                                                                 \
    BACKWARD(rope, (pc_ctx * ctx, pc_tensor dx, pc_tensor dy, pc_tensor cos_table,                    \
                    pc_tensor sin_table, pc_tensor pos))                                            \
    /* attention  o[n,h] = sum_j softmax_j(scale q[n,h].k[j,g]) v[j,g], g = floor(h G/H)           */ \
    /*            q, o (N,H,D)  k, v (M,G,D)  lse (N,H) = ln sum exp, kept. Never stores T x T.    */ \
    /*            dq, dk, dv overwritten (every row of k, v belongs to one sequence)               */ \
    FORWARD(attention, (pc_ctx * ctx, pc_tensor o, pc_tensor lse, pc_tensor q, pc_tensor k,          \
                        pc_tensor v, const pc_mask *mask, double scale))                           \
    BACKWARD(attention, (pc_ctx * ctx, pc_tensor dq, pc_tensor dk, pc_tensor dv, pc_tensor dout,     \
                         pc_tensor q, pc_tensor k, pc_tensor v, pc_tensor o, pc_tensor lse,          \
                         const pc_mask *mask, double scale))                                       \
    /* rel_terms  rh[n,h,y] = q[n,h].th[Y-y+a-1]   rw[n,h,x] = q[n,h].tw[X-x+b-1]: how far key (y,x) */ \
    /*            of a grid of a x b lies from query n = (Y,X). q (N,H,D), N whole grids; th (2a-1,D) */ \
    /*            tw (2b-1,D); rh (N,H,a), rw (N,H,b)                                              */ \
    /*            dq = th'(drh) + tw'(drw) + add?   dth +=  dtw +=    (dq may be add; dq, dth, dtw ?) */ \
    FORWARD(rel_terms, (pc_ctx * ctx, pc_tensor rh, pc_tensor rw, pc_tensor q, pc_tensor th,         \
                        pc_tensor tw))                                                             \
    BACKWARD(rel_terms, (pc_ctx * ctx, pc_tensor dq, pc_tensor dth, pc_tensor dtw, pc_tensor drh,    \
                         pc_tensor drw, pc_tensor q, pc_tensor th, pc_tensor tw, pc_tensor add))    \
    /* rel_attention   attention with scale q[n,h].k[j,g] + rh[n,h,y] + rw[n,h,x] in place of the   */ \
    /*            scaled product; key j is place (y,x) of its sequence, a grid of a x b keys.       */ \
    /*            rh (N,H,a), rw (N,H,b); drh, drw overwritten like dq                             */ \
    FORWARD(rel_attention, (pc_ctx * ctx, pc_tensor o, pc_tensor lse, pc_tensor q, pc_tensor k,      \
                            pc_tensor v, pc_tensor rh, pc_tensor rw, const pc_mask *mask,           \
                            double scale))                                                         \
    BACKWARD(rel_attention, (pc_ctx * ctx, pc_tensor dq, pc_tensor dk, pc_tensor dv, pc_tensor drh,  \
                             pc_tensor drw, pc_tensor dout, pc_tensor q, pc_tensor k, pc_tensor v,  \
                             pc_tensor rh, pc_tensor rw, pc_tensor o, pc_tensor lse,                \
                             const pc_mask *mask, double scale))                                   \
    /* embedding  y[n] = table[ids[n]]       ids i32 (N); ids[n] < 0 leaves row n alone           */ \
    /*            dtable[ids[n]] += dy[n]    in row order                                         */ \
    FORWARD(embedding, (pc_ctx * ctx, pc_tensor y, pc_tensor ids, pc_tensor table))                  \
    BACKWARD(embedding, (pc_ctx * ctx, pc_tensor dtable, pc_tensor dy, pc_tensor ids))               \
    /* add_rows   y[n] = x[n] + table[index[n]]   index[n] < 0 adds nothing; y may be x            */ \
    /*            dtable[index[n]] += dy[n]       (dx is dy itself)                               */ \
    FORWARD(add_rows, (pc_ctx * ctx, pc_tensor y, pc_tensor x, pc_tensor table, pc_tensor index))    \
    BACKWARD(add_rows, (pc_ctx * ctx, pc_tensor dtable, pc_tensor dy, pc_tensor index))              \
    /* gather     y[m] = x[index[m]]          x (N,C)  y (M,C)                                     */ \
    /*            dx = 0, then dx[index[m]] += dy[m]                                              */ \
    FORWARD(gather, (pc_ctx * ctx, pc_tensor y, pc_tensor x, pc_tensor index))                       \
    BACKWARD(gather, (pc_ctx * ctx, pc_tensor dx, pc_tensor dy, pc_tensor index))                    \
    /* splice     y[index[m]] = f[m]          other rows of y stay: image rows into the sequence   */ \
    /*            df[m] = dy[index[m]]        index[m] < 0: the row goes nowhere, df[m] = 0        */ \
    FORWARD(splice, (pc_ctx * ctx, pc_tensor y, pc_tensor f, pc_tensor index))                       \
    BACKWARD(splice, (pc_ctx * ctx, pc_tensor df, pc_tensor dy, pc_tensor index))                    \
    /* im2col     cols (B*out_h*out_w, C*K*K) from x; zero outside. Patch embedding: step = kernel */ \
    /*            dx                         sums what overlaps                                   */ \
    FORWARD(im2col, (pc_ctx * ctx, pc_tensor cols, pc_tensor x, const pc_conv *conv))                \
    BACKWARD(im2col, (pc_ctx * ctx, pc_tensor dx, pc_tensor dcols, const pc_conv *conv))             \
    /* resize_grid y (h2*w2,C) from x (h1*w1,C): bicubic A = -0.75, half-pixel centres, edges      */ \
    /*            clamped, no antialias: position tables for another image size. dx += (parameter) */ \
    FORWARD(resize_grid, (pc_ctx * ctx, pc_tensor y, pc_tensor x, int64_t h2, int64_t w2,            \
                          int64_t h1, int64_t w1))                                                 \
    BACKWARD(resize_grid, (pc_ctx * ctx, pc_tensor dx, pc_tensor dy, int64_t h2, int64_t w2,         \
                           int64_t h1, int64_t w1))                                                \
    /* resize_map  y (B*h2*w2,C) from x (B*h1*w1,C): bilinear, half-pixel centres, clamped at the   */ \
    /*            edges, no antialias: feature maps. dx overwritten                                */ \
    FORWARD(resize_map, (pc_ctx * ctx, pc_tensor y, pc_tensor x, int64_t h2, int64_t w2,             \
                         int64_t h1, int64_t w1))                                                  \
    BACKWARD(resize_map, (pc_ctx * ctx, pc_tensor dx, pc_tensor dy, int64_t h2, int64_t w2,          \
                          int64_t h1, int64_t w1))                                                 \
    /* dropout    y = x keep / (1 - p), keep(index) = uniform(key, index) >= p; y may be x         */ \
    /*            dx = dy keep / (1 - p)                                                          */ \
    FORWARD(dropout, (pc_ctx * ctx, pc_tensor y, pc_tensor x, double p, pc_rng_key key))             \
    BACKWARD(dropout, (pc_ctx * ctx, pc_tensor dx, pc_tensor dy, double p, pc_rng_key key))          \
    /* add        y = a + b                   any of the three may be the same rows               */ \
    /* scale      y = s x                     any rows; y may be x; its backward is itself        */ \
    /* copy       y = x;   zero  y = 0                                                            */ \
    FORWARD(add, (pc_ctx * ctx, pc_tensor y, pc_tensor a, pc_tensor b))                              \
    FORWARD(scale, (pc_ctx * ctx, pc_tensor y, pc_tensor x, double s))                               \
    FORWARD(copy, (pc_ctx * ctx, pc_tensor y, pc_tensor x))                                          \
    FORWARD(zero, (pc_ctx * ctx, pc_tensor y))                                                       \
    /* argmax     ids[n] = the lowest v < most of those with the largest logits[n,v]; -1 where one is NaN */ \
    /*            or +inf, or all are -inf. ids i32 (N); logits (N,V) of pc_stat, dense              */ \
    /*            log[line[0],n] is written too, where log i32 (R,N) and line i32 (1) are given      */ \
    /* advance    x += by                     i32 (N): positions of the step that follows            */ \
    FORWARD(argmax, (pc_ctx * ctx, pc_tensor ids, pc_tensor log, pc_tensor line, pc_tensor logits,   \
                     int64_t most))                                                                 \
    FORWARD(advance, (pc_ctx * ctx, pc_tensor x, int64_t by))                                       \
    /* l2norm     y = x inv, inv = 1/max(|x|, 1e-12)   x, y (B,E)  inv (B) kept                    */ \
    /*            dx = inv (dy - y (y.dy))                                                        */ \
    FORWARD(l2norm, (pc_ctx * ctx, pc_tensor y, pc_tensor inv, pc_tensor x))                         \
    BACKWARD(l2norm, (pc_ctx * ctx, pc_tensor dx, pc_tensor dy, pc_tensor y, pc_tensor inv))         \
    /* linear_xent nll[n] = -ln softmax(x[n] W^T)[labels[n]]; labels i32 (N), < 0: ignored, 0.     */ \
    /*            x (N,C)  W (V,C). Ignored rows are skipped, logits live in chunks only.         */ \
    /*            Backward does both in one pass: nll (N) out, with coef (N) the gradient of       */ \
    /*            sum_n coef[n] nll[n]:  dx?  dW?                                                 */ \
    FORWARD(linear_xent, (pc_ctx * ctx, pc_tensor nll, pc_tensor x, pc_tensor w, pc_tensor labels))   \
    BACKWARD(linear_xent, (pc_ctx * ctx, pc_tensor dx, pc_tensor dw, pc_tensor nll, pc_tensor x,      \
                           pc_tensor w, pc_tensor labels, pc_tensor coef))                         \
    /* clip_loss  S = exp(t) u v^T; loss = (mean_i CE(S_i., i) + mean_j CE(S_.j, j))/2             */ \
    /*            u, v (B,E) unit rows; t (1); lse_row, lse_col (B) kept; loss f64 (1)             */ \
    /*            du?, dv? overwritten, dt? +=; all times `scale`                                  */ \
    FORWARD(clip_loss, (pc_ctx * ctx, pc_tensor loss, pc_tensor lse_row, pc_tensor lse_col,          \
                        pc_tensor u, pc_tensor v, pc_tensor t))                                    \
    BACKWARD(clip_loss, (pc_ctx * ctx, pc_tensor du, pc_tensor dv, pc_tensor dt, pc_tensor u,        \
                         pc_tensor v, pc_tensor t, pc_tensor lse_row, pc_tensor lse_col,             \
                         double scale))                                                            \
    /* sigmoid_loss z = exp(t) u v^T + b; loss = (1/B)(sum_ij softplus(z_ij) - sum_i z_ii)          */ \
    /*            t, b (1); loss f64 (1); du?, dv? overwritten, dt?, db? +=; all times `scale`      */ \
    FORWARD(sigmoid_loss, (pc_ctx * ctx, pc_tensor loss, pc_tensor u, pc_tensor v, pc_tensor t,      \
                           pc_tensor b))                                                           \
    BACKWARD(sigmoid_loss, (pc_ctx * ctx, pc_tensor du, pc_tensor dv, pc_tensor dt, pc_tensor db,    \
                            pc_tensor u, pc_tensor v, pc_tensor t, pc_tensor b, double scale))     \
    /* adamw      w -= lr wd w;  m, v moments of g grad_scale;  w -= lr m^ / (sqrt v^ + eps)        */ \
    TRAIN(adamw, (pc_ctx * ctx, pc_tensor w, pc_tensor m, pc_tensor v, pc_tensor g,                  \
                  const pc_adamw *hyper))                                                          \
    /* square_sum out f64 (1) += sum x^2 (double; fixed order; NaN and inf survive)                */ \
    TRAIN(square_sum, (pc_ctx * ctx, pc_tensor out, pc_tensor x))                                    \
    /* accumulate y += x             replicas' gradients, in replica order                         */ \
    TRAIN(accumulate, (pc_ctx * ctx, pc_tensor y, pc_tensor x))                                     \
    /* add_sum    out f64 (1) += by sum x  (double; fixed order): losses of rows into a step's      */ \
    TRAIN(add_sum, (pc_ctx * ctx, pc_tensor out, pc_tensor x, double by))                           \
    /* clamp      x <- min(max(x, low), high)                                                       */ \
    TRAIN(clamp, (pc_ctx * ctx, pc_tensor x, double low, double high))                              \
    /* square_sums  sums[i] f64 = sum g^2 of piece i (double; fixed order)                          */ \
    TRAIN(square_sums, (pc_ctx * ctx, pc_tensor sums, const pc_piece *list, int64_t count))         \
    /* step_gate  norm = sqrt(sum sums), scale = clip > 0 ? min(1, clip / (norm + 1e-6)) : 1, loss  */ \
    /*            as given (?); shut when loss or norm is not finite, and from then on              */ \
    TRAIN(step_gate, (pc_ctx * ctx, pc_tensor gate, pc_tensor sums, pc_tensor loss, double clip))   \
    /* adamw_list adamw of every piece: lr, weight_decay times the piece's, grad_scale times the    */ \
    /*            gate's. master? is what changes, and w its copy. What is stored in bf16 is        */ \
    /*            rounded to nearest, or by `rounding` (NULL: not) up or down at random (step.h):   */ \
    /*            w without a master, m and v                                                       */ \
    TRAIN(adamw_list, (pc_ctx * ctx, const pc_piece *list, int64_t count, const pc_adamw *hyper,    \
                       pc_tensor gate, const pc_rng_key *rounding))                                 \
    /* muon_ahead piece b:  g' = scale g   m <- beta m + (1 - beta) g'   u = (1 - beta) g' + beta m */ \
    /*            X[b] = u / (|u|_F + 1e-7)         X (B,R,C) of any floating type                  */ \
    TRAIN(muon_ahead, (pc_ctx * ctx, pc_tensor X, const pc_piece *list, double beta, pc_tensor gate, \
                       const pc_rng_key *rounding))                                                \
    /* orthogonal X[b] <- five times  a X + (b A + c A A) X,  A = X X^T: singular values near 1     */ \
    /*            (a, b, c of step.h). X (B,R,C) dense; A and two more from ctx->scratch            */ \
    TRAIN(orthogonal, (pc_ctx * ctx, pc_tensor X))                                                  \
    /* muon_apply piece b:  w <- (1 - lr wd) w - 0.2 lr sqrt(max(R,C)) X[b]; master? and rounding?  */ \
    /*            as adamw_list has them                                                            */ \
    TRAIN(muon_apply, (pc_ctx * ctx, const pc_piece *list, pc_tensor X, double lr,                  \
                       double weight_decay, pc_tensor gate, const pc_rng_key *rounding))
// clang-format on

typedef struct pc_ctx pc_ctx;

#define PC_FORWARD_SLOT(name, args)  void(*name##_forward) args;
#define PC_BACKWARD_SLOT(name, args) void(*name##_backward) args;
#define PC_TRAIN_SLOT(name, args)    void(*name) args;
#define PC_NO_SLOT(name, args)

typedef struct pc_ops {
    PC_OP_LIST(PC_FORWARD_SLOT, PC_NO_SLOT, PC_NO_SLOT)
} pc_ops;

typedef struct pc_grad_ops {
    PC_OP_LIST(PC_NO_SLOT, PC_BACKWARD_SLOT, PC_TRAIN_SLOT)
} pc_grad_ops;

// What running layers need to know. One per replica; a replica's pool may be NULL (one thread).
struct pc_ctx {
    const pc_ops *ops;
    const pc_grad_ops *grad_ops; // NULL: inference; then forward keeps nothing it does not need
    pc_dtype real;               // PC_F32, PC_BF16 on a device, or PC_F64 in gradient checks
    pc_pool *pool;
    pc_arena *act; // what forward keeps for backward, and results
    pc_arena
        *scratch; // inside one call. A kernel's workspace comes from here too, in the amount its
    // *_workspace() function (ops/cpu/workspace.h) states: the dry table takes as much
    struct pc_taps *taps;       // NULL, or where named activations go (layers/taps.h)
    struct pc_repeats *repeats; // NULL, or what a device was told before (layers/repeat.h)
    struct pc_fp8 *fp8;         // NULL, or which matrices a device multiplies in eight bits (fp8.h)
    double flops;               // the dry backend counts here
    double dropout;             // probability in residual branches; 0 outside training
    double adapter_dropout;     // probability in front of low-rank adapters; 0 outside training
    pc_rng_key dropout_key; // step is advanced by each dropout call of a forward pass (low 16 bits)
};

// The type of statistics, and of whatever else needs more than bf16 can hold.
static inline pc_dtype pc_stat(const pc_ctx *ctx)
{
    return ctx->real == PC_BF16 ? PC_F32 : ctx->real;
}

typedef enum pc_isa { PC_ISA_REF, PC_ISA_AVX2, PC_ISA_AVX512 } pc_isa;

// The best the processor has, or what PERCEPT_ISA=ref|avx2|avx512 forces. A name that is none of
// these or more than the processor can do is PC_ERR_USAGE.
pc_status pc_isa_choose(pc_isa *out);
const char *pc_isa_name(pc_isa isa);

// The CPU backend: every slot portable C, then what the instruction set does better (float only).
const pc_ops *pc_cpu_ops(pc_isa isa, pc_dtype real);
const pc_grad_ops *pc_cpu_grad_ops(pc_isa isa, pc_dtype real);

// The dry backend: touches nothing, counts FLOPs into ctx->flops (matrix products and attention).
const pc_ops *pc_dry_ops(void);
const pc_grad_ops *pc_dry_grad_ops(void);

#endif
