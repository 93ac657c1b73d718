/* blocks.c: what the bytes of the quantised block types mean. One function for each type; the layouts are those of docs/format.md's
 * table. It knows neither rows nor panels. Called by quant.c and by the plain kernels. */
#include "blocks.h"

const int8_t blocks_iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
const int8_t blocks_mxfp4_values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
const float blocks_nf4_values[16] = {
    -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f, -0.18477343022823334f,
    -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
    0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f,
};
/* Of all multiples of one unit within a byte those that are nearest to the values in the mean: 0.0017 off, where neighbours are 0.08 to
 * 0.3 apart. */
const int8_t blocks_nf4_codes[16] = {-112, -78, -59, -44, -32, -21, -10, 0, 9, 18, 28, 38, 49, 63, 81, 112};

float blocks_e8m0_half(uint8_t e) {
    const uint32_t bits = e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Between -1 and 1, 64 values for the decade below 1, half as many for each decade below that, the middles of equal steps, both signs;
 * and 0 and 1. */
static const float nested_values[127] = {
    5.50000038e-07f, 3.25000019e-06f, 7.7499999e-06f, 2.12499981e-05f, 4.37499984e-05f, 6.62500024e-05f, 8.87499991e-05f, 0.000156250011f, 0.000268750038f,
    0.000381250022f, 0.000493750034f, 0.000606250076f, 0.00071875006f, 0.000831249985f, 0.000943750085f, 0.00128124992f, 0.00184375001f, 0.00240624999f,
    0.00296874996f, 0.00353124971f, 0.00409374991f, 0.00465624966f, 0.00521875033f, 0.00578125007f, 0.00634374982f, 0.00690625003f, 0.00746874977f,
    0.00803124998f, 0.00859375019f, 0.00915624946f, 0.00971874967f, 0.0114062503f, 0.0142187504f, 0.0170312505f, 0.0198437516f, 0.0226562507f,
    0.0254687499f, 0.028281251f, 0.0310937501f, 0.0339062512f, 0.0367187522f, 0.0395312496f, 0.0423437469f, 0.0451562516f, 0.047968749f,
    0.05078125f, 0.053593751f, 0.0564062484f, 0.0592187531f, 0.0620312504f, 0.0648437515f, 0.0676562563f, 0.0704687461f, 0.0732812509f,
    0.0760937482f, 0.078906253f, 0.0817187577f, 0.0845312476f, 0.0873437524f, 0.0901562497f, 0.0929687545f, 0.0957812592f, 0.0985937491f,
    0.107031256f, 0.12109375f, 0.135156244f, 0.149218753f, 0.163281247f, 0.177343756f, 0.19140625f, 0.205468744f, 0.219531253f,
    0.233593747f, 0.247656241f, 0.26171875f, 0.275781274f, 0.289843738f, 0.303906262f, 0.317968726f, 0.33203125f, 0.346093744f,
    0.360156238f, 0.374218762f, 0.388281226f, 0.40234375f, 0.416406244f, 0.430468738f, 0.444531262f, 0.458593726f, 0.47265625f,
    0.486718714f, 0.500781238f, 0.514843702f, 0.528906226f, 0.54296875f, 0.557031274f, 0.571093798f, 0.585156262f, 0.599218726f,
    0.61328125f, 0.627343774f, 0.641406298f, 0.655468762f, 0.669531226f, 0.68359375f, 0.697656274f, 0.711718798f, 0.725781262f,
    0.739843726f, 0.75390625f, 0.767968774f, 0.782031238f, 0.796093762f, 0.810156226f, 0.82421875f, 0.838281274f, 0.852343738f,
    0.866406262f, 0.880468726f, 0.89453125f, 0.908593774f, 0.922656238f, 0.936718762f, 0.950781226f, 0.96484375f, 0.978906274f,
    0.992968738f,
};
float blocks_nested_value(uint8_t code) {
    if (code == 127) return 0.0f;
    if (code == 255) return 1.0f;
    return code > 127 ? nested_values[code - 128] : -nested_values[126 - code];
}

void blocks_scale_min(uint8_t *scale, uint8_t *min, const uint8_t *scales, uint32_t i) {
    if (i < 4) {
        *scale = scales[i] & 63;
        *min = scales[i + 4] & 63;
    } else {
        *scale = (uint8_t)((scales[i + 4] & 15) | (scales[i - 4] >> 6) << 4);
        *min = (uint8_t)(scales[i + 4] >> 4 | (scales[i] >> 6) << 4);
    }
}

static float half(const uint8_t *p) { return f16_to_f32(load_u16(p)); }

/* Two groups of 16: a block, or a sub-block, of 32. */
static void set_pair(block_parts *parts, uint32_t pair, float scale, float min) {
    parts->scales[2 * pair] = parts->scales[2 * pair + 1] = scale;
    parts->mins[2 * pair] = parts->mins[2 * pair + 1] = min;
}

/* 16 bytes of nibbles, and a bit more of each code from high: bit i for code i. */
static void split_5(int8_t *codes, const uint8_t *nibbles, uint32_t high, int zero) {
    for (uint32_t i = 0; i < 16; i++) {
        codes[i] = (int8_t)(((nibbles[i] & 15) | (high >> i & 1) << 4) - (uint32_t)zero);
        codes[i + 16] = (int8_t)((nibbles[i] >> 4 | (high >> (i + 16) & 1) << 4) - (uint32_t)zero);
    }
}

/* f16 d; u32 h; u8 n[16] */
static void split_q5_0(block_parts *parts, const uint8_t *p) {
    set_pair(parts, 0, half(p), 0.0f);
    split_5(parts->codes, p + 6, load_u32(p + 2), 16);
}
/* f16 d; f16 m; u32 h; u8 n[16] */
static void split_q5_1(block_parts *parts, const uint8_t *p) {
    parts->has_mins = true;
    set_pair(parts, 0, half(p), half(p + 2));
    split_5(parts->codes, p + 8, load_u32(p + 4), 0);
}

static void split_values(int8_t *codes, const uint8_t *nibbles, const int8_t values[16]) {
    for (uint32_t i = 0; i < 16; i++) {
        codes[i] = values[nibbles[i] & 15];
        codes[i + 16] = values[nibbles[i] >> 4];
    }
}
/* f16 d; u8 n[16] */
static void split_iq4_nl(block_parts *parts, const uint8_t *p) {
    set_pair(parts, 0, half(p), 0.0f);
    split_values(parts->codes, p + 2, blocks_iq4_values);
}
/* u8 e; u8 n[16] */
static void split_mxfp4(block_parts *parts, const uint8_t *p) {
    set_pair(parts, 0, blocks_e8m0_half(p[0]), 0.0f);
    split_values(parts->codes, p + 1, blocks_mxfp4_values);
}
/* f32 absmax; u8 n[32], the first of two weights in the high nibble */
static void split_nf4(block_parts *parts, const uint8_t *p) {
    const float scale = load_f32(p) * NF4_UNIT;
    set_pair(parts, 0, scale, 0.0f);
    set_pair(parts, 1, scale, 0.0f);
    for (uint32_t i = 0; i < 32; i++) {
        parts->codes[2 * i] = blocks_nf4_codes[p[4 + i] >> 4];
        parts->codes[2 * i + 1] = blocks_nf4_codes[p[4 + i] & 15];
    }
}
/* f16 d; u16 h; u8 l[4]; u8 n[128]: scale of sub-block b: 4 bits of l, 2 of h */
static void split_iq4_xs(block_parts *parts, const uint8_t *p) {
    const float d = half(p);
    for (uint32_t b = 0; b < 8; b++) {
        const uint32_t low = p[4 + b / 2] >> 4 * (b % 2) & 15u, high = (uint32_t)load_u16(p + 2) >> 2 * b & 3u;
        set_pair(parts, b, d * (float)((int32_t)(low | high << 4) - 32), 0.0f);
        split_values(parts->codes + 32 * b, p + 8 + 16 * b, blocks_iq4_values);
    }
}

/* u8 s[16]; u8 q[64]; f16 d; f16 m: 4 bits of scale, 4 of min; code k of half h and quarter c of it: bits 2c of q[32h + k % 32] */
static void split_q2_k(block_parts *parts, const uint8_t *p) {
    const float d = half(p + 80), m = half(p + 82);
    parts->has_mins = true;
    for (uint32_t g = 0; g < 16; g++) {
        parts->scales[g] = d * (float)(p[g] & 15);
        parts->mins[g] = -(m * (float)(p[g] >> 4));
    }
    for (uint32_t k = 0; k < 256; k++) parts->codes[k] = (int8_t)(p[16 + k / 128 * 32 + k % 32] >> k % 128 / 32 * 2 & 3);
}
/* u8 h[32]; u8 q[64]; u8 s[12]; f16 d: low bits as Q2_K's, bit k / 32 of h[k % 32] the third; scales of 6 bits */
static void split_q3_k(block_parts *parts, const uint8_t *p) {
    const uint8_t *s = p + 96;
    const float d = half(p + 108);
    for (uint32_t g = 0; g < 16; g++) {
        const uint32_t low = s[g % 8] >> 4 * (g / 8) & 15u, high = s[8 + g % 4] >> 2 * (g / 4) & 3u;
        parts->scales[g] = d * (float)((int32_t)(low | high << 4) - 32);
        parts->mins[g] = 0.0f;
    }
    for (uint32_t k = 0; k < 256; k++) {
        const int32_t low = p[32 + k / 128 * 32 + k % 32] >> k % 128 / 32 * 2 & 3, high = p[k % 32] >> k / 32 & 1;
        parts->codes[k] = (int8_t)(low + 4 * high - 4);
    }
}

/* f16 d; f16 m; u8 s[12]; Q5_K: u8 h[32]; u8 n[128]: 64 codes in 32 bytes, low nibbles first */
static void split_q45_k(block_parts *parts, const uint8_t *p, bool five) {
    const float d = half(p), m = half(p + 2);
    const uint8_t *high = p + 16, *nibbles = five ? p + 48 : p + 16;
    parts->has_mins = true;
    for (uint32_t b = 0; b < 8; b++) {
        uint8_t scale, min;
        blocks_scale_min(&scale, &min, p + 4, b);
        set_pair(parts, b, d * (float)scale, -(m * (float)min));
        for (uint32_t i = 0; i < 32; i++) {
            const int32_t low = nibbles[b / 2 * 32 + i] >> 4 * (b % 2) & 15;
            parts->codes[32 * b + i] = (int8_t)(five ? low | (high[i] >> b & 1) << 4 : low);
        }
    }
}
/* u8 n[128]; u8 h[64]; i8 s[16]; f16 d: of each half, quarter c: nibble c / 2 of n[64 half + 32 (c % 2) + i], bits 2c of h */
static void split_q6_k(block_parts *parts, const uint8_t *p) {
    const float d = half(p + 208);
    for (uint32_t g = 0; g < 16; g++) {
        parts->scales[g] = d * (float)(int8_t)p[192 + g];
        parts->mins[g] = 0.0f;
    }
    for (uint32_t k = 0; k < 256; k++) {
        const uint32_t h = k / 128, c = k % 128 / 32, i = k % 32;
        const int32_t low = p[64 * h + 32 * (c % 2) + i] >> 4 * (c / 2) & 15, high = p[128 + 32 * h + i] >> 2 * c & 3;
        parts->codes[k] = (int8_t)((low | high << 4) - 32);
    }
}

bool blocks_split(const type_info *type, block_parts *parts, const uint8_t *block) {
    parts->has_mins = false;
    switch (type->id) {
    case TYPE_Q5_0: split_q5_0(parts, block); return true;
    case TYPE_Q5_1: split_q5_1(parts, block); return true;
    case TYPE_Q2_K: split_q2_k(parts, block); return true;
    case TYPE_Q3_K: split_q3_k(parts, block); return true;
    case TYPE_Q4_K: split_q45_k(parts, block, false); return true;
    case TYPE_Q5_K: split_q45_k(parts, block, true); return true;
    case TYPE_Q6_K: split_q6_k(parts, block); return true;
    case TYPE_IQ4_NL: split_iq4_nl(parts, block); return true;
    case TYPE_IQ4_XS: split_iq4_xs(parts, block); return true;
    case TYPE_MXFP4: split_mxfp4(parts, block); return true;
    case TYPE_NF4: split_nf4(parts, block); return true;
    default: return false;
    }
}
