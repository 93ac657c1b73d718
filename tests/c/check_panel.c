/* check_panel.c: panel16 and stream16 against docs/format.md: every byte of random matrices against the tables written
 * out element by element, checksums written down once, round trips for odd rows and columns, panel16 into the layout of memory, rows
 * against the decoders. `--bench` prints the speed of packing. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "../../runtime_c/core/panel.h"
#include "../../runtime_c/core/panel_words.h"
#include "../../runtime_c/core/quant.h"

static int n_passed, n_failed;

static void check(bool ok, const char *type, uint32_t group, uint64_t rows, uint64_t columns,
                  const char *what) {
    if (ok) {
        n_passed++;
    } else {
        n_failed++;
        printf("FAILED %s group %u, %llu x %llu: %s\n", type, group, (unsigned long long)rows,
               (unsigned long long)columns,
               what);
    }
}

static uint64_t rng_state;
static uint8_t random_byte(void) {
    rng_state = rng_state * 6364136223846793005u + 1442695040888963407u;
    return (uint8_t)(rng_state >> 56);
}

/* Bytes for a matrix in file order; halves and floats are kept finite so that rows compare by value. */
static void fill(const type_info *type, uint32_t group, uint8_t *data, uint64_t rows, uint64_t columns,
                 uint64_t size) {
    rng_state = 1;
    for (uint64_t i = 0; i < size; i++) data[i] = random_byte();
    if (type->id == TYPE_F32)
        for (uint64_t i = 3; i < size; i += 4) data[i] &= 0xbf;
    if (type->id == TYPE_F16 || type->id == TYPE_BF16)
        for (uint64_t i = 1; i < size; i += 2) data[i] &= 0xbf;
    if (type->id == TYPE_INT8)
        for (uint64_t i = rows * columns + 3; i < size; i += 4) data[i] &= 0xbf;
    const uint32_t heads = type->id == TYPE_Q5_0 || type->id == TYPE_IQ4_NL || type->id == TYPE_IQ4_XS ? 1
        : type->id == TYPE_Q5_1 || type->id == TYPE_Q4_K || type->id == TYPE_Q5_K ? 2 : 0;
    if (panel_is_words(type)) {
        for (uint64_t i = 0; i < size; i += type->block_bytes) {
            for (uint32_t f = 0; f < heads; f++) data[i + 2 * f + 1] &= 0xbf;
            if (type->id == TYPE_Q2_K) data[i + 81] &= 0xbf, data[i + 83] &= 0xbf;
            if (type->id == TYPE_Q3_K) data[i + 109] &= 0xbf;
            if (type->id == TYPE_Q6_K) data[i + 209] &= 0xbf;
            if (type->id == TYPE_NF4) data[i + 3] &= 0xbf;
        }
    } else if (type->block_len > 1)
        for (uint64_t i = 0; i < size; i += type->block_bytes)
            for (uint32_t f = 0; f < (type->id == TYPE_Q4_1 ? 2u : 1u); f++) data[i + 2 * f + 1] &= 0xbf;
    (void)group;
}

/* ---- the table of docs/format.md, element by element ---- */

typedef struct matrix {
    const type_info *type;
    uint32_t group;
    uint64_t rows, columns;
    const uint8_t *data;
} matrix;

static const uint8_t *block_of(const matrix *m, uint64_t row, uint64_t k) {
    return m->data + (row * (m->columns / 32) + k / 32) * m->type->block_bytes;
}
/* The 4-bit code of a weight, or what stands in for one past the end. */
static uint8_t nibble(const matrix *m, uint64_t row, uint64_t k) {
    if (row >= m->rows || k >= m->columns) return m->type->id == TYPE_Q4_0 ? 8 : 0;
    uint8_t byte = block_of(m, row, k)[(m->type->id == TYPE_Q4_0 ? 2 : 4) + k % 16];
    return k % 32 < 16 ? byte & 15 : byte >> 4;
}
static uint8_t code(const matrix *m, uint64_t row, uint64_t k) {
    if (row >= m->rows || k >= m->columns) return 128;
    uint8_t q = m->type->id == TYPE_INT8 ? m->data[row * m->columns + k] : block_of(m, row, k)[2 + k % 32];
    return (uint8_t)(q + 128);
}

