#include "model/ops/cpu/simd/attention_body.h"
