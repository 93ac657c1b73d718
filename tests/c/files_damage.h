/* files_damage.h: what the checks of model files share: opening a file from an exact-size heap copy, reading all that a session would
 * read, and damage: cuts, flipped bytes, extreme values. Every answer must be a status; meant to be run with
 * -fsanitize=address,undefined. A program that includes it counts what passed; it builds its own files. */
#ifndef FILES_DAMAGE_H
#define FILES_DAMAGE_H

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <time.h>

#include "../../runtime_c/core/error.h"
#include "../../runtime_c/core/model.h"
#include "../../runtime_c/core/quant.h"
#include "../../runtime_c/core/rope.h"
#include "files_fixtures.h"

static long n_passed, n_failed, n_opens;
static size_t step = 1;
static float touched;                  /* keeps reads from being removed */
static void (*after_opening)(const uint8_t *data, size_t size);          /* what more is done with a file that opens; NULL: nothing */

#define CHECK(ok, ...)                                   \
    do {                                                 \
        if (ok) {                                        \
            n_passed++;                                  \
        } else if (n_failed++ < 50) {                    \
            printf("FAILED line %d: ", __LINE__);        \
            printf(__VA_ARGS__);                         \
            printf("\n");                                \
        }                                                \
    } while (0)

/* ---- opening ---- */

static ak42_model_opts options(void) {
    return (ak42_model_opts){.struct_size = sizeof(ak42_model_opts), .n_threads = 1, .isa = "generic"};
}

/* Opens size bytes at data from a heap copy of exactly that size, which *copy then owns. */
static ak42_status open_copy(ak42_model **model, uint8_t **copy, const uint8_t *data, size_t size,
                             ak42_error *err) {
    const ak42_model_opts opts = options();
    n_opens++;
    *model = NULL;
    *copy = malloc(size ? size : 1);
    if (size) memcpy(*copy, data, size);
    memset(err, 0, sizeof *err);
    const ak42_status status = model_open(model, "dir/tiny.bin", *copy, size, &opts, err);
    if (status) {
        free(*copy);
        *copy = NULL;
        CHECK(!*model && err->code == status && err->text[0] && !strchr(err->text, '\n') &&
              strlen(err->text) < 252 && strstr(err->text, "tiny.bin") == err->text, 
              "status %d with text <%s>", status, err->text);
    }
    return status;
}

/* Reads what a session would read: every matrix's first and last row, all norms. */
static float touch_matrix(const matrix *m) {
    float sum = 0, *row = malloc(m->columns * sizeof *row);
    panel_row(m->type, m->group_size, row, m->panels, 0, m->columns);
    for (uint32_t i = 0; i < m->columns; i++) sum += row[i];
    panel_row(m->type, m->group_size, row, m->panels, m->rows - 1, m->columns);
    for (uint32_t i = 0; i < m->columns; i++) sum += row[i];
    free(row);
    return sum;
}

/* The rotary frequency of a pair, in a context of the length trained for. */
static float frequency(const ak42_model *model, uint32_t pair) {
    const uint32_t half = model->config.rotary_dim / 2;
    float *table = calloc(LAYER_ROPE_COUNT * half, sizeof *table);
    rope_frequencies(table, model, model->config.trained_ctx);
    const float found = table[pair];
    free(table);
    return found;
}

static float touch_vector(const float *v, uint64_t n) {
    float sum = 0;
    for (uint64_t i = 0; v && i < n; i++) sum += v[i];
    return sum;
}