/* Bits [at, at + n) of the block that holds column k; 0 past the end. */
static uint32_t field(const matrix *m, uint64_t row, uint64_t k, uint32_t at, uint32_t n) {
    if (row >= m->rows || k >= m->columns) return 0;
    const uint8_t *block = m->data + (row * (m->columns / m->type->block_len) + k / m->type->block_len) * m->type->block_bytes;
    uint32_t bits = 0;
    for (uint32_t i = 0; i < n && (at + i) / 8 < m->type->block_bytes; i++) bits |= (block[(at + i) / 8] >> (at + i) % 8 & 1u) << i;
    return bits;
}
/* The 4-bit code of column k of a block whose nibbles begin at byte head. */
static uint32_t low_code(const matrix *m, uint64_t row, uint64_t k, uint32_t head) {
    if (m->type->id == TYPE_NF4) return field(m, row, k, (head + (uint32_t)(k % 64) / 2) * 8 + (k % 2 ? 0 : 4), 4);
    return field(m, row, k, (head + (uint32_t)(k % 16)) * 8 + (k % 32 < 16 ? 0 : 4), 4);
}
/* Word w of a row's superblock that begins at column k. */
static uint32_t expected_word(const matrix *m, uint64_t row, uint64_t k, uint32_t w) {
    const uint32_t id = m->type->id, halves = id == TYPE_Q5_1 ? 2 : id == TYPE_MXFP4 || id == TYPE_NF4 ? 0 : 1;
    const bool high = id == TYPE_Q5_0 || id == TYPE_Q5_1;
    uint32_t word = 0;
    if (m->type->block_len == 256) return field(m, row, k, 32 * w, 32);
    if (id == TYPE_NF4 && w == 0) return field(m, row, k, 0, 32);
    if (id == TYPE_MXFP4 && w == 0) {
        for (uint32_t b = 0; b < 4; b++) word |= field(m, row, k + 32 * b, 0, 8) << 8 * b;
        return word;
    }
    if (w < halves) return field(m, row, k, 16 * w, 16) | field(m, row, k + 32, 16 * w, 16) << 16;
    if (high && w < halves + 2) {
        for (uint32_t j = 0; j < 8; j++)
            for (uint32_t i = 0; i < 4; i++)
                word |= field(m, row, k + 32 * (w - halves), 16 * halves + 4 * j + i, 1) << (8 * i + j);
        return word;
    }
    const uint32_t n = w - (halves ? halves + (high ? 2 : 0) : 1), head = id == TYPE_MXFP4 ? 1 : id == TYPE_NF4 ? 4 : 2 * halves + (high ? 4 : 0);
    const uint64_t at = k + 64 * (n / 8) + 4 * (n % 8);
    for (uint32_t i = 0; i < 4; i++)
        word |= low_code(m, row, at + i, head) << 8 * i | low_code(m, row, at + 32 + i, head) << (8 * i + 4);
    return word;
}

/* panel16's words in stream16's order; n of them. */
static uint32_t stream_words(const type_info *type, uint32_t words[64]) {
    uint32_t n = 0;
    if (type->id == TYPE_Q5_K) {
        for (uint32_t w = 0; w < 4; w++) words[n++] = w;
        for (uint32_t j = 0; j < 8; j++) words[n++] = 4 + j, words[n++] = 12 + j;
        for (uint32_t w = 20; w < 44; w++) words[n++] = w;
    } else if (type->id == TYPE_Q6_K) {
        words[n++] = 52;
        for (uint32_t w = 48; w < 52; w++) words[n++] = w;
        for (uint32_t h = 0; h < 2; h++)
            for (uint32_t j = 0; j < 8; j++) words[n++] = 16 * h + j, words[n++] = 16 * h + 8 + j, words[n++] = 32 + 8 * h + j;
    } else if (type->id == TYPE_IQ4_XS) {
        words[n++] = 0, words[n++] = 1;
        for (uint32_t u = 0; u < 4; u++)
            for (uint32_t j = 0; j < 4; j++) words[n++] = 2 + 8 * u + j, words[n++] = 6 + 8 * u + j;
    }
    return n;
}

