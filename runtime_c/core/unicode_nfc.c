/* unicode_nfc.c: Unicode normalisation form C over unicode_nfc_table.c, with the Unicode version that Hugging
 * Face's tokenizers normalises with. Called by the NFC step of a tokenizer. */
#include "unicode.h"

/* unicode_nfc_table.c */
extern const uint32_t unicode_decompositions[][3], unicode_n_decompositions;
extern const uint32_t unicode_combining[][3], unicode_n_combining;
extern const uint16_t unicode_compositions[];
extern const uint32_t unicode_n_compositions;

enum {
    HANGUL_S = 0xAC00, HANGUL_L = 0x1100, HANGUL_V = 0x1161, HANGUL_T = 0x11A7,
    HANGUL_N_L = 19, HANGUL_N_V = 21, HANGUL_N_T = 28, HANGUL_N_S = HANGUL_N_L * HANGUL_N_V * HANGUL_N_T,
    CLASS_SHIFT = 24,              /* a point carries its combining class above its 21 bits */
    POINT_MASK = (1 << CLASS_SHIFT) - 1,
    INSERTION_MAX = 16             /* marks behind a letter up to which insertion sort will do */
};

static uint32_t combining_class(uint32_t c) {
    uint32_t low = 0, high = unicode_n_combining;
    if (c < unicode_combining[0][0]) return 0;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (unicode_combining[middle][0] <= c) low = middle;
        else high = middle;
    }
    return c <= unicode_combining[low][1] ? unicode_combining[low][2] : 0;
}

static const uint32_t *decomposition(uint32_t c) {
    uint32_t low = 0, high = unicode_n_decompositions;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (unicode_decompositions[middle][0] <= c) low = middle;
        else high = middle;
    }
    return unicode_decompositions[low][0] == c ? unicode_decompositions[low] : NULL;
}

/* What first and second make together; 0: nothing. */
static uint32_t composition(uint32_t first, uint32_t second) {
    if (first - HANGUL_L < HANGUL_N_L && second - HANGUL_V < HANGUL_N_V)
        return HANGUL_S + ((first - HANGUL_L) * HANGUL_N_V + (second - HANGUL_V)) * HANGUL_N_T;
    if (first - HANGUL_S < HANGUL_N_S && (first - HANGUL_S) % HANGUL_N_T == 0 && second > HANGUL_T &&
        second < HANGUL_T + HANGUL_N_T)
        return first + (second - HANGUL_T);
    uint32_t low = 0, high = unicode_n_compositions;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const uint32_t *entry = unicode_decompositions[unicode_compositions[middle]];
        if (entry[1] == first && entry[2] == second) return entry[0];
        if (entry[1] < first || (entry[1] == first && entry[2] < second)) low = middle + 1;
        else high = middle;
    }
    return 0;
}

/* Appends the full decomposition of c, at most UNICODE_NFC_GROWTH points. The first part may decompose again,
 * the second may not. */
static uint32_t decompose(uint32_t *out, uint32_t c) {
    uint32_t stack[UNICODE_NFC_GROWTH], n_stack = 0, n = 0;
    const uint32_t *parts;
    if (c - HANGUL_S < HANGUL_N_S) {
        uint32_t s = c - HANGUL_S;
        out[n++] = HANGUL_L + s / (HANGUL_N_V * HANGUL_N_T);
        out[n++] = HANGUL_V + s % (HANGUL_N_V * HANGUL_N_T) / HANGUL_N_T;
        if (s % HANGUL_N_T) out[n++] = HANGUL_T + s % HANGUL_N_T;
        return n;
    }
    while (c >= 0xC0 && n_stack < UNICODE_NFC_GROWTH && (parts = decomposition(c))) {
        if (parts[2]) stack[n_stack++] = parts[2];
        c = parts[1];
    }
    out[n++] = c;
    while (n_stack) out[n++] = stack[--n_stack];
    return n;
}

/* Marks behind a letter into the order of their classes, equal classes as they stood. room has n places. */
static void sort_marks(uint32_t *marks, uint32_t n, uint32_t *room) {
    if (n <= INSERTION_MAX) {
        for (uint32_t i = 1; i < n; i++) {
            uint32_t moving = marks[i], at = i;
            for (; at > 0 && marks[at - 1] >> CLASS_SHIFT > moving >> CLASS_SHIFT; at--)
                marks[at] = marks[at - 1];
            marks[at] = moving;
        }
        return;
    }
    uint32_t begins[257] = {0};
    for (uint32_t i = 0; i < n; i++) begins[(marks[i] >> CLASS_SHIFT) + 1]++;
    for (uint32_t k = 1; k < 257; k++) begins[k] += begins[k - 1];
    for (uint32_t i = 0; i < n; i++) room[begins[marks[i] >> CLASS_SHIFT]++] = marks[i];
    memcpy(marks, room, n * sizeof *marks);
}

static uint32_t compose(uint32_t *points, uint32_t n) {
    uint32_t n_out = 0, starter = 0, last = 0;
    bool has_starter = false, adjacent = false;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t c = points[i] & POINT_MASK, class = points[i] >> CLASS_SHIFT, whole = 0;
        /* A mark behind one of the same or a higher class does not reach the letter. */
        if (has_starter && (adjacent || last < class)) whole = composition(points[starter], c);
        if (whole) {
            points[starter] = whole;
            continue;
        }
        adjacent = class == 0;
        last = class;
        if (adjacent) {
            starter = n_out;
            has_starter = true;
        }
        points[n_out++] = c;
    }
    return n_out;
}

uint32_t unicode_nfc(uint32_t *points, const uint8_t *text, uint32_t size) {
    uint32_t n = 0, length, *room = points + (size_t)UNICODE_NFC_GROWTH * size;
    for (uint32_t at = 0; at < size; at += length)
        n += decompose(points + n, utf8_next(text + at, text + size, &length));
    for (uint32_t i = 0; i < n; i++) points[i] |= combining_class(points[i]) << CLASS_SHIFT;
    for (uint32_t i = 0, end; i < n; i = end) {
        end = i + 1;
        if (!(points[i] >> CLASS_SHIFT)) continue;
        while (end < n && points[end] >> CLASS_SHIFT) end++;
        sort_marks(points + i, end - i, room);
    }
    return compose(points, n);
}
