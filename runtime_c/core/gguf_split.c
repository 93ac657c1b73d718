/* gguf_split.c: a model in several GGUF files, NAME-00001-of-0000N.gguf and so on, as llama.cpp's tools
 * write them: the first has the keys, each has some of the tensors. Any part's name opens all; a part that
 * is missing, or of another model, is named. It reads no tensor. Called by gguf_parse. */
#include <stdio.h>

#include "error.h"
#include "gguf_file.h"

enum {
    PARTS_MAX = 65535,                   /* split.count is a u16 */
    NUMBER_DIGITS = 5,
    TAIL_BYTES = 20,                     /* "-00001-of-00002.gguf" */
    NUMBER_AT = 1,                       /* of this part, in the tail */
};

typedef struct split {
    uint64_t number, count, n_tensors;   /* number counts from 0; n_tensors: of all parts, 0 where unsaid */
} split;

/* An integer key of any width; *out unchanged where it is absent. */
static ak42_status read_number(uint64_t *out, const gguf_file *g, const char *key, ak42_error *err) {
    static const uint8_t bytes[GGUF_TYPES] = {[GGUF_U8] = 1,  [GGUF_I8] = 1,  [GGUF_U16] = 2, [GGUF_I16] = 2,
                                              [GGUF_U32] = 4, [GGUF_I32] = 4, [GGUF_U64] = 8, [GGUF_I64] = 8};
    const gguf_value *v = gguf_find(g, key);
    if (!v) return AK42_STATUS_OK;
    uint64_t value = 0;
    for (uint32_t i = 0; i < bytes[v->type]; i++) value |= (uint64_t)v->content.data[i] << (8 * i);
    if (!bytes[v->type] || value > INT32_MAX)
        return error_set(err, AK42_STATUS_FORMAT, "%s: key %s: expected a small integer, found another value",
                         g->c->name, key);
    *out = value;
    return AK42_STATUS_OK;
}

static ak42_status read_split(split *s, const gguf_file *g, ak42_error *err) {
    *s = (split){.count = 1};
    ak42_status status = read_number(&s->count, g, "split.count", err);
    if (!status) status = read_number(&s->number, g, "split.no", err);
    if (!status) status = read_number(&s->n_tensors, g, "split.tensors.count", err);
    if (status) return status;
    if (!s->count || s->count > PARTS_MAX || s->number >= s->count)
        return error_set(err, AK42_STATUS_FORMAT, "%s: keys split.no, split.count: expected a part of up to "
                         "%d, found part %llu of %llu", g->c->name, PARTS_MAX,
                         (unsigned long long)s->number + 1, (unsigned long long)s->count);
    return AK42_STATUS_OK;
}

/* ---- names ---- */

static void write_number(char *out, uint64_t number) {
    for (int i = NUMBER_DIGITS; i-- > 0; number /= 10) out[i] = (char)('0' + number % 10);
}

/* Whether a path ends as part `number` of `count` has to. */
static bool is_named(const char *path, uint64_t number, uint64_t count) {
    char tail[TAIL_BYTES + 1] = "-00000-of-00000.gguf";
    write_number(tail + NUMBER_AT, number + 1);
    write_number(tail + NUMBER_AT + NUMBER_DIGITS + 4, count);
    const size_t size = strlen(path);
    return size > TAIL_BYTES && !strcmp(path + size - TAIL_BYTES, tail);
}

void gguf_name_part(container *c, uint32_t number) {
    const size_t size = strlen(c->name);
    /* a name too long for its field has lost its digits, and stays */
    if (size > TAIL_BYTES && !strcmp(c->name + size - 5, ".gguf"))
        write_number(c->name + size - TAIL_BYTES + NUMBER_AT, (uint64_t)number + 1);
}

static const char *file_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Puts a part's number in front of what err says. */
static ak42_status prefix(ak42_status status, uint64_t number, uint64_t count, ak42_error *err) {
    if (!err) return status;
    const ak42_error inner = *err;
    return error_set(err, status, "part %llu of %llu: %s", (unsigned long long)number + 1,
                     (unsigned long long)count, inner.text);
}

ak42_status gguf_fail_part(const gguf_file *g, uint32_t i, ak42_status status, ak42_error *err) {
    return prefix(status, i + 1, (uint64_t)g->n_parts + 1, err);
}

/* ---- opening ---- */

/* Opens part `number` at `path`, whose digits are written in place, and checks that it is that part. Its
 * values are gone again afterwards. */
