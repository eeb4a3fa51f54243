/*
 * adapters.h - low-rank adapters added to linears that are listed already (formulas: linear.h).
 *
 * An adapter stands on rows [row, row + rows) of one linear's matrix: our q, k and v lie in one matrix, published
 * models have three. Its parameters join the list, behind all others, as
 *   LINEAR.lora.PART.A (r,I)   uniform (-1/sqrt(I), 1/sqrt(I)): Kaiming's with a = sqrt(5), as PEFT has it
 *   LINEAR.lora.PART.B (rows,r)   zero: a new adapter changes nothing
 * PART is the part's number among the matrices that are fused (pc_param.parts), "rowsBEGIN_END" for rows that are
 * none of them; on the whole of a matrix the names are LINEAR.lora.A and .B.
 */
#ifndef PC_LAYERS_ADAPTERS_H
#define PC_LAYERS_ADAPTERS_H

#include "model/layers/linear.h"

typedef struct pc_adapter_site {
    char weight[PC_NAME_MAX]; // "decoder.blocks.0.attn.qkv.weight"
    int64_t row, rows, r;
    double alpha, scale; // scale: what multiplies B A; alpha is kept for those who write it down
    char module
        [192]; // what the family's library calls the linear; "": nothing. For those who name it
} pc_adapter_site;

typedef struct pc_adapters {
    pc_adapter *list; // (count)
    pc_adapter_site *sites;
    int count;
    int first; // entry of the parameter list: A and B of adapter i stand at first + 2 i and the next
    pc_arena memory; // of A and B, when opened with memory
} pc_adapters;

// Lists them, and with `bind` gives them memory of type t, not initialised (pc_params_init_from(p, a->first, seed)).
// PC_ERR_INPUT names a weight that is no linear's matrix, rows outside it, or rows that have two.
pc_status pc_adapters_open(pc_adapters *a, pc_params *p, const pc_adapter_site *sites, int count,
                           pc_dtype t, bool bind);
// Frees; the parameter list must be closed with it or before. A zeroed one is fine.
void pc_adapters_close(pc_adapters *a);

// W[rows] += s B A for each, in f32 weights; then they leave linears and list, and are closed.
pc_status pc_adapters_merge(pc_adapters *a, pc_params *p);

// Names of A and B of a site ("...lora.0.A").
void pc_adapter_names(char A[PC_NAME_MAX], char B[PC_NAME_MAX], const pc_params *p,
                      const pc_adapter_site *site);

#endif
