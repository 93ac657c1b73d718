/* kernels.c: chooses an ISA by name or by what the machine has, and fills the kernel table for it, upward:
 * each ISA replaces some slots of the one it builds on. It computes nothing. cpu_ops, the model's opening
 * and ak42_measure call it. */
#include "kernels.h"

#include "../core/error.h"
#include "features.h"

typedef void fill_fn(kernel_table *table);
typedef bool has_fn(const cpu_features *features);

typedef struct isa {
    const char *name;
    int32_t base;                  /* index of the ISA it builds on; -1: none */
    fill_fn *fill;
    has_fn *has;                   /* beyond what the base needs */
    has_fn *pays;                  /* whether it is better than its base on this machine; NULL: always */
} isa;

static bool has_always(const cpu_features *f) { return f != NULL; }

/* Ascending: a later one that the machine has is the better one. */
#if defined(__x86_64__)

static bool has_avx2(const cpu_features *f) { return f->avx2; }
static bool has_avx2_vnni(const cpu_features *f) { return f->avx_vnni; }
static bool has_avx512(const cpu_features *f) { return f->avx512; }
static bool has_avx512_vnni(const cpu_features *f) { return f->avx512_vnni; }
static bool has_avx512_vbmi(const cpu_features *f) { return f->avx512_vbmi; }
static bool has_avx512_bf16(const cpu_features *f) { return f->avx512_bf16; }
static bool pays_avx512_bf16(const cpu_features *f) { return f->avx512_bf16_fast; }

enum {
    ISA_REFERENCE, ISA_GENERIC, ISA_AVX2, ISA_AVX2_VNNI, ISA_AVX512, ISA_AVX512_VNNI, ISA_AVX512_VBMI,
    ISA_AVX512_VNNI_BF16
};
#define ISA_NAMES "reference, generic, avx2, avx2_vnni, avx512, avx512_vnni, avx512_vbmi, avx512_vnni_bf16"

static const isa isas[] = {
    [ISA_REFERENCE] = {"reference", ISA_GENERIC, kernels_fill_reference, has_always, NULL},
    [ISA_GENERIC] = {"generic", -1, kernels_fill_generic, has_always, NULL},
    [ISA_AVX2] = {"avx2", ISA_GENERIC, kernels_fill_avx2, has_avx2, NULL},
    [ISA_AVX2_VNNI] = {"avx2_vnni", ISA_AVX2, kernels_fill_avx2_vnni, has_avx2_vnni, NULL},
    [ISA_AVX512] = {"avx512", ISA_AVX2, kernels_fill_avx512, has_avx512, NULL},
    [ISA_AVX512_VNNI] = {"avx512_vnni", ISA_AVX512, kernels_fill_avx512_vnni, has_avx512_vnni, NULL},
    [ISA_AVX512_VBMI] = {"avx512_vbmi", ISA_AVX512_VNNI, kernels_fill_avx512_vbmi, has_avx512_vbmi, NULL},
    [ISA_AVX512_VNNI_BF16] = {"avx512_vnni_bf16", ISA_AVX512_VBMI, kernels_fill_avx512_vnni_bf16,
                              has_avx512_bf16, pays_avx512_bf16},
};

#elif defined(__aarch64__)

static bool has_neon(const cpu_features *f) { return f->neon; }
static bool has_neon_dot(const cpu_features *f) { return f->neon_dot; }
static bool has_neon_i8mm(const cpu_features *f) { return f->neon_i8mm; }

enum { ISA_REFERENCE, ISA_GENERIC, ISA_NEON, ISA_NEON_DOT, ISA_NEON_I8MM };
#define ISA_NAMES "reference, generic, neon, neon_dot, neon_i8mm"

static const isa isas[] = {
    [ISA_REFERENCE] = {"reference", ISA_GENERIC, kernels_fill_reference, has_always, NULL},
    [ISA_GENERIC] = {"generic", -1, kernels_fill_generic, has_always, NULL},
    [ISA_NEON] = {"neon", ISA_GENERIC, kernels_fill_neon, has_neon, NULL},
    [ISA_NEON_DOT] = {"neon_dot", ISA_NEON, kernels_fill_neon_dot, has_neon_dot, NULL},
    [ISA_NEON_I8MM] = {"neon_i8mm", ISA_NEON_DOT, kernels_fill_neon_i8mm, has_neon_i8mm, NULL},
};

#else

enum { ISA_REFERENCE, ISA_GENERIC };
#define ISA_NAMES "reference, generic"