static ak42_status open_part(gguf_file *part, filemap *map, char *path, uint64_t number, uint64_t count,
                             bool use_mmap, ak42_error *err) {
    write_number(path + strlen(path) - TAIL_BYTES + NUMBER_AT, number + 1);
    ak42_status status = filemap_open(map, path, use_mmap, err);
    if (status) return status;
    part->map = map;
    if (map->size < 4 || memcmp(map->data, "GGUF", 4))
        return error_set(err, AK42_STATUS_FORMAT, "%s: expected a GGUF file, found other first bytes",
                         file_name(path));
    split s;
    status = gguf_read_metadata(part, err);
    if (!status) status = read_split(&s, part, err);
    if (!status && (s.number != number || s.count != count))
        status = error_set(err, AK42_STATUS_FORMAT, "%s: expected part %llu of %llu, found part %llu of %llu",
                           file_name(path), (unsigned long long)number + 1, (unsigned long long)count,
                           (unsigned long long)s.number + 1, (unsigned long long)s.count);
    return status;
}

/* Goes over to the first part's file. */
static ak42_status open_first(gguf_file *g, char *path, uint64_t count, ak42_error *err) {
    container *c = g->c;
    filemap map = {0};
    mem_free(c->alloc, g->values);
    *g = (gguf_file){.c = c};
    write_number(path + strlen(path) - TAIL_BYTES + NUMBER_AT, 1);
    snprintf(c->name, sizeof c->name, "%s", file_name(path));
    const ak42_status status = open_part(g, &map, path, 0, count, !c->copied, err);
    if (status) {
        mem_free(c->alloc, g->values);
        g->values = NULL;
        g->map = &c->map;
        filemap_close(&map);
        return status;
    }
    filemap_close(&c->map);
    c->map = map;
    g->map = &c->map;
    return AK42_STATUS_OK;
}

static ak42_status open_others(gguf_file *g, char *path, const split *first, ak42_error *err) {
    container *c = g->c;
    const uint32_t n = (uint32_t)first->count - 1;
    c->parts = mem_zalloc(c->alloc, n, sizeof *c->parts);
    g->parts = mem_zalloc(c->alloc, n, sizeof *g->parts);
    if (!c->parts || !g->parts)
        return error_set(err, AK42_STATUS_NOMEM, "%s: no memory for its %u parts", c->name, n + 1);
    c->n_parts = g->n_parts = n;
    uint64_t n_tensors = g->n_tensors;
    for (uint32_t i = 0; i < n; i++) {
        gguf_file *part = &g->parts[i];
        part->c = c;
        gguf_name_part(c, i + 1);
        const ak42_status status = open_part(part, &c->parts[i], path, i + 1, first->count, !c->copied, err);
        mem_free(c->alloc, part->values);
        part->values = NULL;
        if (status) return gguf_fail_part(g, i, status, err);
        n_tensors += part->n_tensors;
    }
    gguf_name_part(c, 0);
    if (first->n_tensors && first->n_tensors != n_tensors)
        return error_set(err, AK42_STATUS_FORMAT, "%s: key split.tensors.count: expected the %llu tensors of "
                         "all parts, found %llu", c->name, (unsigned long long)n_tensors,
                         (unsigned long long)first->n_tensors);
    return AK42_STATUS_OK;
}

ak42_status gguf_open_parts(gguf_file *g, container_want want, ak42_error *err) {
    container *c = g->c;
    split s;
    ak42_status status = read_split(&s, g, err);
    if (status || s.count == 1) return status;
    if (!c->path)
        return error_set(err, AK42_STATUS_UNSUPPORTED, "%s: part %llu of %llu: expected a file with the "
                         "others beside it, found memory", c->name, (unsigned long long)s.number + 1,
                         (unsigned long long)s.count);
    if (!is_named(c->path, s.number, s.count))
        return error_set(err, AK42_STATUS_FORMAT, "%s: part %llu of %llu: expected a name that ends in "
                         "-%05llu-of-%05llu.gguf, found another", c->name, (unsigned long long)s.number + 1,
                         (unsigned long long)s.count, (unsigned long long)s.number + 1,
                         (unsigned long long)s.count);
    const size_t size = strlen(c->path) + 1;
    char *path = mem_zalloc(c->alloc, size, 1);
    if (!path) return error_set(err, AK42_STATUS_NOMEM, "%s: no memory for a path", c->name);
    memcpy(path, c->path, size);
    if (s.number) {
        const uint64_t count = s.count;
        status = open_first(g, path, count, err);
        if (!status) status = read_split(&s, g, err);
        if (status) prefix(status, 0, count, err);
    }
    if (!status && want == CONTAINER_MODEL) status = open_others(g, path, &s, err);
    mem_free(c->alloc, path);
    return status;
}
