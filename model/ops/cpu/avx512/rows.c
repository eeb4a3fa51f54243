#include "model/ops/cpu/simd/rows_body.h"
