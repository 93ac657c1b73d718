/* features.h: what this machine's processor and operating system can run. */
#ifndef AK42_FEATURES_H
#define AK42_FEATURES_H

#include <stdbool.h>

typedef struct cpu_features {
    bool avx2;                     /* AVX2, FMA, F16C, and the OS saves ymm */
    bool avx_vnni;                 /* VNNI on ymm, VEX encoded (AVX-VNNI) */
    bool avx512;                   /* F, BW, DQ, VL, and the OS saves zmm */
    bool avx512_vnni;
    bool avx512_vbmi;
    bool avx512_bf16;
    bool avx512_bf16_fast;         /* vdpbf16ps does twice the work of vfmadd (AMD); where Intel has it, half */
    bool neon, neon_dot, neon_i8mm;
    bool foresees;                 /* reads what lies in order faster when software does not ask for it ahead (AMD, by Zen 4) */
} cpu_features;

void cpu_features_get(cpu_features *features);

#endif
