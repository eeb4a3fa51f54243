/*
 * again_body.h - portable kernels, compiled once more under this instruction set's names.
 *
 * For those that compilers turn into vectors well by themselves: the flags of avx2/ and avx512/ only make the vectors
 * longer. Sums keep the order in which portable/ writes them and products are not fused, so results are the portable
 * kernel's, bit for bit.
 */
#include "model/ops/cpu/simd/simd.h"

#undef R
#define R(name) S(name)

// NOLINTBEGIN(bugprone-suspicious-include)
#include "model/ops/cpu/portable/dropout.c"
#include "model/ops/cpu/portable/embedding.c"
#include "model/ops/cpu/portable/add_rows.c" // its backward is embedding's
#include "model/ops/cpu/portable/gather.c"
#include "model/ops/cpu/portable/l2norm.c"
#include "model/ops/cpu/portable/square_sum.c"
// NOLINTEND(bugprone-suspicious-include)