static uint64_t expected_super(const matrix *m, layout layout, uint8_t *out, uint64_t row, uint64_t k) {
    uint8_t *p = out;
    if (panel_is_words(m->type)) {
        uint32_t words[64], n = stream_words(m->type, words);
        if (layout != LAYOUT_STREAM16)
            for (n = 0; n < m->type->super_bytes / 64; n++) words[n] = n;
        for (uint32_t w = 0; w < n; w++)
            for (uint64_t r = row; r < row + 16; r++, p += 4) {
                const uint32_t word = expected_word(m, r, k, words[w]);
                for (int b = 0; b < 4; b++) p[b] = (uint8_t)(word >> 8 * b);
            }
        return (uint64_t)(p - out);
    }
    switch (m->type->id) {
    case TYPE_F32:
        for (uint64_t i = k; i < k + 64; i++)
            for (uint64_t r = row; r < row + 16; r++)
                for (int b = 0; b < 4; b++)
                    *p++ = r < m->rows && i < m->columns ? m->data[(r * m->columns + i) * 4 + (uint64_t)b]
                        : 0;
        break;
    case TYPE_F16:
    case TYPE_BF16:
        for (uint64_t pair = k; pair < k + 64; pair += 2)
            for (uint64_t r = row; r < row + 16; r++)
                for (uint64_t i = pair; i < pair + 2; i++)
                    for (int b = 0; b < 2; b++)
                        *p++ = r < m->rows && i < m->columns
                            ? m->data[(r * m->columns + i) * 2 + (uint64_t)b] : 0;
        break;
    case TYPE_Q8_0:
    case TYPE_INT8: {
        uint64_t group = m->type->id == TYPE_INT8 ? m->group : 32;
        int bytes = m->type->id == TYPE_INT8 ? 4 : 2;
        for (uint64_t i = k; i < k + 64; i += group)
            for (uint64_t r = row; r < row + 16; r++)
                for (int b = 0; b < bytes; b++) {
                    bool inside = r < m->rows && i < m->columns;
                    const uint8_t *scale = m->type->id == TYPE_INT8
                        ? m->data + m->rows * m->columns + (r * m->columns + i) / group * 4
                            : block_of(m, r, i);
                    *p++ = inside ? scale[b] : 0;
                }
        for (uint64_t i = k; i < k + 64; i += 4)
            for (uint64_t r = row; r < row + 16; r++)
                for (uint64_t j = i; j < i + 4; j++) *p++ = code(m, r, j);
        break;
    }
    default:
        for (int field = 0; field < (m->type->id == TYPE_Q4_1 ? 2 : 1); field++)
            for (uint64_t i = k; i < k + 64; i += 32)
                for (uint64_t r = row; r < row + 16; r++)
                    for (int b = 0; b < 2; b++)
                        *p++ = r < m->rows && i < m->columns ? block_of(m, r, i)[2 * field + b] : 0;
        for (uint64_t i = k; i < k + 32; i += 4)
            for (uint64_t r = row; r < row + 16; r++)
                for (uint64_t j = i; j < i + 4; j++)
                    *p++ = (uint8_t)(nibble(m, r, j) | nibble(m, r, j + 32) << 4);
    }
    return (uint64_t)(p - out);
}

/* ---- checks ---- */

