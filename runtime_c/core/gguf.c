/* gguf.c: the container of GGUF files, versions 2 and 3: counts, keys, values and the tensor table. Own
 * parser, no recursion: every count is proved against the bytes left before anything is allocated or
 * walked, and keys and names are sorted to find repeats. It knows no key but general.alignment;
 * gguf_keys.c says what they mean. Called by container_parse. */
#include <stdio.h>
#include <stdlib.h>

#include "error.h"
#include "gguf_file.h"

enum {
    HEADER_BYTES = 24,                   /* magic, u32 version, u64 n_tensors, u64 n_kv */
    VALUES_MAX = 65536, TENSORS_MAX = 65536,
    VALUE_BYTES_MIN = 8 + 1 + 4 + 1,     /* length and one byte of key, type, one byte of value */
    TENSOR_BYTES_MIN = 8 + 4 + 4 + 8,    /* name's length, n_dims, type, offset */
    KEY_BYTES_MAX = 65535,
    ALIGNMENT_DEFAULT = 32, ALIGNMENT_MAX = 1 << 30,
    DIMS_MAX = 4,
};
static const uint64_t string_bytes_max = 1u << 30;

/* Bytes of a value; 0: it has a length of its own. */
static const uint8_t value_bytes[GGUF_TYPES] = {
    [GGUF_U8] = 1,  [GGUF_I8] = 1,  [GGUF_BOOL] = 1, [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4,
    [GGUF_I32] = 4, [GGUF_F32] = 4, [GGUF_U64] = 8,  [GGUF_I64] = 8, [GGUF_F64] = 8,
};

/* ---- the cursor ---- */

static uint64_t left(const gguf_file *g) { return g->map->size - g->at; }

static const uint8_t *here(const gguf_file *g) { return g->map->data + g->at; }

static ak42_status fail_short(const gguf_file *g, const char *what, uint64_t needed, ak42_error *err) {
    return error_set(err, AK42_STATUS_FORMAT, "%s: truncated: %s at byte %llu: expected %llu bytes, found "
                     "%llu; fetch or convert it again", g->c->name, what, (unsigned long long)g->at,
                     (unsigned long long)needed, (unsigned long long)left(g));
}

static ak42_status take_u32(uint32_t *out, gguf_file *g, const char *what, ak42_error *err) {
    if (left(g) < 4) return fail_short(g, what, 4, err);
    *out = load_u32(here(g));
    g->at += 4;
    return AK42_STATUS_OK;
}

static ak42_status take_u64(uint64_t *out, gguf_file *g, const char *what, ak42_error *err) {
    if (left(g) < 8) return fail_short(g, what, 8, err);
    *out = load_u64(here(g));
    g->at += 8;
    return AK42_STATUS_OK;
}

static ak42_status take_string(blob *out, gguf_file *g, const char *what, uint64_t size_max,
                               ak42_error *err) {
    uint64_t size = 0;
    const ak42_status status = take_u64(&size, g, what, err);
    if (status) return status;
    if (size > left(g)) return fail_short(g, what, size, err);
    if (size > size_max)
        return error_set(err, AK42_STATUS_FORMAT, "%s: %s at byte %llu: expected a length up to %llu, found "
                         "%llu", g->c->name, what, (unsigned long long)(g->at - 8),
                         (unsigned long long)size_max, (unsigned long long)size);
    *out = (blob){here(g), size};
    g->at += size;
    return AK42_STATUS_OK;
}

/* Well-formed UTF-8 without NUL (Unicode 15, table 3-7). */
static bool is_text(const uint8_t *p, uint64_t size) {
    for (uint64_t i = 0; i < size;) {
        const uint8_t lead = p[i++];
        if (lead == 0) return false;
        if (lead < 0x80) continue;
        if (lead < 0xc2 || lead > 0xf4) return false;
        const uint32_t more = lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3;
        if (size - i < more) return false;
        const uint8_t low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
        const uint8_t high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
        if (p[i] < low || p[i] > high) return false;
        for (uint32_t k = 1; k < more; k++)
            if (p[i + k] < 0x80 || p[i + k] > 0xbf) return false;
        i += more;
    }
    return true;
}

/* ---- keys and values ---- */

static ak42_status read_key(gguf_value *v, gguf_file *g, ak42_error *err) {
    const uint64_t at = g->at;
    blob key;
    const ak42_status status = take_string(&key, g, "key", KEY_BYTES_MAX, err);
    if (status) return status;
    if (!key.size || !is_text(key.data, key.size))
        return error_set(err, AK42_STATUS_FORMAT, "%s: key at byte %llu: expected UTF-8 text without NUL, "
                         "found %s", g->c->name, (unsigned long long)at,
                         key.size ? "other bytes" : "nothing");
    v->key = (const char *)key.data;
    v->key_size = (uint32_t)key.size;
    return AK42_STATUS_OK;
}

static ak42_status read_type(gguf_type *out, gguf_file *g, const gguf_value *v, bool element,
                             ak42_error *err) {
    uint32_t type = 0;
    const ak42_status status = take_u32(&type, g, "value type", err);
    if (status) return status;
    if (type >= GGUF_TYPES || (element && type == GGUF_ARRAY))
        return error_set(err, AK42_STATUS_FORMAT, "%s: key %.*s: expected a value type 0 to 12%s, found %u "
                         "at byte %llu", g->c->name, gguf_shown(v->key_size), v->key,
                         element ? " but no array inside an array" : "", type,
                         (unsigned long long)(g->at - 4));
    *out = (gguf_type)type;
    return AK42_STATUS_OK;
}

static ak42_status read_array(gguf_value *v, gguf_file *g, ak42_error *err) {
    ak42_status status = read_type(&v->element, g, v, true, err);
    if (!status) status = take_u64(&v->count, g, "array length", err);
    if (status) return status;
    const uint64_t element_min = v->element == GGUF_STRING ? 8 : value_bytes[v->element];
    if (v->count > left(g) / element_min)
        return error_set(err, AK42_STATUS_FORMAT, "%s: key %.*s: expected an array inside the file, found "
                         "%llu elements with %llu bytes left; fetch or convert it again", g->c->name, gguf_shown(v->key_size), v->key,
                         (unsigned long long)v->count, (unsigned long long)left(g));
    const uint64_t begin = g->at;
    if (v->element == GGUF_STRING) {
        blob ignored;
        for (uint64_t i = 0; i < v->count; i++)
            if ((status = take_string(&ignored, g, "array string", string_bytes_max, err))) return status;
    } else {
        g->at += v->count * element_min;
    }
    v->content = (blob){g->map->data + begin, g->at - begin};
    return AK42_STATUS_OK;
}

static ak42_status read_value(gguf_value *v, gguf_file *g, ak42_error *err) {
    ak42_status status = read_key(v, g, err);
    if (!status) status = read_type(&v->type, g, v, false, err);
    if (status) return status;
    v->count = 1;
    if (v->type == GGUF_ARRAY) return read_array(v, g, err);
    if (v->type == GGUF_STRING) return take_string(&v->content, g, "string", string_bytes_max, err);
    const uint64_t size = value_bytes[v->type];
    if (left(g) < size) return fail_short(g, "value", size, err);
    v->content = (blob){here(g), size};
    g->at += size;
    return AK42_STATUS_OK;
}

static int compare_key_bytes(const char *a, size_t a_size, const char *b, size_t b_size) {
    const int order = memcmp(a, b, a_size < b_size ? a_size : b_size);
    return order ? order : (a_size > b_size) - (a_size < b_size);
}

static int compare_values(const void *a, const void *b) {
    const gguf_value *x = a, *y = b;
    return compare_key_bytes(x->key, x->key_size, y->key, y->key_size);
}

const gguf_value *gguf_find(const gguf_file *g, const char *key) {
    const gguf_value wanted = {.key = key, .key_size = (uint32_t)strlen(key)};
    return g->n_values ? bsearch(&wanted, g->values, g->n_values, sizeof *g->values, compare_values) : NULL;
}

static ak42_status read_values(gguf_file *g, ak42_error *err) {
    for (uint32_t i = 0; i < g->n_values; i++) {
        const ak42_status status = read_value(&g->values[i], g, err);
        if (status) return status;
    }
    if (g->n_values) qsort(g->values, g->n_values, sizeof *g->values, compare_values);
    for (uint32_t i = 1; i < g->n_values; i++)
        if (!compare_values(&g->values[i - 1], &g->values[i]))
            return error_set(err, AK42_STATUS_FORMAT, "%s: key %.*s: expected once, found twice", g->c->name,
                             gguf_shown(g->values[i].key_size), g->values[i].key);
    return AK42_STATUS_OK;
}

static ak42_status read_alignment(gguf_file *g, ak42_error *err) {
    const gguf_value *v = gguf_find(g, "general.alignment");
    g->alignment = ALIGNMENT_DEFAULT;
    if (!v) return AK42_STATUS_OK;
    if (v->type != GGUF_U32)
        return error_set(err, AK42_STATUS_FORMAT, "%s: key general.alignment: expected a u32, found value "
                         "type %u", g->c->name, v->type);
    g->alignment = load_u32(v->content.data);
    if (!g->alignment || g->alignment > ALIGNMENT_MAX || (g->alignment & (g->alignment - 1)))
        return error_set(err, AK42_STATUS_FORMAT, "%s: key general.alignment: expected a power of two up to "
                         "2^30, found %u", g->c->name, g->alignment);
    return AK42_STATUS_OK;
}

/* ---- tensors ---- */

/* ggml's types with their block geometry: enough to walk any file's table, and to name what we do not
 * compute. */
typedef struct ggml_type {
    uint32_t id, block_len, block_bytes;
    const char *name;
} ggml_type;

static const ggml_type ggml_types[] = {
    {0, 1, 4, "F32"},         {1, 1, 2, "F16"},         {2, 32, 18, "Q4_0"},      {3, 32, 20, "Q4_1"},
    {6, 32, 22, "Q5_0"},      {7, 32, 24, "Q5_1"},      {8, 32, 34, "Q8_0"},      {10, 256, 84, "Q2_K"},
    {11, 256, 110, "Q3_K"},   {12, 256, 144, "Q4_K"},   {13, 256, 176, "Q5_K"},   {14, 256, 210, "Q6_K"},
    {16, 256, 66, "IQ2_XXS"}, {17, 256, 74, "IQ2_XS"},  {18, 256, 98, "IQ3_XXS"}, {19, 256, 50, "IQ1_S"},
    {20, 32, 18, "IQ4_NL"},   {21, 256, 110, "IQ3_S"},  {22, 256, 82, "IQ2_S"},   {23, 256, 136, "IQ4_XS"},
    {24, 1, 1, "I8"},         {25, 1, 2, "I16"},        {26, 1, 4, "I32"},        {27, 1, 8, "I64"},
    {28, 1, 8, "F64"},        {29, 256, 56, "IQ1_M"},   {30, 1, 2, "BF16"},       {34, 256, 54, "TQ1_0"},
    {35, 256, 66, "TQ2_0"},   {39, 32, 17, "MXFP4"},    {40, 64, 36, "NVFP4"},    {41, 128, 18, "Q1_0"},
};

static const ggml_type *ggml_type_by_id(uint32_t id) {
    for (size_t i = 0; i < ARRAY_LEN(ggml_types); i++)
        if (ggml_types[i].id == id) return &ggml_types[i];
    return NULL;
}

static ak42_status fail_type(const gguf_file *g, const tensor *t, uint32_t id, const ggml_type *type,
                             ak42_error *err) {
    char number[32];
    snprintf(number, sizeof number, "type %u", id);
    return error_set(err, AK42_STATUS_UNSUPPORTED, "%s: tensor %s: expected F32, F16, BF16, Q8_0, Q4_0, "
                     "Q4_1, Q5_0, Q5_1, Q2_K to Q6_K, IQ4_NL, IQ4_XS or MXFP4, found %s; convert the original weights (pyllama convert --type q8_0)", g->c->name,
                     t->name, type ? type->name : number);
}

static ak42_status read_tensor_name(tensor *t, gguf_file *g, ak42_error *err) {
    const uint64_t at = g->at;
    blob name;
    const ak42_status status = take_string(&name, g, "tensor name", TENSOR_NAME_MAX, err);
    if (status) return status;
    if (memchr(name.data, 0, (size_t)name.size))
        return error_set(err, AK42_STATUS_FORMAT, "%s: tensor name at byte %llu: expected no NUL, found one",
                         g->c->name, (unsigned long long)at);
    memcpy(t->name, name.data, (size_t)name.size);
    return AK42_STATUS_OK;
}

/* Dimensions, innermost first in the file. *rows counts the rows of all dimensions but the innermost. */
static ak42_status read_tensor_dims(tensor *t, uint64_t *rows, uint64_t *columns, gguf_file *g,
                                    ak42_error *err) {
    uint64_t dims[DIMS_MAX] = {1, 1, 1, 1}, product = 1;
    uint32_t n = 0;
    ak42_status status = take_u32(&n, g, "tensor dimensions", err);
    if (status) return status;
    if (n > DIMS_MAX)
        return error_set(err, AK42_STATUS_FORMAT, "%s: tensor %s: expected up to %d dimensions, found %u",
                         g->c->name, t->name, DIMS_MAX, n);
    for (uint32_t i = 0; i < n; i++) {
        if ((status = take_u64(&dims[i], g, "tensor dimensions", err))) return status;
        if (dims[i] > INT64_MAX || !mul_u64(&product, product, dims[i]) || product > INT64_MAX)
            return error_set(err, AK42_STATUS_FORMAT, "%s: tensor %s: expected fewer than 2^63 elements, "
                             "found dimension %llu", g->c->name, t->name, (unsigned long long)dims[i]);
    }
    *columns = dims[0];
    *rows = dims[0] ? product / dims[0] : 0;
    t->n_dims = n < 1 ? 1 : n > TENSOR_DIMS_MAX ? TENSOR_DIMS_MAX : n;
    for (uint32_t i = 0; i < t->n_dims; i++) t->dims[i] = dims[t->n_dims - 1 - i];
    if (n == DIMS_MAX && dims[3] != 1)      /* in no model that runs: keep the size right */
        t->dims[0] = t->dims[1] && t->dims[2] ? product / t->dims[1] / t->dims[2] : 0;
    return AK42_STATUS_OK;
}

/* offset must be the sum of all sizes before it, each rounded up to the alignment, and the tensor must end
 * inside the file. */
static ak42_status read_tensor_extent(tensor *t, uint64_t *sum, gguf_file *g, uint64_t rows, uint64_t columns,
                                      const ggml_type *type, ak42_error *err) {
    const ak42_status status = take_u64(&t->offset, g, "tensor offset", err);
    if (status) return status;
    if (columns % type->block_len)
        return error_set(err, AK42_STATUS_FORMAT, "%s: tensor %s: expected rows that %s's block of %u "
                         "divides, found %llu columns", g->c->name, t->name, type->name, type->block_len,
                         (unsigned long long)columns);
    if (!mul_u64(&t->nbytes, columns / type->block_len, type->block_bytes) ||
        !mul_u64(&t->nbytes, t->nbytes, rows) || t->nbytes > INT64_MAX)
        return error_set(err, AK42_STATUS_FORMAT, "%s: tensor %s: expected less than 2^63 bytes, found %llu "
                         "x %llu", g->c->name, t->name, (unsigned long long)rows,
                         (unsigned long long)columns);
    if (t->offset != *sum)
        return error_set(err, AK42_STATUS_FORMAT, "%s: tensor %s: expected offset %llu, behind the tensor "
                         "before it, found %llu", g->c->name, t->name, (unsigned long long)*sum,
                         (unsigned long long)t->offset);
    if (*sum > g->map->size || t->nbytes > g->map->size)
        return error_set(err, AK42_STATUS_FORMAT, "%s: truncated: tensor %s: expected %llu bytes at %llu of "
                         "the data, found a file of %llu; fetch or convert it again", g->c->name, t->name,
                         (unsigned long long)t->nbytes, (unsigned long long)*sum, (unsigned long long)g->map->size);
    *sum = round_up(*sum + t->nbytes, g->alignment);      /* both are below 2^63: no overflow */
    return AK42_STATUS_OK;
}

static ak42_status read_tensor(tensor *t, uint64_t *sum, gguf_file *g, container_want want, ak42_error *err) {
    uint64_t rows = 0, columns = 0;
    uint32_t id = 0;
    ak42_status status = read_tensor_name(t, g, err);
    if (!status) status = read_tensor_dims(t, &rows, &columns, g, err);
    if (!status) status = take_u32(&id, g, "tensor type", err);
    if (status) return status;
    const ggml_type *type = ggml_type_by_id(id);
    t->type = type_by_id(id);
    t->layout = LAYOUT_ROWS;
    if (!type || (want == CONTAINER_MODEL && !t->type)) return fail_type(g, t, id, type, err);
    return read_tensor_extent(t, sum, g, rows, columns, type, err);
}

/* Offsets become absolute once the table's end is known. */
static ak42_status place_tensors(tensor *tensors, const gguf_file *g, ak42_error *err) {
    const uint64_t data = round_up(g->at, g->alignment);
    for (uint32_t i = 0; i < g->n_tensors; i++) {
        tensor *t = &tensors[i];
        uint64_t end;
        if (!add_u64(&t->offset, t->offset, data) || !add_u64(&end, t->offset, t->nbytes) ||
            end > g->map->size)
            return error_set(err, AK42_STATUS_FORMAT, "%s: truncated: tensor %s: expected %llu bytes at "
                             "byte %llu, found a file of %llu; fetch or convert it again", g->c->name, t->name,
                             (unsigned long long)t->nbytes, (unsigned long long)t->offset,
                             (unsigned long long)g->map->size);
        t->home = g->map;
        t->data = g->map->data + t->offset;
    }
    return AK42_STATUS_OK;
}

/* The tensors of one file: g->n_tensors of them. */
static ak42_status read_part_tensors(tensor *tensors, gguf_file *g, container_want want, ak42_error *err) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < g->n_tensors; i++) {
        const ak42_status status = read_tensor(&tensors[i], &sum, g, want, err);
        if (status) return status;
    }
    return place_tensors(tensors, g, err);
}

