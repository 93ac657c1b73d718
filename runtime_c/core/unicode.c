/* unicode.c: UTF-8 decoding and category look-ups over unicode_table.c. Used by the regular expressions and
 * the tokenizer. */
#include "unicode.h"

/* The last of n ascending keys (each entry shifted right) that is <= value; entry 0 is. */
static uint32_t find_run(const uint32_t *entries, uint32_t n, uint32_t shift, uint32_t value) {
    uint32_t low = 0, high = n;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (entries[middle] >> shift <= value) low = middle;
        else high = middle;
    }
    return low;
}

void unicode_expand(unicode_map *map) {
    for (uint32_t run = 0; run < unicode_n_runs; run++) {
        uint32_t begin = unicode_runs[run] >> 5;
        uint32_t end = run + 1 < unicode_n_runs ? unicode_runs[run + 1] >> 5 : UNICODE_END;
        if (begin >= UNICODE_FLAT) break;
        if (end > UNICODE_FLAT) end = UNICODE_FLAT;
        memset(map->category + begin, (int)(unicode_runs[run] & 31), end - begin);
    }
}

uint32_t unicode_category_beyond(uint32_t code_point) {
    if (code_point >= UNICODE_END) return CATEGORY_CN;
    return unicode_runs[find_run(unicode_runs, unicode_n_runs, 5, code_point)] & 31;
}

bool unicode_is_space(uint32_t c) {
    if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13);
    return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
           c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool unicode_is_number(const unicode_map *map, uint32_t c) {
    uint32_t category = unicode_category(map, c);
    return category >= CATEGORY_ND && category <= CATEGORY_NO;
}

bool unicode_is_word(const unicode_map *map, uint32_t c) {
    uint32_t category = unicode_category(map, c);
    if (category >= CATEGORY_LU && category <= CATEGORY_NL) return true;
    /* Connectors, the two joiners, and the circled and squared letters that are alphabetic though they are
     * symbols. */
    return category == CATEGORY_PC || c == 0x200C || c == 0x200D || (c >= 0x24B6 && c <= 0x24E9) ||
           (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
}

bool unicode_is_mark(uint32_t c) {
    if (c < unicode_marks[0] >> 8) return false;
    uint32_t entry = unicode_marks[find_run(unicode_marks, unicode_n_marks, 8, c)];
    return c - (entry >> 8) <= (entry & 255);
}

uint32_t utf8_next(const uint8_t *p, const uint8_t *end, uint32_t *length) {
    uint32_t first = p[0];
    size_t left = (size_t)(end - p);
    *length = 1;
    if (first < 0x80) return first;
    if (first >= 0xC2 && first < 0xE0 && left >= 2 && (p[1] & 0xC0) == 0x80) {
        *length = 2;
        return (first & 0x1F) << 6 | (p[1] & 0x3Fu);
    }
    if (first >= 0xE0 && first < 0xF0 && left >= 3 && (p[1] & 0xC0) == 0x80 && (p[2] & 0xC0) == 0x80) {
        uint32_t c = (first & 0x0F) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu);
        if (c >= 0x800 && (c < 0xD800 || c > 0xDFFF)) {
            *length = 3;
            return c;
        }
    }
    if (first >= 0xF0 && first < 0xF5 && left >= 4 && (p[1] & 0xC0) == 0x80 && (p[2] & 0xC0) == 0x80 &&
        (p[3] & 0xC0) == 0x80) {
        uint32_t c = (first & 0x07) << 18 | (p[1] & 0x3Fu) << 12 | (p[2] & 0x3Fu) << 6 | (p[3] & 0x3Fu);
        if (c >= 0x10000 && c < UNICODE_END) {
            *length = 4;
            return c;
        }
    }
    return UNICODE_INVALID + first;
}

const uint8_t *utf8_back(const uint8_t *begin, const uint8_t *p) {
    if (p[-1] < 0x80) return p - 1;
    for (uint32_t back = 2; back <= 4 && (size_t)(p - begin) >= back; back++) {
        uint32_t length;
        utf8_next(p - back, p, &length);
        if (length == back) return p - back;
    }
    return p - 1;
}

uint32_t utf8_put(uint8_t *out, uint32_t c) {
    if (c < 0x80 || c >= UNICODE_INVALID) {
        out[0] = (uint8_t)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (uint8_t)(0xC0 | c >> 6);
        out[1] = (uint8_t)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (uint8_t)(0xE0 | c >> 12);
        out[1] = (uint8_t)(0x80 | (c >> 6 & 0x3F));
        out[2] = (uint8_t)(0x80 | (c & 0x3F));
        return 3;
    }
    out[0] = (uint8_t)(0xF0 | c >> 18);
    out[1] = (uint8_t)(0x80 | (c >> 12 & 0x3F));
    out[2] = (uint8_t)(0x80 | (c >> 6 & 0x3F));
    out[3] = (uint8_t)(0x80 | (c & 0x3F));
    return 4;
}
