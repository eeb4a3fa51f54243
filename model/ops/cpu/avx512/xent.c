#include "model/ops/cpu/simd/xent_body.h"
