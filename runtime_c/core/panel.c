/* panel.c: the panel16 layout of docs/format.md: row-major blocks to panels of 16 rows and back, and
 * single rows as f32. It moves bytes and never computes with them; types whose superblock is words of whole
 * blocks are panel_words.c's. Called at load (packing), for embeddings (rows) and by converters and tests.
 *
 * One idea serves every other type: a superblock (16 rows, 64 columns) holds a table of scale cells and a table
 * of 4-byte words, both with the 16 rows side by side. A word of a row is 1 f32, 2 halves, 4 codes or 4 +
 * 4 nibbles. */
#include "panel.h"

#include "panel_words.h"
#include "quant.h"

enum { WORD = 4, CELLS_MAX = 16, ROW_SUPER_MAX = SUPER_K * 4 };
enum { NF4_BYTES = 36, NF4_DQ_BYTES = 33 };

typedef enum word_kind {
    WORD_PLAIN,                    /* as in the row */
    WORD_FLIPPED,                  /* i8 codes, stored as code + 128 */
    WORD_NIBBLES                   /* low nibbles of the first block, high nibbles of the second */
} word_kind;

/* How a type's superblock is laid out. */
typedef struct plan {
    word_kind kind;
    uint32_t columns_word;         /* columns of a word */
    uint32_t cells;                /* scale (and min) cells for each row: scales of all blocks, then mins */
    uint32_t cell_bytes;
    uint32_t cell_columns;         /* columns that one cell serves */
    uint32_t block_fields;         /* cells of a block in the row-major form: 1 d, 2 d and m */
    uint32_t super_bytes;
    uint8_t padding;               /* byte of a word past the matrix's end */
} plan;

static plan plan_of(const type_info *type, uint32_t group_size) {
    uint32_t super_bytes = (uint32_t)type_super_bytes(type, group_size);
    switch (type->id) {
    case TYPE_F32: return (plan){ WORD_PLAIN, 1, 0, 0, 0, 0, super_bytes, 0 };
    case TYPE_F16:
    case TYPE_BF16: return (plan){ WORD_PLAIN, 2, 0, 0, 0, 0, super_bytes, 0 };
    case TYPE_Q8_0: return (plan){ WORD_FLIPPED, 4, 2, 2, 32, 1, super_bytes, 128 };
    case TYPE_Q4_0: return (plan){ WORD_NIBBLES, 8, 2, 2, 32, 1, super_bytes, 0x88 };
    case TYPE_Q4_1: return (plan){ WORD_NIBBLES, 8, 4, 2, 32, 2, super_bytes, 0 };
    default:
        if (panel_is_words(type)) return (plan){ .super_bytes = super_bytes };
        return (plan){ WORD_FLIPPED, 4, SUPER_K / group_size, 4, group_size, 1, super_bytes, 128 };
    }
}

static uint32_t load_word(const uint8_t *p) {
    uint32_t word;
    memcpy(&word, p, WORD);
    return word;
}
static void store_word(uint8_t *p, uint32_t word) { memcpy(p, &word, WORD); }

#define FLIP 0x80808080u
#define LOW 0x0f0f0f0fu
#define HIGH 0xf0f0f0f0u

/* The bytes of rows' words, `bytes` of each, from src rows that are stride apart. */
static void pack_words(uint8_t *dst, const uint8_t *src, uint64_t stride, uint32_t rows, uint32_t bytes,
                       uint32_t flip) {
    uint32_t whole = bytes / WORD;
    if (rows == PANEL_ROWS) {
        for (uint32_t w = 0; w < whole; w++)
            for (uint32_t r = 0; r < PANEL_ROWS; r++)
                store_word(dst + (w * PANEL_ROWS + r) * WORD, load_word(src + r * stride + w * WORD) ^ flip);
    } else {
        for (uint32_t r = 0; r < rows; r++)
            for (uint32_t w = 0; w < whole; w++)
                store_word(dst + (w * PANEL_ROWS + r) * WORD, load_word(src + r * stride + w * WORD) ^ flip);
    }
    if (bytes % WORD)              /* 16-bit floats with an odd number of columns */
        for (uint32_t r = 0; r < rows; r++)
            memcpy(dst + (whole * PANEL_ROWS + r) * WORD, src + r * stride + whole * WORD, bytes % WORD);
}