static void check_matrix(const type_info *type, uint32_t group, uint64_t rows, uint64_t columns) {
    uint64_t bytes, panel_bytes = type_panel_bytes(type, group, columns), super_bytes =
        type_super_bytes(type, group);
    uint64_t packed_bytes, n_panels = div_up(rows, 16),
        n_super = div_up(columns, type->super_columns);
    bool sized = type_bytes(&bytes, type, group, LAYOUT_ROWS, rows, columns) &&
                 type_bytes(&packed_bytes, type, group, type->panels, rows, columns);
    check(sized && packed_bytes == n_panels * panel_bytes, type->name, group, rows, columns, "sizes");
    if (!sized) return;
    /* odd address: alignment is not promised */
    uint8_t *memory = malloc(bytes + 1), *data = memory + 1;
    uint8_t *packed = aligned_alloc(64, packed_bytes), *pieces = aligned_alloc(64, packed_bytes), *back =
        malloc(bytes + 1);
    uint8_t super[4096], plain[4096];
    float *row_expected = malloc(columns * sizeof(float)), *row_found = malloc(columns * sizeof(float));
    fill(type, group, data, rows, columns, bytes);
    memset(packed, 0xa5, packed_bytes);
    memset(pieces, 0x5a, packed_bytes);
    memset(back, 0xa5, bytes + 1);

    panel_pack(type, group, packed, data, rows, columns, 0, n_panels);
    matrix m = { type, group, rows, columns, data };
    bool same = true;
    for (uint64_t panel = 0; panel < n_panels; panel++)
        for (uint64_t s = 0; s < n_super; s++) {
            const uint64_t at = panel * panel_bytes + s * super_bytes, k = s * type->super_columns;
            uint64_t n = expected_super(&m, type->panels, super, panel * 16, k);
            same &= n == super_bytes && memcmp(super, packed + at, n) == 0;
            same &= expected_super(&m, LAYOUT_PANEL16, plain, panel * 16, k) == super_bytes;
            panel_from_panel16(type, group, pieces + at, plain, 1, type->super_columns);
        }
    check(same, type->name, group, rows, columns, "bytes are those of the format");
    check(memcmp(packed, pieces, packed_bytes) == 0, type->name, group, rows, columns, "panel16 into the layout of memory");
    memset(pieces, 0x5a, packed_bytes);

    for (uint64_t panel = n_panels; panel-- > 0;)
        panel_pack(type, group, pieces + panel * panel_bytes, data, rows, columns, panel, panel + 1);
    check(memcmp(packed, pieces, packed_bytes) == 0, type->name, group, rows, columns,
          "panels packed one by one");

    panel_unpack(type, group, back, packed, rows, columns);
    check(memcmp(back, data, bytes) == 0 && back[bytes] == 0xa5, type->name, group, rows, columns,
          "round trip");

    same = true;
    for (uint64_t r = 0; r < rows; r++) {
        if (type->id == TYPE_INT8)
            quant_decode_int8(row_expected, (const int8_t *)data + r * columns, data + rows * columns + r
                              * columns / group * 4,
                              group, columns);
        else
            quant_decode(type, row_expected, data + r * (bytes / rows), columns);
        panel_row(type, group, row_found, packed, r, columns);
        same &= memcmp(row_expected, row_found, columns * sizeof(float)) == 0;
    }
    check(same, type->name, group, rows, columns, "rows decode to the same floats");
    free(memory);
    free(packed);
    free(pieces);
    free(back);
    free(row_expected);
    free(row_found);
}

/* CRC-32C of fill()'s 18 rows of 96 columns (256 of the K types and IQ4_XS, 192 of MXFP4, 128 of NF4) in panels; no line may ever
 * change. */
