#include "model/ops/cpu/simd/linear_body.h"
