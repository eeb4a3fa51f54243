#include "model/ops/cpu/simd/act_body.h"