static float touch(const ak42_model *model) {
    const model_config *c = &model->config;
    const uint64_t q = (uint64_t)c->n_heads * c->head_dim, kv = (uint64_t)c->n_kv_heads * c->head_dim;
    float sum = touch_matrix(&model->embedding) + touch_matrix(&model->head) + touch_vector(model->norm, c->dim);
    for (uint32_t l = 0; l < c->n_layers; l++) {
        const layer *y = &model->layers[l];
        const matrix *const all[] = {&y->wq, &y->wk, &y->wv, &y->wo, &y->w1, &y->w2, &y->w3, &y->router};
        for (size_t i = 0; i < ARRAY_LEN(all); i++)
            if (all[i]->panels) sum += touch_matrix(all[i]);
        for (uint32_t i = 0; y->experts && i < c->n_experts; i++)
            sum += touch_matrix(&y->experts[i].w1) + touch_matrix(&y->experts[i].w2) + touch_matrix(&y->experts[i].w3);
        const float *const wide[] = {y->att_norm, y->ffn_norm, y->att_post_norm, y->ffn_post_norm};
        for (size_t i = 0; i < ARRAY_LEN(wide); i++) sum += touch_vector(wide[i], c->dim);
        sum += touch_vector(y->bq, q) + touch_vector(y->bk, kv) + touch_vector(y->bv, kv);
        sum += touch_vector(y->q_norm, c->qk_norm_row ? q : c->head_dim) + touch_vector(y->k_norm, c->qk_norm_row ? kv : c->head_dim);
    }
    return sum + frequency(model, 0);
}

/* Opens and closes; any answer but a crash and an unexpected status is right. */
static ak42_status try_open(const uint8_t *data, size_t size, const char *what) {
    ak42_model *model;
    uint8_t *copy;
    ak42_error err;
    const ak42_status status = open_copy(&model, &copy, data, size, &err);
    CHECK(status == AK42_STATUS_OK || status == AK42_STATUS_FORMAT || status == AK42_STATUS_UNSUPPORTED ||
          status == AK42_STATUS_NOMEM, "%s: status %d (%s)", what, status, err.text);
    if (!status) touched += touch(model);
    model_free(model);
    if (!status && after_opening) after_opening(copy, size);
    free(copy);
    return status;
}

static void expect(const uint8_t *data, size_t size, ak42_status wanted, const char *word, const char *what) {
    ak42_model *model;
    uint8_t *copy;
    ak42_error err;
    const ak42_status status = open_copy(&model, &copy, data, size, &err);
    CHECK(status == wanted, "%s: expected status %d, found %d <%s>", what, wanted, status,
          status ? err.text : "");
    if (status && word) CHECK(strstr(err.text, word), "%s: expected <%s> in <%s>", what, word, err.text);
    model_free(model);
    free(copy);
}

/* ---- weights ---- */

/* A matrix against the row-major blocks of `type` at data. */
static void check_blocks(const matrix *m, const type_info *type, const uint8_t *data, const char *what) {
    const uint64_t n = (uint64_t)m->rows * m->columns;
    float *wanted = malloc(n * sizeof *wanted), *row = malloc(m->columns * sizeof *row);
    bool same = true;
    if (type->id == TYPE_NF4_DQ) quant_decode_nf4_dq(wanted, data, data + n / NF4_BLOCK * type->block_bytes, 0, n);
    else if (type->id == TYPE_INT8) quant_decode_int8(wanted, (const int8_t *)data, data + n, m->group_size, n);
    else quant_decode(type, wanted, data, n);
    for (uint32_t r = 0; r < m->rows; r++) {
        panel_row(m->type, m->group_size, row, m->panels, r, m->columns);
        same &= !memcmp(row, wanted + (size_t)r * m->columns, m->columns * sizeof *row);
    }
    CHECK(same, "%s: weights differ", what);
    free(wanted);
    free(row);
}

/* The same of a matrix that has its file's type in memory too. */
static inline void check_matrix(const matrix *m, const uint8_t *data, const char *what) { check_blocks(m, m->type, data, what); }

/* ---- damage ---- */

