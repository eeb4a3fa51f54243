#include "model/ops/cpu/simd/again_body.h"
