/* quant.c: what the bytes of every weight type mean: blocks to f32 and f32 to blocks. The definition for
 * files, tests and panels; it knows neither panels nor threads. Called by panel.c, api.c and the tests.
 *
 * The bytes and floats are gguf-py's on every compiler and processor. No product here may be fused with
 * the addition that follows it (gcc's default mode and aarch64 would), so every such product passes
 * through an array that the compiler cannot see through; both loops still vectorise. Roundings use
 * arithmetic that baseline SSE2 has. */
#include "quant.h"

#include <math.h>

#include "blocks.h"

#if defined(__GNUC__)
#define FORCE_ROUNDED(array) __asm__ volatile("" : "+m"(array))
#else
#define FORCE_ROUNDED(array) ((void)0)
#endif

enum { BLOCK = 32, Q8_0_BYTES = 34, Q4_0_BYTES = 18, Q4_1_BYTES = 20 };
#define ABS_MASK 0x7fffffffu
#define INF_BITS 0x7f800000u

static uint32_t float_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}
static float bits_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
static void store_u16(uint8_t *p, uint16_t value) {
    p[0] = (uint8_t)value;
    p[1] = (uint8_t)(value >> 8);
}
static void store_f32(uint8_t *p, float value) {
    uint32_t bits = float_bits(value);
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(bits >> 8 * i);
}

/* The largest magnitude; a NaN counts as larger than everything. Compared as integers, which order alike. */
static float max_magnitude(const float *x, uint32_t n) {
    uint32_t max = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t magnitude = float_bits(x[i]) & ABS_MASK;
        max = magnitude > max ? magnitude : max;
    }
    return bits_float(max);
}

/* 1 / d, 0 for 0; infinite where d is below the smallest normal's reach: codes are then 0, as in gguf-py. */
static float inverse(float d) { return d == 0.0f ? 0.0f : 1.0f / d; }

/* ---- decoding ---- */

static void decode_f32(float *out, const uint8_t *blocks, uint64_t n) {
    for (uint64_t i = 0; i < n; i++) out[i] = load_f32(blocks + 4 * i);
}
static void decode_f16(float *out, const uint8_t *blocks, uint64_t n) {
    for (uint64_t i = 0; i < n; i++) out[i] = f16_to_f32(load_u16(blocks + 2 * i));
}
static void decode_bf16(float *out, const uint8_t *blocks, uint64_t n) {
    for (uint64_t i = 0; i < n; i++) out[i] = bf16_to_f32(load_u16(blocks + 2 * i));
}
/* f16 d; i8 q[32]: w = q * d */
static void decode_q8_0(float *out, const uint8_t *blocks, uint64_t n) {
    for (; n; n -= BLOCK, out += BLOCK, blocks += Q8_0_BYTES) {
        float d = f16_to_f32(load_u16(blocks));
        for (int i = 0; i < BLOCK; i++) out[i] = (float)(int8_t)blocks[2 + i] * d;
    }
}
/* f16 d; u8 q[16], weight i in the low nibble of byte i, weight i + 16 in the high one: w = (q - 8) * d */
static void decode_q4_0(float *out, const uint8_t *blocks, uint64_t n) {
    for (; n; n -= BLOCK, out += BLOCK, blocks += Q4_0_BYTES) {
        float d = f16_to_f32(load_u16(blocks));
        for (int i = 0; i < BLOCK / 2; i++) {
            out[i] = (float)((blocks[2 + i] & 15) - 8) * d;
            out[i + BLOCK / 2] = (float)((blocks[2 + i] >> 4) - 8) * d;
        }
    }
}
/* f16 d; f16 m; u8 q[16] as in Q4_0: w = q * d + m */
static void decode_q4_1(float *out, const uint8_t *blocks, uint64_t n) {
    for (; n; n -= BLOCK, out += BLOCK, blocks += Q4_1_BYTES) {
        float d = f16_to_f32(load_u16(blocks)), m = f16_to_f32(load_u16(blocks + 2)), scaled[BLOCK];
        for (int i = 0; i < BLOCK / 2; i++) {
            scaled[i] = (float)(blocks[4 + i] & 15) * d;
            scaled[i + BLOCK / 2] = (float)(blocks[4 + i] >> 4) * d;
        }
        FORCE_ROUNDED(scaled);
        for (int i = 0; i < BLOCK; i++) out[i] = scaled[i] + m;
    }
}