/* Those of the file, then those of its further parts. */
static ak42_status read_tensors(gguf_file *g, container_want want, ak42_error *err) {
    container *c = g->c;
    uint64_t n = g->n_tensors;
    for (uint32_t i = 0; i < g->n_parts; i++) n += g->parts[i].n_tensors;
    if (n > TENSORS_MAX)
        return error_set(err, AK42_STATUS_FORMAT, "%s: expected at most %d tensors in all parts, found %llu",
                         c->name, TENSORS_MAX, (unsigned long long)n);
    if (!(c->tensors = mem_zalloc(c->alloc, n, sizeof *c->tensors)))
        return error_set(err, AK42_STATUS_NOMEM, "%s: no memory for the list of %llu tensors", c->name,
                         (unsigned long long)n);
    ak42_status status = read_part_tensors(c->tensors, g, want, err);
    uint64_t done = g->n_tensors;
    for (uint32_t i = 0; i < g->n_parts && !status; i++) {
        gguf_name_part(c, i + 1);
        status = read_part_tensors(c->tensors + done, &g->parts[i], want, err);
        if (status) status = gguf_fail_part(g, i, status, err);
        done += g->parts[i].n_tensors;
    }
    if (status) return status;
    if (g->n_parts) gguf_name_part(c, 0);
    c->n_tensors = (uint32_t)n;
    return container_sort(c, err);
}