static const isa isas[] = {
    [ISA_REFERENCE] = {"reference", ISA_GENERIC, kernels_fill_reference, has_always, NULL},
    [ISA_GENERIC] = {"generic", -1, kernels_fill_generic, has_always, NULL},
};

#endif

static bool isa_has(uint32_t index, const cpu_features *features) {
    for (int32_t i = (int32_t)index; i >= 0; i = isas[i].base)
        if (!isas[i].has(features)) return false;
    return true;
}

/* An ISA's slots over those of the ones it builds on. The chain is as deep as the table is long at most. */
static void isa_fill(uint32_t index, kernel_table *table) {
    int32_t chain[ARRAY_LEN(isas)];
    uint32_t n = 0;
    for (int32_t i = (int32_t)index; i >= 0; i = isas[i].base) chain[n++] = i;
    while (n > 0) isas[chain[--n]].fill(table);
    table->isa = isas[index].name;
}

const char *kernels_built(void) { return ISA_NAMES; }

ak42_status kernels_select(kernel_table *table, const char *name, ak42_error *err) {
    cpu_features features;
    cpu_features_get(&features);
    bool best = name == NULL || strcmp(name, "auto") == 0;
    for (uint32_t i = ARRAY_LEN(isas); i-- > 0;) {
        if (best ? isas[i].pays && !isas[i].pays(&features) : strcmp(name, isas[i].name) != 0) continue;
        if (isa_has(i, &features)) {
            isa_fill(i, table);
            table->foresees = features.foresees;
            return AK42_STATUS_OK;
        }
        if (!best) {
            return error_set(err, AK42_STATUS_DEVICE,
                             "isa: expected a processor that can run \"%s\", found none; use \"auto\"", name);
        }
    }
    return error_set(err, AK42_STATUS_ARG, "isa: expected auto, %s, found \"%.40s\"", ISA_NAMES, name);
}

int kernel_type_row(uint32_t type_id) {
    switch (type_id) {
        case TYPE_F32: return KERNEL_F32;
        case TYPE_F16: return KERNEL_F16;
        case TYPE_BF16: return KERNEL_BF16;
        case TYPE_Q8_0: return KERNEL_Q8_0;
        case TYPE_INT8: return KERNEL_INT8;
        case TYPE_Q4_0: return KERNEL_Q4_0;
        case TYPE_Q4_1: return KERNEL_Q4_1;
        case TYPE_Q5_0: return KERNEL_Q5_0;
        case TYPE_Q5_1: return KERNEL_Q5_1;
        case TYPE_Q2_K: return KERNEL_Q2_K;
        case TYPE_Q3_K: return KERNEL_Q3_K;
        case TYPE_Q4_K: return KERNEL_Q4_K;
        case TYPE_Q5_K: return KERNEL_Q5_K;
        case TYPE_Q6_K: return KERNEL_Q6_K;
        case TYPE_IQ4_NL: return KERNEL_IQ4_NL;
        case TYPE_IQ4_XS: return KERNEL_IQ4_XS;
        case TYPE_MXFP4: return KERNEL_MXFP4;
        case TYPE_NF4:
        case TYPE_NF4_DQ: return KERNEL_NF4;
        default: return -1;
    }
}

uint32_t kernel_row_type(uint32_t row) {
    static const uint32_t types[KERNEL_TYPES] = {
        [KERNEL_F32] = TYPE_F32, [KERNEL_F16] = TYPE_F16, [KERNEL_BF16] = TYPE_BF16, [KERNEL_Q8_0] = TYPE_Q8_0,
        [KERNEL_INT8] = TYPE_INT8, [KERNEL_Q4_0] = TYPE_Q4_0, [KERNEL_Q4_1] = TYPE_Q4_1, [KERNEL_Q5_0] = TYPE_Q5_0,
        [KERNEL_Q5_1] = TYPE_Q5_1, [KERNEL_Q2_K] = TYPE_Q2_K, [KERNEL_Q3_K] = TYPE_Q3_K, [KERNEL_Q4_K] = TYPE_Q4_K,
        [KERNEL_Q5_K] = TYPE_Q5_K, [KERNEL_Q6_K] = TYPE_Q6_K, [KERNEL_IQ4_NL] = TYPE_IQ4_NL, [KERNEL_IQ4_XS] = TYPE_IQ4_XS,
        [KERNEL_MXFP4] = TYPE_MXFP4, [KERNEL_NF4] = TYPE_NF4,
    };
    return types[row];
}