/* Blocks that come apart: w = code * scale, or code * scale + min. The products are exact, as scales have few enough bits. */
static void decode_parts(const type_info *type, float *out, const uint8_t *blocks, uint64_t n) {
    block_parts parts;
    for (; n; n -= type->block_len, out += type->block_len, blocks += type->block_bytes) {
        blocks_split(type, &parts, blocks);
        float scaled[PARTS_LEN];
        for (uint32_t i = 0; i < type->block_len; i++) scaled[i] = (float)parts.codes[i] * parts.scales[i / PARTS_GROUP];
        if (parts.has_mins) {
            FORCE_ROUNDED(scaled);
            for (uint32_t i = 0; i < type->block_len; i++) scaled[i] += parts.mins[i / PARTS_GROUP];
        }
        memcpy(out, scaled, type->block_len * sizeof *out);
    }
}

/* The weights of one block from its absmax. */
static void decode_nf4_block(float *out, const uint8_t *codes, float absmax) {
    for (int i = 0; i < NF4_BLOCK / 2; i++) {
        out[2 * i] = blocks_nf4_values[codes[i] >> 4] * absmax;
        out[2 * i + 1] = blocks_nf4_values[codes[i] & 15] * absmax;
    }
}
/* f32 absmax; u8 n[32]: w = value[code] * absmax */
static void decode_nf4(float *out, const uint8_t *blocks, uint64_t n) {
    for (; n; n -= NF4_BLOCK, out += NF4_BLOCK, blocks += 36) decode_nf4_block(out, blocks + 4, load_f32(blocks));
}

float quant_nf4_absmax(uint8_t code, const uint8_t *tables, uint64_t block) {
    float nested[1] = {blocks_nested_value(code) * load_f32(tables + 4 + block / NF4_NESTED * 4)};
    FORCE_ROUNDED(nested);
    return nested[0] + load_f32(tables);
}
/* u8 absmax; u8 n[32], and the tables behind the matrix */
void quant_decode_nf4_dq(float *out, const uint8_t *blocks, const uint8_t *tables, uint64_t first_block, uint64_t n) {
    for (; n; n -= NF4_BLOCK, out += NF4_BLOCK, blocks += 33, first_block++)
        decode_nf4_block(out, blocks + 1, quant_nf4_absmax(blocks[0], tables, first_block));
}

void quant_decode_int8(float *out, const int8_t *codes, const uint8_t *scales, uint32_t group_size,
                       uint64_t n) {
    for (; n; n -= group_size, scales += 4) {
        float s = load_f32(scales);
        for (uint32_t i = 0; i < group_size; i++) out[i] = (float)codes[i] * s;
        out += group_size;
        codes += group_size;
    }
}

/* ---- encoding ---- */

static void encode_f32(uint8_t *blocks, const float *src, uint64_t n) {
    for (uint64_t i = 0; i < n; i++) store_f32(blocks + 4 * i, src[i]);
}
static void encode_f16(uint8_t *blocks, const float *src, uint64_t n) {
    for (uint64_t i = 0; i < n; i++) store_u16(blocks + 2 * i, f32_to_f16(src[i]));
}
static void encode_bf16(uint8_t *blocks, const float *src, uint64_t n) {
    for (uint64_t i = 0; i < n; i++) store_u16(blocks + 2 * i, f32_to_bf16(src[i]));
}

/* d = max|w| / 127; q = w * (1 / d), halves away from zero. What is not finite becomes 0. */
static void encode_q8_0(uint8_t *blocks, const float *src, uint64_t n) {
    for (; n; n -= BLOCK, src += BLOCK, blocks += Q8_0_BYTES) {
        float d = max_magnitude(src, BLOCK) / 127.0f, id = inverse(d);
        store_u16(blocks, f32_to_f16(d));
        for (int i = 0; i < BLOCK; i++) {
            float x = src[i] * id;
            float magnitude = bits_float(float_bits(x) & ABS_MASK);
            magnitude = magnitude < 128.0f ? magnitude : 0.0f;
            int32_t whole = (int32_t)magnitude;
            whole += (int32_t)((magnitude - (float)whole) * 2.0f);
            blocks[2 + i] = (uint8_t)(x < 0.0f ? -whole : whole);
        }
    }
}

/* Codes 0..15 of 32 scaled weights that already hold their offset; what is not finite becomes 0. */
static void store_nibbles(uint8_t *out, const float *shifted) {
    uint8_t code[BLOCK];
    for (int i = 0; i < BLOCK; i++) {
        float x = shifted[i];
        x = x < 16777216.0f && x > 0.0f ? x : 0.0f;
        int32_t whole = (int32_t)x;
        code[i] = (uint8_t)(whole > 15 ? 15 : whole);
    }
    for (int i = 0; i < BLOCK / 2; i++) out[i] = (uint8_t)(code[i] | code[i + BLOCK / 2] << 4);
}

