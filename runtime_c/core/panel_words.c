/* panel_words.c: a row's blocks as the 32-bit words of its superblock and back. Types of 256 weights keep their own bytes, word by word;
 * the shorter blocks are put in an order in which a word holds 4 neighbouring columns of each block. It moves bits and computes nothing. */
#include "panel_words.h"

#include "stream16.h"

enum { WORD = 4, LINE = PANEL_ROWS * WORD, WORDS_MAX = 53, NIBBLE_WORDS = 8 };
#define LOW 0x0f0f0f0fu

bool panel_is_words(const type_info *type) {
    switch (type->id) {
    case TYPE_Q5_0: case TYPE_Q5_1: case TYPE_Q2_K: case TYPE_Q3_K: case TYPE_Q4_K: case TYPE_Q5_K: case TYPE_Q6_K: case TYPE_IQ4_NL:
    case TYPE_IQ4_XS: case TYPE_MXFP4: case TYPE_NF4: return true;
    default: return false;
    }
}

/* Where word w of the 16 rows stands in a superblock, in lines. */
static uint32_t line_of(const type_info *type, uint32_t w) {
    switch (type->id) {
    case TYPE_Q5_K: return (uint32_t)stream16_q5_k((int)w);
    case TYPE_Q6_K: return (uint32_t)stream16_q6_k((int)w);
    case TYPE_IQ4_XS: return (uint32_t)stream16_iq4_xs((int)w);
    default: return w;
    }
}

static uint32_t load_word(const uint8_t *p) {
    uint32_t word;
    memcpy(&word, p, WORD);
    return word;
}
static void store_word(uint8_t *p, uint32_t word) { memcpy(p, &word, WORD); }

/* Bit 4j + i of a block of 32 to bit j of byte i, and back. */
static uint32_t spread_bits(uint32_t bits) {
    uint32_t out = 0;
    for (uint32_t j = 0; j < 8; j++)
        for (uint32_t i = 0; i < 4; i++) out |= (bits >> (4 * j + i) & 1) << (8 * i + j);
    return out;
}
static uint32_t gather_bits(uint32_t word) {
    uint32_t out = 0;
    for (uint32_t j = 0; j < 8; j++)
        for (uint32_t i = 0; i < 4; i++) out |= (word >> (8 * i + j) & 1) << (4 * j + i);
    return out;
}

/* 16 bytes of nibbles of two blocks (second NULL: none): word j holds columns 4j .. 4j+3 of the first in low nibbles, of the second
 * in high ones. */
static void join_nibbles(uint32_t words[NIBBLE_WORDS], const uint8_t *first, const uint8_t *second) {
    for (uint32_t w = 0; w < 4; w++) {
        const uint32_t a = load_word(first + w * WORD), b = second ? load_word(second + w * WORD) : 0;
        words[w] = (a & LOW) | (b & LOW) << 4;
        words[w + 4] = (a >> 4 & LOW) | (b & LOW << 4);
    }
}
static void part_nibbles(uint8_t *dst, const uint32_t words[NIBBLE_WORDS], uint32_t block) {
    for (uint32_t w = 0; w < 4; w++)
        store_word(dst + w * WORD, (words[w] >> 4 * block & LOW) | (words[w + 4] >> 4 * block & LOW) << 4);
}

/* How blocks of 32 lie in words: `halves` f16 fields, a word each for both blocks; then, of 5-bit types, a word of high bits each. */
typedef struct short_form {
    uint32_t halves;
    bool high;
} short_form;
static short_form short_form_of(uint32_t id) {
    return (short_form){id == TYPE_Q5_1 ? 2 : 1, id == TYPE_Q5_0 || id == TYPE_Q5_1};
}

static void words_short(const type_info *type, uint32_t *words, const uint8_t *src, uint32_t columns) {
    const short_form f = short_form_of(type->id);
    const uint8_t *second = columns > 32 ? src + type->block_bytes : NULL;
    for (uint32_t i = 0; i < f.halves; i++)
        *words++ = load_u16(src + 2 * i) | (second ? (uint32_t)load_u16(second + 2 * i) << 16 : 0);
    const uint32_t at = 2 * f.halves;
    if (f.high) {
        *words++ = spread_bits(load_word(src + at));
        *words++ = second ? spread_bits(load_word(second + at)) : 0;
    }
    const uint32_t head = at + (f.high ? WORD : 0);
    join_nibbles(words, src + head, second ? second + head : NULL);
}
static void blocks_short(const type_info *type, uint8_t *dst, const uint32_t *words, uint32_t columns) {
    const short_form f = short_form_of(type->id);
    for (uint32_t b = 0; b < columns / 32; b++, dst += type->block_bytes) {
        uint8_t *p = dst;
        for (uint32_t i = 0; i < f.halves; i++, p += 2) {
            const uint16_t half = (uint16_t)(words[i] >> 16 * b);
            memcpy(p, &half, 2);
        }
        if (f.high) {
            store_word(p, gather_bits(words[f.halves + b]));
            p += WORD;
        }
        part_nibbles(p, words + f.halves + (f.high ? 2 : 0), b);
    }
}