/* Words 0..3 hold weights 0..15 of both blocks, words 4..7 weights 16..31. first and second point at 16
 * bytes of codes. */
static void pack_nibbles(uint8_t *dst, const uint8_t *first, const uint8_t *second) {
    for (uint32_t w = 0; w < 4; w++) {
        uint32_t a = load_word(first + w * WORD), b = load_word(second + w * WORD);
        store_word(dst + w * PANEL_ROWS * WORD, (a & LOW) | (b & LOW) << 4);
        store_word(dst + (w + 4) * PANEL_ROWS * WORD, (a >> 4 & LOW) | (b & HIGH));
    }
}

static uint32_t min_u32(uint64_t a, uint32_t b) { return a < b ? (uint32_t)a : b; }

/* ---- one superblock: `rows` rows and `columns` columns of the matrix lie in it ---- */

/* Floats and int8 groups: src points at the first row's first word, scales at its first group's scale. */
static void pack_plain(const plan *p, uint8_t *dst, const uint8_t *src, uint64_t stride,
                       const uint8_t *scales, uint64_t scale_stride, uint32_t rows, uint32_t columns) {
    uint32_t cells_bytes = p->cells * PANEL_ROWS * p->cell_bytes;
    if (rows < PANEL_ROWS || columns < SUPER_K) {
        memset(dst, 0, cells_bytes);
        memset(dst + cells_bytes, p->padding, p->super_bytes - cells_bytes);
    }
    if (p->cells)
        for (uint32_t r = 0; r < rows; r++)
            for (uint32_t c = 0; c < columns / p->cell_columns; c++)
                store_word(dst + (c * PANEL_ROWS + r) * WORD,
                           load_word(scales + r * scale_stride + c * WORD));
    pack_words(dst + cells_bytes, src, stride, rows, columns * WORD / p->columns_word,
               p->kind == WORD_FLIPPED ? FLIP : 0);
}

/* Blocks of 32: src points at the first row's first block. */
static void pack_blocks(const type_info *type, const plan *p, uint8_t *dst, const uint8_t *src,
                        uint64_t stride, uint32_t rows, uint32_t columns) {
    uint32_t cells_bytes = p->cells * PANEL_ROWS * p->cell_bytes, blocks = columns / type->block_len;
    uint32_t head = p->block_fields * 2;
    if (rows < PANEL_ROWS || blocks < 2) {
        memset(dst, 0, cells_bytes);
        memset(dst + cells_bytes, p->padding, p->super_bytes - cells_bytes);
    }
    uint8_t absent[16];            /* codes of a block past the row's end */
    memset(absent, p->padding, sizeof absent);
    for (uint32_t r = 0; r < rows; r++) {
        const uint8_t *block = src + r * stride;
        for (uint32_t b = 0; b < blocks; b++)
            for (uint32_t f = 0; f < p->block_fields; f++)
                memcpy(dst + ((f * 2 + b) * PANEL_ROWS + r) * 2, block + b * type->block_bytes + f * 2, 2);
        if (p->kind == WORD_NIBBLES) {
            uint8_t *words = dst + cells_bytes + r * WORD;
            pack_nibbles(words, block + head, blocks > 1 ? block + type->block_bytes + head : absent);
        }
    }
    if (p->kind == WORD_FLIPPED)
        for (uint32_t b = 0; b < blocks; b++)
            pack_words(dst + cells_bytes + b * 8 * PANEL_ROWS * WORD, src + b * type->block_bytes + head,
                       stride, rows, 32, FLIP);
}

