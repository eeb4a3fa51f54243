#include "model/ops/cpu/simd/overlay_body.h"
