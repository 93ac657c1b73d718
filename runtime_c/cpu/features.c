/* features.c: asks the processor and the operating system which vector instructions may be used. It
 * chooses nothing: kernels.c does, with what is found here. Instructions count only where the system also
 * saves their registers (XCR0 on x86). */
#include "features.h"

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) || defined(__i386__)

#include <cpuid.h>

enum {
    XCR0_XMM = 1u << 1,
    XCR0_YMM = 1u << 2,
    XCR0_OPMASK = 1u << 5,
    XCR0_ZMM_LOW = 1u << 6,
    XCR0_ZMM_HIGH = 1u << 7
};
enum { XCR0_AVX = XCR0_XMM | XCR0_YMM, XCR0_AVX512 = XCR0_AVX | XCR0_OPMASK | XCR0_ZMM_LOW | XCR0_ZMM_HIGH };

static bool bit(uint32_t word, int index) { return word >> index & 1u; }

/* "AuthenticAMD" */
static bool made_by_amd(void) {
    uint32_t a, b, c, d;
    return __get_cpuid(0, &a, &b, &c, &d) && b == 0x68747541u && d == 0x69746e65u && c == 0x444d4163u;
}

/* The register states that the system saves. Only called where CPUID says that the system uses XSAVE. */
static uint32_t read_xcr0(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    (void)high;
    return low;
}

void cpu_features_get(cpu_features *features) {
    memset(features, 0, sizeof *features);
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return;
    bool fma = bit(c, 12), osxsave = bit(c, 27), avx = bit(c, 28), f16c = bit(c, 29);
    if (!osxsave || !avx) return;
    uint32_t states = read_xcr0();
    bool ymm = (states & XCR0_AVX) == XCR0_AVX, zmm = (states & XCR0_AVX512) == XCR0_AVX512;

    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
    uint32_t last_subleaf = a;
    const bool amd = made_by_amd();
    features->foresees = amd;
    features->avx2 = ymm && fma && f16c && bit(b, 5);
    bool f = bit(b, 16), dq = bit(b, 17), bw = bit(b, 30), vl = bit(b, 31);
    features->avx512 = features->avx2 && zmm && f && dq && bw && vl;
    features->avx512_vbmi = features->avx512 && bit(c, 1);
    features->avx512_vnni = features->avx512 && bit(c, 11);
    if (last_subleaf < 1 || !__get_cpuid_count(7, 1, &a, &b, &c, &d)) return;
    features->avx_vnni = features->avx2 && bit(a, 4);
    features->avx512_bf16 = features->avx512 && bit(a, 5);
    features->avx512_bf16_fast = features->avx512_bf16 && amd;
}

#elif defined(__aarch64__) && defined(__linux__)

#include <sys/auxv.h>

/* Bits of AT_HWCAP and AT_HWCAP2 as the kernel documents them; written out because old headers lack them. */
#define HWCAP_BIT_ASIMD 1
#define HWCAP_BIT_ASIMDDP 20
#define HWCAP2_BIT_I8MM 13

void cpu_features_get(cpu_features *features) {
    memset(features, 0, sizeof *features);
    unsigned long hwcap = getauxval(AT_HWCAP), hwcap2 = getauxval(AT_HWCAP2);
    features->neon = hwcap >> HWCAP_BIT_ASIMD & 1;
    features->neon_dot = features->neon && (hwcap >> HWCAP_BIT_ASIMDDP & 1);
    features->neon_i8mm = features->neon && (hwcap2 >> HWCAP2_BIT_I8MM & 1);
}

#elif defined(__aarch64__) && defined(__APPLE__)

#include <sys/sysctl.h>

static bool has(const char *name) {
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, NULL, 0) == 0 && value != 0;
}

void cpu_features_get(cpu_features *features) {
    memset(features, 0, sizeof *features);
    features->neon = true;         /* part of the architecture */
    features->neon_dot = has("hw.optional.arm.FEAT_DotProd");
    features->neon_i8mm = has("hw.optional.arm.FEAT_I8MM");
}

#else

void cpu_features_get(cpu_features *features) { memset(features, 0, sizeof *features); }

#endif
