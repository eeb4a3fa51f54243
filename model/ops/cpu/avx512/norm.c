#include "model/ops/cpu/simd/norm_body.h"