/* d = (the first weight of largest magnitude) / -8; q = trunc(w * (1 / d) + 8.5), at most 15 */
static void encode_q4_0(uint8_t *blocks, const float *src, uint64_t n) {
    for (; n; n -= BLOCK, src += BLOCK, blocks += Q4_0_BYTES) {
        uint32_t largest = float_bits(max_magnitude(src, BLOCK));
        int first = 0;
        while ((float_bits(src[first]) & ABS_MASK) != largest) first++;
        float d = src[first] / -8.0f, id = inverse(d), scaled[BLOCK];
        for (int i = 0; i < BLOCK; i++) scaled[i] = src[i] * id;
        FORCE_ROUNDED(scaled);
        for (int i = 0; i < BLOCK; i++) scaled[i] += 8.5f;
        store_u16(blocks, f32_to_f16(d));
        store_nibbles(blocks + 2, scaled);
    }
}

/* m = min; d = (max - min) / 15; q = trunc((w - m) * (1 / d) + 0.5), at most 15. Of zeros of both signs
 * the first is the min (numpy's choice, and so gguf-py's, depends on the processor). */
static void encode_q4_1(uint8_t *blocks, const float *src, uint64_t n) {
    for (; n; n -= BLOCK, src += BLOCK, blocks += Q4_1_BYTES) {
        float max = src[0], min = src[0], largest = max_magnitude(src, BLOCK);
        for (int i = 1; i < BLOCK; i++) {
            max = src[i] > max ? src[i] : max;
            min = src[i] < min ? src[i] : min;
        }
        if (float_bits(largest) > INF_BITS) max = min = largest;       /* a NaN stays visible in d and m */
        float d = (max - min) / 15.0f, id = inverse(d), scaled[BLOCK];
        for (int i = 0; i < BLOCK; i++) scaled[i] = (src[i] - min) * id;
        FORCE_ROUNDED(scaled);
        for (int i = 0; i < BLOCK; i++) scaled[i] += 0.5f;
        store_u16(blocks, f32_to_f16(d));
        store_u16(blocks + 2, f32_to_f16(min));
        store_nibbles(blocks + 4, scaled);
    }
}

/* Codes 0..31 of 32 scaled weights that already hold their offset: the fifth bits, then nibbles. */
static void store_fives(uint8_t *out, const float *shifted) {
    uint32_t high = 0;
    for (int i = 0; i < BLOCK; i++) {
        float x = shifted[i];
        x = x < 16777216.0f && x > 0.0f ? x : 0.0f;
        const uint32_t whole = (uint32_t)x, code = whole > 31 ? 31 : whole;
        high |= code >> 4 << i;
        if (i < BLOCK / 2) out[4 + i] = (uint8_t)(code & 15);
        else out[4 + i - BLOCK / 2] |= (uint8_t)((code & 15) << 4);
    }
    store_u16(out, (uint16_t)high);
    store_u16(out + 2, (uint16_t)(high >> 16));
}

/* As Q4_0: d = (the first weight of largest magnitude) / -16 */
static void encode_q5_0(uint8_t *blocks, const float *src, uint64_t n) {
    for (; n; n -= BLOCK, src += BLOCK, blocks += 22) {
        uint32_t largest = float_bits(max_magnitude(src, BLOCK));
        int first = 0;
        while ((float_bits(src[first]) & ABS_MASK) != largest) first++;
        float d = src[first] / -16.0f, id = inverse(d), scaled[BLOCK];
        for (int i = 0; i < BLOCK; i++) scaled[i] = src[i] * id;
        FORCE_ROUNDED(scaled);
        for (int i = 0; i < BLOCK; i++) scaled[i] += 16.5f;
        store_u16(blocks, f32_to_f16(d));
        store_fives(blocks + 2, scaled);
    }
}

/* As Q4_1: d = (max - min) / 31 */
static void encode_q5_1(uint8_t *blocks, const float *src, uint64_t n) {
    for (; n; n -= BLOCK, src += BLOCK, blocks += 24) {
        float max = src[0], min = src[0], largest = max_magnitude(src, BLOCK);
        for (int i = 1; i < BLOCK; i++) {
            max = src[i] > max ? src[i] : max;
            min = src[i] < min ? src[i] : min;
        }
        if (float_bits(largest) > INF_BITS) max = min = largest;       /* a NaN stays visible in d and m */
        float d = (max - min) / 31.0f, id = inverse(d), scaled[BLOCK];
        for (int i = 0; i < BLOCK; i++) scaled[i] = (src[i] - min) * id;
        FORCE_ROUNDED(scaled);
        for (int i = 0; i < BLOCK; i++) scaled[i] += 0.5f;
        store_u16(blocks, f32_to_f16(d));
        store_u16(blocks + 2, f32_to_f16(min));
        store_fives(blocks + 4, scaled);
    }
}

