/* container.c: decides what a file is from its first bytes, hands it to its reader, and finds tensors by
 * name. What is not a model of ours is named, so that the message says what to do next. Called by model.c
 * and, for vocabularies, by api.c. */
#include "container.h"

#include <ctype.h>
#include <stdlib.h>

#include "error.h"
#include "roles.h"

/* ---- what other files look like ---- */

typedef struct signature {
    const char *bytes;
    uint8_t size;
    ak42_status status;
    const char *what;
} signature;

#define CONVERT_WEIGHTS "convert the original weights with pyllama convert"
#define CONVERT_FOLDER "convert its folder with pyllama convert"

static const signature signatures[] = {
    {"ybab", 4, AK42_STATUS_UNSUPPORTED, "a baby-llm file (magic 0x62616279); " CONVERT_WEIGHTS},
    {"1cja", 4, AK42_STATUS_UNSUPPORTED, "a qwen3.c file (magic 0x616a6331); " CONVERT_WEIGHTS},
    {"\xcd\xab\x00\x0a", 4, AK42_STATUS_UNSUPPORTED,
     "a distributed-llama file (magic 0x0A00ABCD); " CONVERT_WEIGHTS},
    {"ak42", 4, AK42_STATUS_UNSUPPORTED, "an ak42 file in big-endian byte order"},
    {"lmgg", 4, AK42_STATUS_UNSUPPORTED, "a GGML file older than GGUF; " CONVERT_WEIGHTS},
    {"fmgg", 4, AK42_STATUS_UNSUPPORTED, "a GGMF file older than GGUF; " CONVERT_WEIGHTS},
    {"tjgg", 4, AK42_STATUS_UNSUPPORTED, "a GGJT file older than GGUF; " CONVERT_WEIGHTS},
    {"version https://git-lfs", 23, AK42_STATUS_FORMAT,
     "a git-lfs pointer instead of the file; run git lfs pull"},
    {"PK\x03\x04", 4, AK42_STATUS_FORMAT, "a zip archive (a torch checkpoint?); " CONVERT_FOLDER},
    {"\x80\x02\x8a\x0a", 4, AK42_STATUS_FORMAT, "a Python pickle (a torch checkpoint?); " CONVERT_FOLDER},
    {"\x80\x04\x95", 3, AK42_STATUS_FORMAT, "a Python pickle; " CONVERT_FOLDER},
    {"\x7f" "ELF", 4, AK42_STATUS_FORMAT, "an ELF program"},
    {"\x89PNG", 4, AK42_STATUS_FORMAT, "a PNG picture"},
    {"\x1f\x8b\x08", 3, AK42_STATUS_FORMAT, "a gzip archive; unpack it first"},
    {"\x28\xb5\x2f\xfd", 4, AK42_STATUS_FORMAT, "a zstd archive; unpack it first"},
    {"%PDF", 4, AK42_STATUS_FORMAT, "a PDF document"},
    {"\x89HDF", 4, AK42_STATUS_FORMAT, "an HDF5 file"},
    {"#!", 2, AK42_STATUS_FORMAT, "a script"},
};

/* Text that begins, after white space, with one of the words, in any case. */
static bool begins_with_word(const filemap *map, const char *const *words, size_t n_words) {
    /* a byte order mark */
    uint64_t at = map->size >= 3 && !memcmp(map->data, "\xef\xbb\xbf", 3) ? 3 : 0;
    while (at < map->size && at < 64 && isspace(map->data[at])) at++;
    for (size_t i = 0; i < n_words; i++) {
        const size_t size = strlen(words[i]);
        size_t same = 0;
        if (map->size - at < size) continue;
        while (same < size && tolower(map->data[at + same]) == words[i][same]) same++;
        if (same == size) return true;
    }
    return false;
}

static bool is_safetensors(const filemap *map) {
    return map->size > 9 && map->data[8] == '{' && load_u64(map->data) <= map->size - 8;
}