/* The reverse for one row: its codes (and, in separate cells, its scales) as in the row-major form. */
static void take_plain(const plan *p, uint8_t *dst, uint8_t *scales, const uint8_t *super, uint32_t row,
                       uint32_t columns) {
    const uint8_t *words = super + p->cells * PANEL_ROWS * p->cell_bytes + row * WORD;
    uint32_t flip = p->kind == WORD_FLIPPED ? FLIP : 0, bytes = columns * WORD / p->columns_word, w = 0;
    for (; w < bytes / WORD; w++) store_word(dst + w * WORD, load_word(words + w * PANEL_ROWS * WORD) ^ flip);
    if (bytes % WORD) memcpy(dst + w * WORD, words + w * PANEL_ROWS * WORD, bytes % WORD);
    if (p->cells)
        for (uint32_t c = 0; c < columns / p->cell_columns; c++)
            store_word(scales + c * WORD, load_word(super + (c * PANEL_ROWS + row) * WORD));
}

static void take_blocks(const type_info *type, const plan *p, uint8_t *dst, const uint8_t *super,
                        uint32_t row, uint32_t columns) {
    const uint8_t *words = super + p->cells * PANEL_ROWS * p->cell_bytes + row * WORD;
    uint32_t head = p->block_fields * 2;
    for (uint32_t b = 0; b < columns / type->block_len; b++, dst += type->block_bytes) {
        for (uint32_t f = 0; f < p->block_fields; f++)
            memcpy(dst + f * 2, super + ((f * 2 + b) * PANEL_ROWS + row) * 2, 2);
        if (p->kind == WORD_NIBBLES) {
            for (uint32_t w = 0; w < 4; w++) {
                uint32_t low = load_word(words + w * PANEL_ROWS * WORD) >> 4 * b & LOW;
                uint32_t high = load_word(words + (w + 4) * PANEL_ROWS * WORD) >> 4 * b & LOW;
                store_word(dst + head + w * WORD, low | high << 4);
            }
        } else {
            for (uint32_t w = 0; w < 8; w++)
                store_word(dst + head + w * WORD, load_word(words + (b * 8 + w) * PANEL_ROWS * WORD) ^ FLIP);
        }
    }
}

/* Bytes of a row's codes, without INT8's scales. */
static uint64_t row_stride(const type_info *type, uint64_t columns) {
    return columns / type->block_len * type->block_bytes;
}

/* ---- whole matrices ---- */

void panel_pack(const type_info *type, uint32_t group_size, uint8_t *dst, const uint8_t *src, uint64_t rows,
                uint64_t columns, uint64_t panel_begin, uint64_t panel_end) {
    plan p = plan_of(type, group_size);
    uint64_t stride = row_stride(type, columns), scale_stride = group_size ? columns / group_size * WORD : 0;
    const uint8_t *scales = src + rows * columns;          /* INT8 only */
    for (uint64_t panel = panel_begin; panel < panel_end; panel++) {
        uint64_t row = panel * PANEL_ROWS;
        uint32_t n_rows = min_u32(rows - row, PANEL_ROWS);
        for (uint64_t k = 0; k < columns; k += type->super_columns, dst += p.super_bytes) {
            uint32_t n_columns = min_u32(columns - k, type->super_columns);
            const uint8_t *first = src + row * stride + k / type->block_len * type->block_bytes;
            if (panel_is_words(type))
                panel_words_pack(type, dst, first, stride, n_rows, n_columns);
            else if (type->block_len > 1)
                pack_blocks(type, &p, dst, first, stride, n_rows, n_columns);
            else if (p.cells)
                pack_plain(&p, dst, first, stride, scales + row * scale_stride + k / group_size * WORD,
                           scale_stride, n_rows, n_columns);
            else
                pack_plain(&p, dst, first, stride, NULL, 0, n_rows, n_columns);
        }
    }
}