/* e = floor(log2(max|w|)), the logarithm rounded to f32, - 2 + 127; of equally near values the first */
static void encode_mxfp4(uint8_t *blocks, const float *src, uint64_t n) {
    for (; n; n -= BLOCK, src += BLOCK, blocks += 17) {
        const float largest = max_magnitude(src, BLOCK);
        const float log = largest > 0.0f ? floorf((float)log2((double)largest)) + 125.0f : 0.0f;
        blocks[0] = (uint8_t)(log > 0.0f ? log < 254.0f ? log : 254.0f : 0.0f);
        const float d = blocks_e8m0_half(blocks[0]);
        for (int i = 0; i < BLOCK; i++) {
            float best = INFINITY;
            int code = 0;
            for (int v = 0; v < 16; v++) {
                const float error = fabsf(d * (float)blocks_mxfp4_values[v] - src[i]);
                code = error < best ? v : code;
                best = error < best ? error : best;
            }
            if (i < BLOCK / 2) blocks[1 + i] = (uint8_t)code;
            else blocks[1 + i - BLOCK / 2] |= (uint8_t)(code << 4);
        }
    }
}

/* absmax; codes of w * (1 / absmax), a tie between two values to the lower */
static void encode_nf4(uint8_t *blocks, const float *src, uint64_t n) {
    float bounds[15];
    for (int v = 0; v < 15; v++) bounds[v] = (blocks_nf4_values[v] + blocks_nf4_values[v + 1]) / 2.0f;
    for (; n; n -= NF4_BLOCK, src += NF4_BLOCK, blocks += 36) {
        const float absmax = max_magnitude(src, NF4_BLOCK), id = 1.0f / (absmax > 1e-38f ? absmax : 1e-38f);
        int32_t code[NF4_BLOCK] = {0};
        for (int v = 0; v < 15; v++)
            for (int i = 0; i < NF4_BLOCK; i++) code[i] += src[i] * id > bounds[v];
        store_f32(blocks, absmax);
        for (int i = 0; i < NF4_BLOCK / 2; i++) blocks[4 + i] = (uint8_t)(code[2 * i] << 4 | code[2 * i + 1]);
    }
}

/* s = max|w| / 127; q = w / s rounded to nearest even, within +-127 (only a subnormal s can lead beyond);
 * q = 0 where s is 0. */
void quant_encode_int8(int8_t *codes, uint8_t *scales, const float *src, uint32_t group_size, uint64_t n) {
    const float to_even = 12582912.0f;     /* 1.5 * 2^23: adding it leaves no bits for a fraction */
    for (; n; n -= group_size, scales += 4) {
        float s = max_magnitude(src, group_size) / 127.0f;
        store_f32(scales, s);
        for (uint32_t i = 0; i < group_size; i++) {
            float x = s == 0.0f ? 0.0f : src[i] / s;
            x = x == x ? x : 0.0f;
            x = x > -127.0f ? x : -127.0f;
            x = x < 127.0f ? x : 127.0f;
            codes[i] = (int8_t)((x + to_even) - to_even);
        }
        src += group_size;
        codes += group_size;
    }
}

/* ---- the table ---- */

typedef struct codec {
    uint32_t type;
    void (*decode)(float *out, const uint8_t *blocks, uint64_t n);
    void (*encode)(uint8_t *blocks, const float *src, uint64_t n);
} codec;

static const codec CODECS[] = {
    { TYPE_F32, decode_f32, encode_f32 },    { TYPE_F16, decode_f16, encode_f16 },
        { TYPE_BF16, decode_bf16, encode_bf16 },
    { TYPE_Q8_0, decode_q8_0, encode_q8_0 }, { TYPE_Q4_0, decode_q4_0, encode_q4_0 },
        { TYPE_Q4_1, decode_q4_1, encode_q4_1 },
    { TYPE_NF4, decode_nf4, encode_nf4 },     { TYPE_Q5_0, NULL, encode_q5_0 },        { TYPE_Q5_1, NULL, encode_q5_1 },
    { TYPE_MXFP4, NULL, encode_mxfp4 },
};

static const codec *codec_find(const type_info *type) {
    for (size_t i = 0; i < ARRAY_LEN(CODECS); i++)
        if (CODECS[i].type == type->id) return &CODECS[i];
    return NULL;
}

void quant_decode(const type_info *type, float *out, const uint8_t *blocks, uint64_t n) {
    const codec *c = codec_find(type);
    if (c && c->decode) c->decode(out, blocks, n);
    else decode_parts(type, out, blocks, n);
}

bool quant_encode(const type_info *type, uint8_t *blocks, const float *src, uint64_t n) {
    const codec *c = codec_find(type);
    if (!c) return false;
    c->encode(blocks, src, n);
    return true;
}
