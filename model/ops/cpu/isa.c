/*
 * isa.c - which instruction set the CPU kernels use: the best the processor and the operating system
 * support, or what PERCEPT_ISA=ref|avx2|avx512 asks for.
 */
#include <stdlib.h>
#include <string.h>

#include "model/ops/cpu/overlay.h"

static const char *const isa_names[] = {"ref", "avx2", "avx512"};
enum { ISA_COUNT = 3 };

const char *pc_isa_name(pc_isa isa)
{
    PC_ASSERT((int)isa >= 0 && (int)isa < ISA_COUNT, "instruction set %d of %d", (int)isa,
              ISA_COUNT);
    return isa_names[isa];
}

// __builtin_cpu_supports asks the processor and whether the system saves its registers.
pc_isa pc_isa_best(void)
{
#if PC_X86
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return PC_ISA_REF;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        return PC_ISA_AVX512;
    return PC_ISA_AVX2;
#else
    return PC_ISA_REF;
#endif
}

pc_status pc_isa_choose(pc_isa *out)
{
    const pc_isa best = pc_isa_best();
    const char *asked = getenv("PERCEPT_ISA");
    if (!asked || !*asked) {
        *out = best;
        return PC_OK;
    }
    for (int i = 0; i < ISA_COUNT; i++) {
        if (strcmp(asked, isa_names[i]) != 0) continue;
        if (i > (int)best)
            return pc_fail(PC_ERR_USAGE, "PERCEPT_ISA is '%s', but this processor goes up to '%s'",
                           asked, isa_names[best]);
        *out = (pc_isa)i;
        return PC_OK;
    }
    return pc_fail(PC_ERR_USAGE, "PERCEPT_ISA is '%s', expected ref, avx2 or avx512", asked);
}
