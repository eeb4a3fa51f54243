#include "model/ops/cpu/simd/product_body.h"