/* Four blocks: their exponents in a word, then nibbles by twos. */
static void words_mxfp4(uint32_t *words, const uint8_t *src, uint32_t columns) {
    const uint32_t n = columns / 32;
    for (uint32_t b = 0; b < n; b++) words[0] |= (uint32_t)src[17 * b] << 8 * b;
    for (uint32_t b = 0; b < n; b += 2)
        join_nibbles(words + 1 + b / 2 * NIBBLE_WORDS, src + 17 * b + 1, b + 1 < n ? src + 17 * (b + 1) + 1 : NULL);
}
static void blocks_mxfp4(uint8_t *dst, const uint32_t *words, uint32_t columns) {
    for (uint32_t b = 0; b < columns / 32; b++, dst += 17) {
        dst[0] = (uint8_t)(words[0] >> 8 * b);
        part_nibbles(dst + 1, words + 1 + b / 2 * NIBBLE_WORDS, b % 2);
    }
}

/* absmax, then codes 4j .. 4j+3 in low nibbles, 32 columns later in high ones. */
static uint32_t nf4_code(const uint8_t *nibbles, uint32_t k) { return nibbles[k / 2] >> (k % 2 ? 0 : 4) & 15u; }
static void words_nf4(uint32_t *words, const uint8_t *src) {
    words[0] = load_word(src);
    for (uint32_t k = 0; k < 64; k++) words[1 + k % 32 / 4] |= nf4_code(src + WORD, k) << (8 * (k % 4) + 4 * (k / 32));
}
static void blocks_nf4(uint8_t *dst, const uint32_t *words) {
    store_word(dst, words[0]);
    for (uint32_t i = 0; i < 32; i++) {
        const uint32_t k = 2 * i, word = words[1 + k % 32 / 4] >> 4 * (k / 32);
        dst[WORD + i] = (uint8_t)((word >> 8 * (k % 4) & 15) << 4 | (word >> 8 * (k % 4 + 1) & 15));
    }
}

void panel_words_pack(const type_info *type, uint8_t *dst, const uint8_t *src, uint64_t stride, uint32_t rows, uint32_t columns) {
    const uint32_t n_words = type->super_bytes / LINE, whole = type->block_bytes / WORD;
    uint32_t lines[WORDS_MAX];
    for (uint32_t w = 0; w < n_words; w++) lines[w] = line_of(type, w);
    if (rows < PANEL_ROWS) memset(dst, 0, type->super_bytes);
    if (type->block_len == 256 && rows == PANEL_ROWS) {
        for (uint32_t w = 0; w < whole; w++)
            for (uint32_t r = 0; r < PANEL_ROWS; r++)
                store_word(dst + lines[w] * LINE + r * WORD, load_word(src + r * stride + w * WORD));
        if (type->block_bytes % WORD)
            for (uint32_t r = 0; r < PANEL_ROWS; r++)
                store_word(dst + lines[whole] * LINE + r * WORD, load_u16(src + r * stride + whole * WORD));
        return;
    }
    for (uint32_t r = 0; r < rows; r++, src += stride) {
        uint32_t words[WORDS_MAX] = {0};
        if (type->block_len == 256) memcpy(words, src, type->block_bytes);
        else if (type->id == TYPE_MXFP4) words_mxfp4(words, src, columns);
        else if (type->id == TYPE_NF4) words_nf4(words, src);
        else words_short(type, words, src, columns);
        for (uint32_t w = 0; w < n_words; w++) store_word(dst + lines[w] * LINE + r * WORD, words[w]);
    }
}

void panel_words_take(const type_info *type, uint8_t *dst, const uint8_t *super, uint32_t row, uint32_t columns) {
    const uint32_t n_words = type->super_bytes / LINE;
    uint32_t words[WORDS_MAX];
    for (uint32_t w = 0; w < n_words; w++) words[w] = load_word(super + line_of(type, w) * LINE + row * WORD);
    if (type->block_len == 256) memcpy(dst, words, type->block_bytes);
    else if (type->id == TYPE_MXFP4) blocks_mxfp4(dst, words, columns);
    else if (type->id == TYPE_NF4) blocks_nf4(dst, words);
    else blocks_short(type, dst, words, columns);
}

void panel_words_stream(const type_info *type, uint8_t *dst, const uint8_t *super) {
    for (uint32_t w = 0; w < type->super_bytes / LINE; w++) memcpy(dst + line_of(type, w) * LINE, super + w * LINE, LINE);
}
