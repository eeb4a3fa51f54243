/*
 * mask.c - the masks that towers use. The decoder's, with images and branches, is built in networks/vlm.
 */
#include "model/layers/mask.h"

void pc_mask_alloc(pc_mask *m, pc_arena *a, int64_t S, int64_t N, bool prefixes)
{
    *m = (pc_mask){.S = S};
    m->q_off = pc_alloc1(a, PC_I32, S + 1);
    m->k_off = pc_alloc1(a, PC_I32, S + 1);
    m->lo = pc_alloc1(a, PC_I32, N);
    m->hi = pc_alloc1(a, PC_I32, N);
    if (!prefixes) return;
    m->plo = pc_alloc1(a, PC_I32, N);
    m->phi = pc_alloc1(a, PC_I32, N);
}

void pc_mask_full(pc_mask *m, pc_arena *a, int64_t B, int64_t Q, int64_t K, int64_t skip)
{
    pc_mask_alloc(m, a, B, B * Q, false);
    m->pairs = (double)(B * Q) * (double)(K - skip);
    if (a->dry) return;
    for (int64_t b = 0; b <= B; b++) {
        pc_i32(m->q_off)[b] = (int32_t)(b * Q);
        pc_i32(m->k_off)[b] = (int32_t)(b * K);
    }
    for (int64_t n = 0; n < B * Q; n++) {
        pc_i32(m->lo)[n] = (int32_t)(n / Q * K + skip);
        pc_i32(m->hi)[n] = (int32_t)((n / Q + 1) * K);
    }
}

void pc_mask_ragged(pc_mask *m, pc_arena *a, const int64_t *lengths, int64_t T, int64_t B,
                    bool causal)
{
    int64_t N = 0;
    double pairs = 0.0;
    for (int64_t b = 0; b < B; b++) {
        const int64_t length = lengths ? lengths[b] : T;
        pairs += (double)length * (double)(causal ? length + 1 : 2 * length) / 2.0;
        N += length;
    }
    pc_mask_alloc(m, a, B, N, false);
    m->pairs = pairs;
    if (a->dry) return;
    int64_t begin = 0;
    for (int64_t b = 0; b < B; b++) {
        const int64_t end = begin + (lengths ? lengths[b] : T);
        pc_i32(m->q_off)[b] = pc_i32(m->k_off)[b] = (int32_t)begin;
        for (int64_t n = begin; n < end; n++) {
            pc_i32(m->lo)[n] = (int32_t)begin;
            pc_i32(m->hi)[n] = (int32_t)(causal ? n + 1 : end);
        }
        begin = end;
    }
    pc_i32(m->q_off)[B] = pc_i32(m->k_off)[B] = (int32_t)N;
}

static pc_tensor picked(pc_arena *a, pc_tensor from, pc_tensor rows)
{
    if (!pc_present(from)) return PC_NONE;
    const int64_t M = rows.dim[0];
    const pc_tensor out = pc_alloc1(a, PC_I32, M);
    for (int64_t i = 0; i < M && !a->dry; i++) pc_i32(out)[i] = pc_i32(from)[pc_i32(rows)[i]];
    return out;
}

void pc_mask_rows(pc_mask *m, pc_arena *a, const pc_mask *all, pc_tensor rows, int64_t N)
{
    const int64_t M = rows.dim[0], S = all->S;
    *m = (pc_mask){.S = S, .k_off = all->k_off};
    m->q_off = pc_alloc1(a, PC_I32, S + 1);
    m->lo = picked(a, all->lo, rows);
    m->hi = picked(a, all->hi, rows);
    m->plo = picked(a, all->plo, rows);
    m->phi = picked(a, all->phi, rows);
    m->pairs = all->pairs * (double)M / (double)N; // exact where every row sees as many
    if (a->dry) return;
    int64_t i = 0;
    for (int64_t s = 0; s <= S; s++) {
        while (i < M && pc_i32(rows)[i] < pc_i32(all->q_off)[s]) i++;
        pc_i32(m->q_off)[s] = (int32_t)i;
    }
}