/* ---- the file ---- */

static ak42_status read_header(gguf_file *g, ak42_error *err) {
    container *c = g->c;
    const uint8_t *data = g->map->data;
    if (g->map->size < HEADER_BYTES) return fail_short(g, "header", HEADER_BYTES, err);
    const uint32_t version = load_u32(data + 4);
    const uint64_t n_tensors = load_u64(data + 8), n_values = load_u64(data + 16);
    if (version == 0x02000000 || version == 0x03000000)
        return error_set(err, AK42_STATUS_UNSUPPORTED, "%s: expected little-endian GGUF, found a big-endian "
                         "file", c->name);
    if (version != 2 && version != 3)
        return error_set(err, version ? AK42_STATUS_UNSUPPORTED : AK42_STATUS_FORMAT, "%s: field version at "
                         "byte 4: expected GGUF version 2 or 3, found %u", c->name, version);
    snprintf(c->format, sizeof c->format, "gguf v%u", version == 2 ? 2u : 3u);
    g->at = HEADER_BYTES;
    if (n_values > VALUES_MAX || n_values > left(g) / VALUE_BYTES_MIN)
        return error_set(err, AK42_STATUS_FORMAT, "%s: field n_kv at byte 16: expected at most %d and "
                         "inside the file, found %llu", c->name, VALUES_MAX, (unsigned long long)n_values);
    if (n_tensors > TENSORS_MAX || n_tensors > left(g) / TENSOR_BYTES_MIN)
        return error_set(err, AK42_STATUS_FORMAT, "%s: field n_tensors at byte 8: expected at most %d and "
                         "inside the file, found %llu", c->name, TENSORS_MAX, (unsigned long long)n_tensors);
    g->n_values = (uint32_t)n_values;
    g->n_tensors = (uint32_t)n_tensors;
    if (!(g->values = mem_zalloc(c->alloc, n_values, sizeof *g->values)))
        return error_set(err, AK42_STATUS_NOMEM, "%s: no memory for %u keys", c->name, g->n_values);
    return AK42_STATUS_OK;
}

ak42_status gguf_read_metadata(gguf_file *g, ak42_error *err) {
    ak42_status status = read_header(g, err);
    if (!status) status = read_values(g, err);
    if (!status) status = read_alignment(g, err);
    return status;
}

ak42_status gguf_parse(container *c, container_want want, ak42_error *err) {
    gguf_file g = {.c = c, .map = &c->map};
    ak42_status status = gguf_read_metadata(&g, err);
    if (!status) status = gguf_open_parts(&g, want, err);
    if (!status && want == CONTAINER_MODEL) status = gguf_read_architecture(&g, err);
    if (!status) status = gguf_read_vocab(&g, err);
    if (!status) status = gguf_read_sections(&g, err);
    if (!status) {
        status = read_tensors(&g, want, err);
        /* A vocabulary is no worse for standing beside tensors of a type that nobody here knows. */
        if (status == AK42_STATUS_UNSUPPORTED && want == CONTAINER_VOCAB) status = AK42_STATUS_OK;
        if (want == CONTAINER_VOCAB) container_free(c);
    }
    if (!status && want == CONTAINER_MODEL) status = gguf_read_config(&g, err);
    mem_free(c->alloc, g.parts);
    mem_free(c->alloc, g.values);
    return status;
}