static const uint8_t fills[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
static const uint32_t extremes[] = {0, UINT32_MAX, 1, 3, 1u << 16, 1u << 30, INT32_MAX, 1u << 31, 0x7fc00000,
                                    0x7f800000};

/* Cut at every byte of the header and around every remembered place; only the whole may be accepted (and a
 * GGUF that lacks no more than what stands behind its tensors). */
static void cut_everywhere(const bytes *b, size_t header, const char *what) {
    for (size_t n = 0; n < header && n < b->size; n++)
        CHECK(try_open(b->data, n, what) != AK42_STATUS_OK, "%s cut to %zu", what, n);
    for (size_t i = 0; i < b->n_marks; i++)
        for (size_t n = b->marks[i].at - 1; n <= b->marks[i].at + 1; n++)
            if (n < b->size)
                CHECK(try_open(b->data, n, what) != AK42_STATUS_OK, "%s cut to %zu, at %s", what, n,
                      b->marks[i].name);
    CHECK(try_open(b->data, b->size - 1, what) != AK42_STATUS_OK, "%s without its last byte", what);
}

/* Every byte of the first 4 KiB set to a few values; signed_too: the checksums of an ak42 file are then
 * made right again. */
static void flip_everywhere(const bytes *b, bool signed_too, const char *what) {
    uint8_t *data = malloc(b->size);
    for (size_t at = 0; at < b->size && at < 4096; at += step) {
        for (size_t k = 0; k <= ARRAY_LEN(fills); k++) {
            const uint8_t value = k < ARRAY_LEN(fills) ? fills[k] : b->data[at] ^ 1;
            if (value == b->data[at]) continue;
            memcpy(data, b->data, b->size);
            data[at] = value;
            const ak42_status status = try_open(data, b->size, what);
            if (signed_too && at < 256) {
                CHECK(status != AK42_STATUS_OK, "%s: byte %zu changed to %u unnoticed", what, at, value);
                sign(data, b->size);
                try_open(data, b->size, what);
            }
        }
    }
    free(data);
}

/* Extreme values in each field, and in pairs of the first n_pairs. */
static void extreme_fields(const bytes *b, size_t begin, size_t end, size_t n_pairs, bool resign,
                           const char *what) {
    uint8_t *data = malloc(b->size);
    for (size_t at = begin; at + 4 <= end; at++) {
        for (size_t k = 0; k < ARRAY_LEN(extremes) + 2; k++) {
            const uint32_t old = load_u32(b->data + at);
            const uint32_t value = k < ARRAY_LEN(extremes) ? extremes[k]
                                 : k == ARRAY_LEN(extremes) ? old + 1 : 2 * old;
            memcpy(data, b->data, b->size);
            set_u32(data + at, value);
            if (resign) sign(data, b->size);
            try_open(data, b->size, what);
            if (at + 8 > end) continue;
            set_u64(data + at, (uint64_t)value << 32 | old);
            if (resign) sign(data, b->size);
            try_open(data, b->size, what);
        }
    }
    for (size_t i = 0; i < n_pairs; i++)
        for (size_t j = 0; j < i; j++)
            for (size_t k = 0; k < ARRAY_LEN(extremes) * ARRAY_LEN(extremes); k++) {
                memcpy(data, b->data, b->size);
                set_u32(data + begin + 4 * i, extremes[k / ARRAY_LEN(extremes)]);
                set_u32(data + begin + 4 * j, extremes[k % ARRAY_LEN(extremes)]);
                if (resign) sign(data, b->size);
                CHECK(try_open(data, b->size, what) != AK42_STATUS_OK ||
                      !memcmp(data + begin, b->data + begin, 24), "%s: fields %zu and %zu", what, i, j);
            }
    free(data);
}

static void damage(bytes b, size_t header, size_t fields_begin, size_t fields_end, size_t n_pairs,
                   bool extended, const char *what) {
    const clock_t began = clock();
    const long opens = n_opens;
    cut_everywhere(&b, header, what);
    flip_everywhere(&b, extended, what);
    extreme_fields(&b, fields_begin, fields_end, n_pairs, extended, what);
    printf("%-28s %6zu bytes, %6ld opens, %.1f s\n", what, b.size, n_opens - opens,
           (double)(clock() - began) / CLOCKS_PER_SEC);
    free(b.data);
}

/* One byte, u32, f32 or u64 changed in a copy that is then signed (ak42) or not. */
typedef struct edit {
    const char *what;
    size_t at;
    uint64_t value;
    size_t size;
    ak42_status status;
    const char *word;
} edit;

static void apply(const bytes *b, const edit *e, size_t base, bool resign) {
    uint8_t *data = malloc(b->size), value[8];
    memcpy(data, b->data, b->size);
    set_u64(value, e->value);
    memcpy(data + base + e->at, value, e->size);
    if (resign) sign(data, b->size);
    expect(data, b->size, e->status, e->word, e->what);
    free(data);
}

#define FORMAT AK42_STATUS_FORMAT
#define UNSUPPORTED AK42_STATUS_UNSUPPORTED

#endif