static const struct golden {
    const char *type;
    uint32_t group, crc;
} GOLDENS[] = {
    { "f32", 0, 0xe98b93eau },  { "f16", 0, 0xcf66e315u },  { "bf16", 0, 0xcf66e315u },
        { "q8_0", 0, 0x21ec6187u },
    { "q4_0", 0, 0x870a1fd7u }, { "q4_1", 0, 0x1fe43c01u }, { "int8", 4, 0x35d14d7fu },
        { "int8", 8, 0xa4d56885u },
    { "int8", 16, 0x9971a3bau }, { "int8", 32, 0xbdfc3a67u },
    { "q5_0", 0, 0x001141f5u }, { "q5_1", 0, 0xca91093du }, { "q2_k", 0, 0x4975b8a5u }, { "q3_k", 0, 0x82642c43u },
    { "q4_k", 0, 0x00fad093u }, { "q5_k", 0, 0x5b6c496au }, { "q6_k", 0, 0xcfc07844u }, { "iq4_nl", 0, 0x6922f1a0u },
    { "iq4_xs", 0, 0xb77ad6f0u }, { "mxfp4", 0, 0x4e099456u }, { "nf4", 0, 0x8529f2f3u },
}, STREAM_GOLDENS[] = {{"q5_k", 0, 0xe755bbfau}, {"q6_k", 0, 0xcc1bc22cu}, {"iq4_xs", 0, 0xc3aa7705u}};

static void check_golden(const struct golden *golden, layout layout) {
    static uint8_t data[18 * 96 * 4], packed[2 * 2 * 4096];
    const type_info *type = type_by_name(golden->type);
    const uint64_t columns = type->block_len == 256 ? 256 : type->block_len == 64 ? 128 : type->super_columns == 128 ? 192 : 96;
    uint64_t bytes, packed_bytes, at = 0;
    if (!type_bytes(&bytes, type, golden->group, LAYOUT_ROWS, 18, columns) ||
        !type_bytes(&packed_bytes, type, golden->group, layout, 18, columns)) {
        check(false, golden->type, golden->group, 18, columns, "golden has a size");
        return;
    }
    fill(type, golden->group, data, 18, columns, bytes);
    const matrix m = {type, golden->group, 18, columns, data};
    if (layout == type->panels)
        panel_pack(type, golden->group, packed, data, 18, columns, 0, 2);
    else                                   /* read, but written no more: check_matrix sees it become stream16 */
        for (uint64_t panel = 0; panel < 2; panel++)
            for (uint64_t k = 0; k < columns; k += type->super_columns) at += expected_super(&m, layout, packed + at, 16 * panel, k);
    const uint32_t crc = crc32c(0, packed, packed_bytes);
    char what[64];
    snprintf(what, sizeof what, "golden 0x%08x, found 0x%08x", golden->crc, crc);
    check(crc == golden->crc, golden->type, golden->group, 18, columns, what);
}

static void check_goldens(void) {
    for (size_t i = 0; i < ARRAY_LEN(GOLDENS); i++) check_golden(&GOLDENS[i], LAYOUT_PANEL16);
    for (size_t i = 0; i < ARRAY_LEN(STREAM_GOLDENS); i++) check_golden(&STREAM_GOLDENS[i], LAYOUT_STREAM16);
}

