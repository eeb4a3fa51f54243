#include "model/ops/cpu/simd/optim_body.h"