void panel_pack_nf4_dq(uint8_t *dst, const uint8_t *src, uint64_t rows, uint64_t columns, uint64_t panel_begin,
                       uint64_t panel_end) {
    const type_info *nf4 = type_by_id(TYPE_NF4);
    const uint64_t n_blocks = columns / NF4_BLOCK;
    const uint8_t *tables = src + rows * n_blocks * NF4_DQ_BYTES;
    for (uint64_t panel = panel_begin; panel < panel_end; panel++) {
        const uint64_t row = panel * PANEL_ROWS;
        const uint32_t n_rows = min_u32(rows - row, PANEL_ROWS);
        for (uint64_t b = 0; b < n_blocks; b++, dst += nf4->super_bytes) {
            uint8_t blocks[PANEL_ROWS * NF4_BYTES];
            for (uint32_t r = 0; r < n_rows; r++) {
                const uint64_t block = (row + r) * n_blocks + b;
                const uint8_t *from = src + block * NF4_DQ_BYTES;
                const float absmax = quant_nf4_absmax(from[0], tables, block);
                memcpy(blocks + r * NF4_BYTES, &absmax, sizeof absmax);
                memcpy(blocks + r * NF4_BYTES + 4, from + 1, NF4_BYTES - 4);
            }
            panel_words_pack(nf4, dst, blocks, NF4_BYTES, n_rows, NF4_BLOCK);
        }
    }
}

void panel_from_panel16(const type_info *type, uint32_t group_size, uint8_t *dst, const uint8_t *src, uint64_t n_panels,
                        uint64_t columns) {
    const uint64_t bytes = n_panels * type_panel_bytes(type, group_size, columns);
    if (type->panels == LAYOUT_PANEL16) {
        memcpy(dst, src, (size_t)bytes);
        return;
    }
    for (uint64_t at = 0; at < bytes; at += type->super_bytes) panel_words_stream(type, dst + at, src + at);
}

void panel_unpack(const type_info *type, uint32_t group_size, uint8_t *dst, const uint8_t *src,
                  uint64_t rows, uint64_t columns) {
    plan p = plan_of(type, group_size);
    uint64_t stride = row_stride(type, columns), scale_stride = group_size ? columns / group_size * WORD : 0;
    uint64_t panel_bytes = type_panel_bytes(type, group_size, columns);
    uint8_t *scales = dst + rows * columns;                /* INT8 only */
    for (uint64_t row = 0; row < rows; row++) {
        const uint8_t *super = src + row / PANEL_ROWS * panel_bytes;
        uint32_t lane = (uint32_t)(row % PANEL_ROWS);
        for (uint64_t k = 0; k < columns; k += type->super_columns, super += p.super_bytes) {
            uint32_t n_columns = min_u32(columns - k, type->super_columns);
            uint8_t *first = dst + row * stride + k / type->block_len * type->block_bytes;
            if (panel_is_words(type))
                panel_words_take(type, first, super, lane, n_columns);
            else if (type->block_len > 1)
                take_blocks(type, &p, first, super, lane, n_columns);
            else
                take_plain(&p, first, p.cells ? scales + row * scale_stride + k / group_size * WORD : NULL,
                           super, lane, n_columns);
        }
    }
}

void panel_row(const type_info *type, uint32_t group_size, float *out, const uint8_t *panels, uint64_t row,
               uint64_t columns) {
    plan p = plan_of(type, group_size);
    const uint8_t *super = panels + row / PANEL_ROWS * type_panel_bytes(type, group_size, columns);
    uint32_t lane = (uint32_t)(row % PANEL_ROWS);
    uint8_t codes[ROW_SUPER_MAX], scales[CELLS_MAX * WORD];
    for (uint64_t k = 0; k < columns; k += type->super_columns, super += p.super_bytes) {
        uint32_t n_columns = min_u32(columns - k, type->super_columns);
        if (panel_is_words(type)) {
            panel_words_take(type, codes, super, lane, n_columns);
            quant_decode(type, out + k, codes, n_columns);
        } else if (type->block_len > 1) {
            take_blocks(type, &p, codes, super, lane, n_columns);
            quant_decode(type, out + k, codes, n_columns);
        } else {
            take_plain(&p, codes, scales, super, lane, n_columns);
            if (p.cells)
                quant_decode_int8(out + k, (const int8_t *)codes, scales, group_size, n_columns);
            else
                quant_decode(type, out + k, codes, n_columns);
        }
    }
}
