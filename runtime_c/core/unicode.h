/* unicode.h: UTF-8 and the general categories of Unicode 16.0, as Hugging Face's tokenizers sees them. It
 * knows nothing of tokens. Text need not be valid: a byte that begins no valid sequence is a character of its
 * own that belongs to no category. */
#ifndef AK42_UNICODE_H
#define AK42_UNICODE_H

#include "base.h"

enum unicode_category {
    CATEGORY_CN, CATEGORY_LU, CATEGORY_LL, CATEGORY_LT, CATEGORY_LM, CATEGORY_LO,
    CATEGORY_MN, CATEGORY_MC, CATEGORY_ME, CATEGORY_ND, CATEGORY_NL, CATEGORY_NO,
    CATEGORY_PC, CATEGORY_PD, CATEGORY_PS, CATEGORY_PE, CATEGORY_PI, CATEGORY_PF, CATEGORY_PO,
    CATEGORY_SM, CATEGORY_SC, CATEGORY_SK, CATEGORY_SO, CATEGORY_ZS, CATEGORY_ZL, CATEGORY_ZP,
    CATEGORY_CC, CATEGORY_CF, CATEGORY_CO, CATEGORY_CS,
    CATEGORY_COUNT
};

enum {
    UNICODE_FLAT = 0x20000,        /* code points that the map holds one by one: planes 0 and 1 */
    UNICODE_END = 0x110000,        /* one past the last code point */
    UNICODE_INVALID = 0x110000     /* + the byte: what utf8_next returns for a byte of no valid sequence */
};

/* Category by code point, expanded from unicode_table.c once per tokenizer. */
typedef struct unicode_map {
    uint8_t category[UNICODE_FLAT];
} unicode_map;

/* unicode_table.c */
extern const uint32_t unicode_runs[], unicode_n_runs, unicode_marks[], unicode_n_marks;

void unicode_expand(unicode_map *map);
/* The category of any number; CATEGORY_CN past the last code point. */
uint32_t unicode_category_beyond(uint32_t code_point);
static inline uint32_t unicode_category(const unicode_map *map, uint32_t code_point) {
    return code_point < UNICODE_FLAT ? map->category[code_point] : unicode_category_beyond(code_point);
}

/* White_Space; Nd, Nl and No; what an added token's single_word looks at; what Punctuation splits off. */
bool unicode_is_space(uint32_t code_point);
bool unicode_is_number(const unicode_map *map, uint32_t code_point);
bool unicode_is_word(const unicode_map *map, uint32_t code_point);
bool unicode_is_mark(uint32_t code_point);

/* The character at p < end and its length in bytes; an invalid byte is UNICODE_INVALID + byte, length 1. */
uint32_t utf8_next(const uint8_t *p, const uint8_t *end, uint32_t *length);
/* The first byte of the character that ends before p > begin. */
const uint8_t *utf8_back(const uint8_t *begin, const uint8_t *p);
/* Writes a valid code point (1 to 4 bytes), or the byte of an invalid one, and returns the length. */
uint32_t utf8_put(uint8_t *out, uint32_t code_point);

enum { UNICODE_NFC_GROWTH = 4 };   /* code points that one decomposes to at most */

/* Normalisation form C of size bytes of text as code points; returns how many. points has 2 *
 * UNICODE_NFC_GROWTH * size places. */
uint32_t unicode_nfc(uint32_t *points, const uint8_t *text, uint32_t size);

#endif
