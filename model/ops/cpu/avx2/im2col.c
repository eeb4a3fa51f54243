#include "model/ops/cpu/simd/im2col_body.h"
