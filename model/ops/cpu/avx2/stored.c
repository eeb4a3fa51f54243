#include "model/ops/cpu/simd/stored_body.h"