/* One Q4_0 row of 32 weights, by hand: d = 1.0 (0x3c00), weight i has code i % 16. */
static void check_by_hand(void) {
    const uint8_t row[18] = { 0x00, 0x3c, 0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77,
                              0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff };
    const uint8_t words[8][4] = { { 0x80, 0x81, 0x82, 0x83 }, { 0x84, 0x85, 0x86, 0x87 },
                                  { 0x88, 0x89, 0x8a, 0x8b },
                                  { 0x8c, 0x8d, 0x8e, 0x8f }, { 0x80, 0x81, 0x82, 0x83 },
                                      { 0x84, 0x85, 0x86, 0x87 },
                                  { 0x88, 0x89, 0x8a, 0x8b }, { 0x8c, 0x8d, 0x8e, 0x8f } };
    uint8_t packed[576], expected[576] = { 0x00, 0x3c };
    memset(expected + 64, 0x88, 512);
    for (int w = 0; w < 8; w++) memcpy(expected + 64 + w * 64, words[w], 4);
    panel_pack(type_by_name("q4_0"), 0, packed, row, 1, 32, 0, 1);
    check(memcmp(packed, expected, 576) == 0, "q4_0", 0, 1, 32, "one row by hand");
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void bench(void) {
    static const struct { const char *type; uint32_t group; } CASES[] =
        { { "f32", 0 },  { "f16", 0 },  { "q8_0", 0 },
                                                                        { "int8", 64 }, { "q4_0", 0 },
                                                                            { "q4_1", 0 } };
    const uint64_t rows = 1024, columns = 2048;
    for (size_t i = 0; i < ARRAY_LEN(CASES); i++) {
        const type_info *type = type_by_name(CASES[i].type);
        uint64_t bytes, packed_bytes;
        if (!type_bytes(&bytes, type, CASES[i].group, LAYOUT_ROWS, rows, columns) ||
            !type_bytes(&packed_bytes, type, CASES[i].group, LAYOUT_PANEL16, rows, columns))
            continue;
        uint8_t *data = malloc(bytes), *packed = aligned_alloc(64, packed_bytes);
        fill(type, CASES[i].group, data, rows, columns, bytes);
        double pack = 1e30, unpack = 1e30;
        for (int rep = 0; rep < 10; rep++) {
            double start = now();
            panel_pack(type, CASES[i].group, packed, data, rows, columns, 0, rows / 16);
            double middle = now();
            panel_unpack(type, CASES[i].group, data, packed, rows, columns);
            double end = now();
            pack = middle - start < pack ? middle - start : pack;
            unpack = end - middle < unpack ? end - middle : unpack;
        }
        printf("%-5s pack %5.1f GB/s, unpack %5.1f GB/s\n", type->name, (double)bytes / pack / 1e9,
               (double)bytes / unpack / 1e9);
        free(data);
        free(packed);
    }
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        bench();
        return 0;
    }
    static const uint64_t ROWS[] = { 1, 2, 15, 16, 17, 33, 48 };
    static const uint64_t FLOAT_COLUMNS[] = { 1, 2, 5, 63, 64, 65, 127, 130 }, BLOCK_COLUMNS[] =
        { 32, 64, 96, 160, 192 };
    static const char *const FLOATS[] = { "f32", "f16", "bf16" }, *const BLOCKS[] =
        { "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl", "mxfp4" },
            *const LONG[] = { "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_xs" };
    for (size_t r = 0; r < ARRAY_LEN(ROWS); r++) {
        for (size_t t = 0; t < 3; t++)
            for (size_t c = 0; c < ARRAY_LEN(FLOAT_COLUMNS); c++)
                check_matrix(type_by_name(FLOATS[t]), 0, ROWS[r], FLOAT_COLUMNS[c]);
        for (size_t t = 0; t < ARRAY_LEN(LONG); t++)
            for (uint64_t columns = 256; columns <= 768; columns += 256)
                check_matrix(type_by_name(LONG[t]), 0, ROWS[r], columns);
        for (uint64_t columns = 64; columns <= 192; columns += 64)
            check_matrix(type_by_name("nf4"), 0, ROWS[r], columns);
        for (size_t t = 0; t < ARRAY_LEN(BLOCKS); t++) {
            for (size_t c = 0; c < ARRAY_LEN(BLOCK_COLUMNS); c++)
                check_matrix(type_by_name(BLOCKS[t]), 0, ROWS[r], BLOCK_COLUMNS[c]);
        }
        for (uint32_t group = 4; group <= 64; group *= 2)
            for (uint64_t groups = 1; groups <= 19; groups += 3)
                check_matrix(type_by_name("int8"), group, ROWS[r], group * groups);
    }
    check_goldens();
    check_by_hand();
    printf("%d passed, %d failed\n", n_passed, n_failed);
    return n_failed ? 1 : 0;
}