/* OK where nothing is recognised. */
static ak42_status name_stranger(const container *c, ak42_error *err) {
    static const char *const html[] = {"<!doctype", "<html", "<head", "<?xml", "<!--"};
    static const char *const json[] = {"{\"", "{ ", "{\n", "{\r", "{}"};
    const char *what = NULL;
    ak42_status status = AK42_STATUS_FORMAT;
    if (is_safetensors(&c->map)) what = "a safetensors file; " CONVERT_FOLDER;
    if (begins_with_word(&c->map, html, ARRAY_LEN(html))) what = "an HTML page: the download failed";
    if (begins_with_word(&c->map, json, ARRAY_LEN(json))) what = "a JSON text";
    for (size_t i = 0; i < ARRAY_LEN(signatures) && !what; i++) {
        if (c->map.size < signatures[i].size || memcmp(c->map.data, signatures[i].bytes, signatures[i].size))
            continue;
        what = signatures[i].what;
        status = signatures[i].status;
    }
    if (!what) return AK42_STATUS_OK;
    return error_set(err, status, "%s: expected an ak42 or GGUF file, found %s", c->name, what);
}

/* ---- the container ---- */

enum { MAGIC_AK42 = 0x616b3432, MAGIC_GGUF = 0x46554747 };

static int compare_names(const void *a, const void *b) {
    return strcmp(((const tensor *)a)->name, ((const tensor *)b)->name);
}

ak42_status container_sort(container *c, ak42_error *err) {
    if (!c->n_tensors) return AK42_STATUS_OK;
    qsort(c->tensors, c->n_tensors, sizeof *c->tensors, compare_names);
    for (uint32_t i = 1; i < c->n_tensors; i++)
        if (!compare_names(&c->tensors[i - 1], &c->tensors[i]))
            return error_set(err, AK42_STATUS_FORMAT, "%s: tensor %s: expected once, found twice", c->name,
                             c->tensors[i].name);
    return AK42_STATUS_OK;
}

ak42_status container_parse(container *c, container_want want, ak42_error *err) {
    const uint32_t magic = c->map.size >= 4 ? load_u32(c->map.data) : 0;
    ak42_status status;
    if (magic == MAGIC_GGUF) {
        status = gguf_parse(c, want, err);
    } else if (magic == MAGIC_AK42) {
        status = ak42_parse(c, want, err);
    } else {
        status = name_stranger(c, err);
        if (!status) status = ak42_parse_v0(c, want, err);
    }
    if (status) container_free(c);
    return status;
}

void container_free(container *c) {
    mem_free(c->alloc, c->tensors);
    mem_free(c->alloc, c->experts);
    c->tensors = c->experts = NULL;
    c->n_tensors = 0;
    for (uint32_t i = 0; i < c->n_parts; i++) filemap_close(&c->parts[i]);
    mem_free(c->alloc, c->parts);
    c->parts = NULL;
    c->n_parts = 0;
}

static int compare_key(const void *key,
                       const void *element) { return strcmp(key, ((const tensor *)element)->name); }

const tensor *container_find(const container *c, const char *name) {
    if (!c->n_tensors) return NULL;
    return bsearch(name, c->tensors, c->n_tensors, sizeof *c->tensors, compare_key);
}

void container_read_shapes(container *c) {
    model_config *m = &c->config;
    char name[TENSOR_NAME_MAX + 1];
    for (uint32_t i = 0; i < m->n_layers && !m->expert_dim; i++) {
        role_name(name, ROLE_EXPERTS_W1, i);
        const tensor *gate = container_find(c, name);
        if (gate && gate->n_dims == 3 && gate->dims[1] <= CONFIG_MAX_DIM) m->expert_dim = (uint32_t)gate->dims[1];
    }
    role_name(name, ROLE_BO, 0);
    m->out_bias = container_find(c, name);
    role_name(name, ROLE_B1, 0);
    m->mlp_bias = container_find(c, name);
    role_name(name, ROLE_Q_NORM, 0);
    const tensor *norm = container_find(c, name);
    m->qk_norm_row = norm && norm->n_dims == 1 && norm->dims[0] != m->head_dim;
}
