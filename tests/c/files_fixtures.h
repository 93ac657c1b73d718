/* files_fixtures.h: tiny model files built in memory, byte by byte from docs/format.md and GGUF's
 * specification, for check_files.c. It shares no code with the readers but base.h's arithmetic and, for
 * panels, panel_pack. Weights are numbers from a seed. */
#ifndef FILES_FIXTURES_H
#define FILES_FIXTURES_H

#include <stdio.h>
#include <stdlib.h>

#include "../../runtime_c/core/container.h"
#include "../../runtime_c/core/panel.h"

/* ---- a growing run of bytes that remembers places by name ---- */

enum { MARKS_MAX = 256 };
typedef struct bytes {
    uint8_t *data;
    size_t size, capacity;
    struct {
        char name[48];
        size_t at;
    } marks[MARKS_MAX];
    size_t n_marks;
} bytes;

static void put(bytes *b, const void *data, size_t size) {
    while (b->size + size > b->capacity) {
        b->capacity = b->capacity ? 2 * b->capacity : 4096;
        b->data = realloc(b->data, b->capacity);
        if (!b->data) exit(2);
    }
    if (data) memcpy(b->data + b->size, data, size);
    else memset(b->data + b->size, 0, size);
    b->size += size;
}
static void put_u8(bytes *b, uint8_t v) { put(b, &v, 1); }
static void put_u32(bytes *b, uint32_t v) {
    const uint8_t little[4] = {(uint8_t)v, (uint8_t)(v >> 8), (uint8_t)(v >> 16), (uint8_t)(v >> 24)};
    put(b, little, 4);
}
static void put_u64(bytes *b, uint64_t v) {
    put_u32(b, (uint32_t)v);
    put_u32(b, (uint32_t)(v >> 32));
}
static void put_f32(bytes *b, float v) {
    uint32_t bits;
    memcpy(&bits, &v, 4);
    put_u32(b, bits);
}
static void pad(bytes *b, size_t multiple) { put(b, NULL, (multiple - b->size % multiple) % multiple); }

static void mark(bytes *b, const char *name) {
    if (b->n_marks == MARKS_MAX) exit(2);
    snprintf(b->marks[b->n_marks].name, sizeof b->marks[0].name, "%.47s", name);
    b->marks[b->n_marks++].at = b->size;
}
static size_t marked(const bytes *b, const char *name) {
    for (size_t i = 0; i < b->n_marks; i++)
        if (!strcmp(b->marks[i].name, name)) return b->marks[i].at;
    printf("no mark %s\n", name);
    exit(2);
}

static void set_u32(uint8_t *p, uint32_t v) {
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(v >> 8 * i);
}
static void set_u64(uint8_t *p, uint64_t v) {
    for (int i = 0; i < 8; i++) p[i] = (uint8_t)(v >> 8 * i);
}
static void set_f32(uint8_t *p, float v) {
    uint32_t bits;
    memcpy(&bits, &v, 4);
    set_u32(p, bits);
}

/* ---- weights ---- */

static uint64_t random_state;
static uint32_t random_u32(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 32);
}

/* Makes the numbers of a block of random bytes small: the exponents of its floats, wherever they stand. */
static void tame(uint8_t *block, const type_info *type) {
    static const struct {
        uint32_t id, n;
        uint8_t at[2];                     /* the f16 or bf16 numbers of a block */
    } halves[] = {
        {TYPE_F16, 1, {0}}, {TYPE_BF16, 1, {0}}, {TYPE_Q8_0, 1, {0}}, {TYPE_Q4_0, 1, {0}}, {TYPE_Q4_1, 2, {0, 2}},
        {TYPE_Q5_0, 1, {0}}, {TYPE_Q5_1, 2, {0, 2}}, {TYPE_Q2_K, 2, {80, 82}}, {TYPE_Q3_K, 1, {108}}, {TYPE_Q4_K, 2, {0, 2}},
        {TYPE_Q5_K, 2, {0, 2}}, {TYPE_Q6_K, 1, {208}}, {TYPE_IQ4_NL, 1, {0}}, {TYPE_IQ4_XS, 1, {0}},
    };
    if (type->id == TYPE_F32 || type->id == TYPE_NF4) block[3] &= 0xbf;
    if (type->id == TYPE_MXFP4) block[0] &= 0x7f;
    for (size_t i = 0; i < ARRAY_LEN(halves); i++)
        for (uint32_t k = 0; k < halves[i].n && halves[i].id == type->id; k++) block[halves[i].at[k] + 1] &= 0xbf;
}

/* n weights of a type (whole blocks); codes are any bytes, scales and floats are finite. */
static void put_weights(bytes *b, const type_info *type, uint32_t group_size, uint64_t n) {
    if (type->id == TYPE_INT8) {
        for (uint64_t i = 0; i < n; i++) put_u8(b, (uint8_t)random_u32());
        for (uint64_t i = 0; i < n / group_size; i++) put_f32(b, (float)(random_u32() % 1000) / 1000.0f);
        return;
    }
    for (uint64_t i = 0; i < n / type->block_len; i++) {
        const size_t at = b->size;
        for (uint32_t k = 0; k < type->block_bytes; k++) put_u8(b, (uint8_t)random_u32());
        tame(b->data + at, type);
    }
    if (type->id != TYPE_NF4_DQ) return;
    put_f32(b, 0.5f);                      /* behind its blocks: the offset, and a scale for each 256 */
    for (uint64_t i = 0; i < div_up(n / NF4_BLOCK, NF4_NESTED); i++) put_f32(b, (float)(random_u32() % 1000) / 4000.0f);
}

/* ---- what all fixtures share ---- */

/* A model: odd sizes, grouped heads. */
typedef struct shape {
    uint32_t dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len, head_dim;
    bool shared;
    uint32_t group_size;
} shape;

typedef struct spec_tensor {
    char name[TENSOR_NAME_MAX + 1];
    uint32_t rows, columns;            /* rows 0: a vector */
} spec_tensor;

enum { SPEC_TENSORS_MAX = 64 };
static size_t add_spec(spec_tensor *out, size_t n, const char *name, uint32_t rows, uint32_t columns) {
    snprintf(out[n].name, sizeof out[n].name, "%s.weight", name);
    out[n].rows = rows;
    out[n].columns = columns;
    return n + 1;
}

/* In v3's order. */
static size_t model_tensors(spec_tensor *out, const shape *s, bool rope_freqs) {
    const uint32_t q = s->n_heads * s->head_dim, kv = s->n_kv_heads * s->head_dim;
    char name[48];
    size_t n = add_spec(out, 0, "token_embd", s->vocab_size, s->dim);
    if (rope_freqs) n = add_spec(out, n, "rope_freqs", 0, s->head_dim / 2);
    for (uint32_t l = 0; l < s->n_layers; l++) {
        const struct {
            const char *name;
            uint32_t rows, columns;
        } of_layer[] = {
            {"attn_norm", 0, s->dim},           {"attn_q", q, s->dim},
            {"attn_k", kv, s->dim},             {"attn_v", kv, s->dim},
            {"attn_output", s->dim, q},         {"ffn_norm", 0, s->dim},
            {"ffn_gate", s->hidden_dim, s->dim}, {"ffn_up", s->hidden_dim, s->dim},
            {"ffn_down", s->dim, s->hidden_dim},
        };
        for (size_t i = 0; i < ARRAY_LEN(of_layer); i++) {
            snprintf(name, sizeof name, "blk.%u.%s", l, of_layer[i].name);
            n = add_spec(out, n, name, of_layer[i].rows, of_layer[i].columns);
        }
    }
    n = add_spec(out, n, "output_norm", 0, s->dim);
    return s->shared ? n : add_spec(out, n, "output", s->vocab_size, s->dim);
}

/* ---- v0, v1, v2 ---- */

static void put_dims(bytes *b, const shape *s, int32_t vocab_size) {
    const uint32_t dims[] = {s->dim, s->hidden_dim, s->n_layers, s->n_heads, s->n_kv_heads,
                             (uint32_t)vocab_size, s->seq_len};
    for (size_t i = 0; i < ARRAY_LEN(dims); i++) put_u32(b, dims[i]);
}

/* One tensor of each layer, or one alone. */
static void put_role(bytes *b, const shape *s, const char *name, uint32_t type, uint64_t n, bool layers) {
    for (uint32_t l = 0; l < (layers ? s->n_layers : 1); l++) {
        char full[48];
        if (layers) snprintf(full, sizeof full, "blk.%u.%s", l, name);
        else snprintf(full, sizeof full, "%s", name);
        mark(b, full);
        put_weights(b, type_by_id(type), s->group_size, n);
    }
}

static void put_matrices(bytes *b, const shape *s, uint32_t type) {
    const uint64_t d = s->dim, h = s->hidden_dim;
    const uint64_t q = (uint64_t)s->n_heads * s->head_dim, kv = (uint64_t)s->n_kv_heads * s->head_dim;
    put_role(b, s, "attn_q", type, q * d, true);
    put_role(b, s, "attn_k", type, kv * d, true);
    put_role(b, s, "attn_v", type, kv * d, true);
    put_role(b, s, "attn_output", type, d * q, true);
    /* v0 has it here */
    if (type == TYPE_F32 && b->marks[0].at == 28) put_role(b, s, "ffn_norm", TYPE_F32, d, true);
    put_role(b, s, "ffn_gate", type, h * d, true);
    put_role(b, s, "ffn_down", type, d * h, true);
    put_role(b, s, "ffn_up", type, h * d, true);
}

static inline bytes build_v0(const shape *s) {
    bytes b = {0};
    random_state = 1;
    put_dims(&b, s, s->shared ? (int32_t)s->vocab_size : -(int32_t)s->vocab_size);
    put_role(&b, s, "token_embd", TYPE_F32, (uint64_t)s->vocab_size * s->dim, false);
    put_role(&b, s, "attn_norm", TYPE_F32, s->dim, true);
    put_matrices(&b, s, TYPE_F32);
    put_role(&b, s, "output_norm", TYPE_F32, s->dim, false);
    mark(&b, "freq_cos");
    put(&b, NULL, (size_t)s->seq_len * s->head_dim / 2 * 4);
    mark(&b, "freq_sin");
    put(&b, NULL, (size_t)s->seq_len * s->head_dim / 2 * 4);
    if (!s->shared) put_role(&b, s, "output", TYPE_F32, (uint64_t)s->vocab_size * s->dim, false);
    return b;
}

/* Bytes 0 to 255, the extension's place left zero. */
static void put_header(bytes *b, const shape *s, uint32_t version) {
    put_u32(b, 0x616b3432);
    put_u32(b, version);
    put_dims(b, s, (int32_t)s->vocab_size);
    put_u8(b, s->shared);
    put_u32(b, version == 1 ? 0 : s->group_size);
    put(b, NULL, 256 - b->size);
}

/* Fields of the extension whose zero does not mean "none". */
static void fill_extension(bytes *b, const shape *s, uint32_t incompat) {
    uint8_t *p = b->data;
    memcpy(p + 64, "AKX1\xc0\0\0\0", 8);
    set_u32(p + 76, incompat);
    set_f32(p + 80, 10000.0f), set_f32(p + 84, 1e-5f);
    set_u32(p + 88, s->head_dim);
    set_f32(p + 104, 1.0f), set_f32(p + 120, 1.0f);
    set_u32(p + 124, 1), set_u32(p + 128, 2);
    for (int i = 132; i <= 144; i += 4) set_u32(p + i, UINT32_MAX);
    set_u32(p + 172, s->seq_len);
}

static void put_section(bytes *b, const char *tag, const void *data, size_t size) {
    mark(b, tag);
    put(b, tag, 4);
    put_u32(b, 0);
    put_u64(b, size);
    put(b, data, size);
    pad(b, 8);
}

/* The checksums of header and trailer, as they must be for the bytes that stand there now; extents are not
 * touched. */
static void sign(uint8_t *data, size_t size) {
    const uint64_t trailer = load_u64(data + 208), trailer_bytes = load_u64(data + 216);
    const uint64_t directory = load_u64(data + 176);
    const uint64_t n = load_u32(data + 184);
    if (trailer <= size && trailer_bytes <= size - trailer)
        set_u32(data + 248, crc32c(0, data + trailer, (size_t)trailer_bytes));
    if (directory <= size && n * 128 <= size - directory)
        set_u32(data + 188, crc32c(0, data + directory, (size_t)n * 128));
    set_u32(data + 252, crc32c(0, data, 252));
}

static const char conf_llama[] = "{\"architectures\": [\"LlamaForCausalLM\"], \"n\": {\"model_type\": 1}, "
    "\"model_type\": \"llama\"}";

/* Trailer and extents; data begins at data_offset and ends at b's end. */
static void finish(bytes *b, size_t data_offset, const char *conf, const uint32_t *layers,
                   uint32_t n_layers) {
    set_u64(b->data + 192, data_offset);
    set_u64(b->data + 200, b->size - data_offset);
    if (load_u32(b->data + 4) < 3)
        set_u32(b->data + 244, crc32c(0, b->data + data_offset, b->size - data_offset));
    pad(b, 8);
    const size_t trailer = b->size;
    mark(b, "trailer");
    put_section(b, "NEXT", "of a later version", 18);
    if (conf) put_section(b, "CONF", conf, strlen(conf));
    put_section(b, "TMPL", "{{ messages }}", 14);
    if (layers) {
        put_section(b, "LAYR", NULL, 0);
        b->size -= 16;
        put(b, "LAYR\0\0\0", 8);
        put_u64(b, 4 * (uint64_t)n_layers);
        for (uint32_t i = 0; i < n_layers; i++) put_u32(b, layers[i]);
        pad(b, 8);
    }
    set_u64(b->data + 208, trailer);
    set_u64(b->data + 216, b->size - trailer);
    set_u64(b->data + 224, b->size);
    sign(b->data, b->size);
}

static inline bytes build_v12(const shape *s, uint32_t version, bool extended) {
    bytes b = {0};
    const uint32_t type = version == 1 ? TYPE_F32 : TYPE_INT8;
    random_state = version;
    put_header(&b, s, version);
    put_role(&b, s, "attn_norm", TYPE_F32, s->dim, true);
    put_role(&b, s, "ffn_norm", TYPE_F32, s->dim, true);
    put_role(&b, s, "output_norm", TYPE_F32, s->dim, false);
    put_role(&b, s, "token_embd", type, (uint64_t)s->vocab_size * s->dim, false);
    put_matrices(&b, s, type);
    if (!s->shared) put_role(&b, s, "output", type, (uint64_t)s->vocab_size * s->dim, false);
    if (extended) {
        fill_extension(&b, s, 0);
        finish(&b, 256, NULL, NULL, 0);
    }
    return b;
}

/* ---- v3 ---- */

enum { FEATURE_SCALING = 1 << 1, FEATURE_HEAD_DIM = 1 << 3, FEATURE_WINDOW = 1 << 6, FEATURE_LAYERS = 1 << 14,
       FEATURE_DIRECTORY = 1 << 15 };

/* Matrices get the types in turn; layout as said. Sliding window in layer 0 only, rope factors. */
static inline bytes build_v3(const shape *s, const uint32_t *types, size_t n_types, uint32_t layout) {
    bytes b = {0};
    spec_tensor tensors[SPEC_TENSORS_MAX];
    const size_t n = model_tensors(tensors, s, true);
    random_state = 3;
    put_header(&b, s, 3);
    put(&b, NULL, n * 128);
    const size_t directory_end = b.size;
    pad(&b, 4096);
    const size_t data_offset = b.size;
    for (size_t i = 0; i < n; i++) {
        const spec_tensor *t = &tensors[i];
        const type_info *type = type_by_id(t->rows ? types[i % n_types] : TYPE_F32);
        const uint32_t group = type->id == TYPE_INT8 ? s->group_size : 0;
        bytes rows = {0};
        pad(&b, 64);
        mark(&b, t->name);
        uint8_t *e = b.data + 256 + i * 128;
        memcpy(e, t->name, strlen(t->name));
        set_u32(e + 64, type->id);
        set_u32(e + 68, t->rows && layout ? type->panels : 0);
        set_u32(e + 72, t->rows ? 2 : 1);
        set_u64(e + 80, t->rows ? t->rows : t->columns);
        set_u64(e + 88, t->rows ? t->columns : 0);
        set_u64(e + 104, b.size);
        const size_t begin = b.size;
        put_weights(&rows, type, group, (uint64_t)(t->rows ? t->rows : 1) * t->columns);
        if (!strcmp(t->name, "rope_freqs.weight"))
            for (uint32_t k = 0; k < t->columns; k++) set_f32(rows.data + 4 * k, 1.0f + (float)k);
        if (t->rows && layout) {
            const uint64_t panels = div_up(t->rows, 16);
            put(&b, NULL, (size_t)(panels * type_panel_bytes(type, group, t->columns)));
            panel_pack(type, group, b.data + begin, rows.data, t->rows, t->columns, 0, panels);
        } else {
            put(&b, rows.data, rows.size);
        }
        free(rows.data);
        e = b.data + 256 + i * 128;
        set_u64(e + 112, b.size - begin);
        set_u32(e + 120, crc32c(0, b.data + begin, b.size - begin));
    }
    fill_extension(&b, s, FEATURE_DIRECTORY | FEATURE_SCALING | FEATURE_HEAD_DIM | FEATURE_WINDOW |
                          FEATURE_LAYERS);
    set_u32(b.data + 96, 3);
    set_u64(b.data + 176, 256);
    set_u32(b.data + 184, (uint32_t)n);
    const uint32_t layers[] = {1, 0, 0, 0};
    finish(&b, data_offset, conf_llama, layers, s->n_layers);
    (void)directory_end;
    return b;
}

/* ---- GGUF ---- */

enum { G_U8, G_I8, G_U16, G_I16, G_U32, G_I32, G_F32, G_BOOL, G_STRING, G_ARRAY, G_U64, G_I64, G_F64 };

static void put_string(bytes *b, const char *text) {
    put_u64(b, strlen(text));
    put(b, text, strlen(text));
}
static void kv(bytes *b, const char *key, uint32_t type) {
    mark(b, key);
    put_string(b, key);
    put_u32(b, type);
    set_u64(b->data + 16, load_u64(b->data + 16) + 1);
}
static void kv_u32(bytes *b, const char *key, uint32_t value) { kv(b, key, G_U32), put_u32(b, value); }
static void kv_f32(bytes *b, const char *key, float value) { kv(b, key, G_F32), put_f32(b, value); }
static void kv_bool(bytes *b, const char *key, uint8_t value) { kv(b, key, G_BOOL), put_u8(b, value); }
static void kv_string(bytes *b, const char *key, const char *value) {
    kv(b, key, G_STRING);
    put_string(b, value);
}
static void kv_array(bytes *b, const char *key, uint32_t element, uint64_t count) {
    kv(b, key, G_ARRAY), put_u32(b, element), put_u64(b, count);
}

typedef void gguf_edit(bytes *b);      /* adds keys */

static void put_gguf_header(bytes *b, uint32_t version) {
    put(b, "GGUF", 4);
    put_u32(b, version);
    put_u64(b, 0);
    put_u64(b, 0);
}

/* edit (may be NULL) adds keys of its own; a key of edit's keeps the usual one away if skip names it. */
static inline bytes build_gguf(const shape *s, uint32_t version, const uint32_t *types, size_t n_types,
                        gguf_edit *edit, const char *skip) {
    bytes b = {0};
    spec_tensor tensors[SPEC_TENSORS_MAX];
    const size_t n = model_tensors(tensors, s, false);
    const struct {
        const char *key;
        uint32_t value;
    } ints[] = {
        {"llama.block_count", s->n_layers},
        {"llama.context_length", s->seq_len},
        {"llama.embedding_length", s->dim},
        {"llama.feed_forward_length", s->hidden_dim},
        {"llama.attention.head_count", s->n_heads},
        {"llama.attention.head_count_kv", s->n_kv_heads},
        {"llama.attention.key_length", s->head_dim},
        {"llama.attention.value_length", s->head_dim},
    };
    random_state = 4;
    put_gguf_header(&b, version);
    if (!skip || strcmp(skip, "general.architecture")) kv_string(&b, "general.architecture", "llama");
    for (size_t i = 0; i < ARRAY_LEN(ints); i++)
        if (!skip || strcmp(skip, ints[i].key)) kv_u32(&b, ints[i].key, ints[i].value);
    if (!skip || strcmp(skip, "llama.attention.layer_norm_rms_epsilon"))
        kv_f32(&b, "llama.attention.layer_norm_rms_epsilon", 1e-6f);
    kv_f32(&b, "llama.rope.freq_base", 500000.0f);
    kv_string(&b, "tokenizer.chat_template", "{{ messages }}");
    kv_array(&b, "ak42.chat", G_U8, 3), put(&b, "abc", 3);
    if (edit) edit(&b);
    mark(&b, "tensor table");
    set_u64(b.data + 8, n);
    uint64_t offset = 0;
    for (size_t i = 0; i < n; i++) {
        const spec_tensor *t = &tensors[i];
        const type_info *type = type_by_id(t->rows ? types[i % n_types] : TYPE_F32);
        mark(&b, t->name);
        put_string(&b, t->name);
        put_u32(&b, t->rows ? 2 : 1);
        put_u64(&b, t->columns);
        if (t->rows) put_u64(&b, t->rows);
        put_u32(&b, type->id);
        put_u64(&b, offset);
        const uint64_t n_weights = (uint64_t)(t->rows ? t->rows : 1) * t->columns;
        offset += round_up(n_weights / type->block_len * type->block_bytes, 32);
    }
    for (size_t i = 0; i < n; i++) {
        const spec_tensor *t = &tensors[i];
        char name[80];
        pad(&b, 32);
        snprintf(name, sizeof name, "data %.40s", t->name);
        mark(&b, name);
        put_weights(&b, type_by_id(t->rows ? types[i % n_types] : TYPE_F32), 0,
                    (uint64_t)(t->rows ? t->rows : 1) * t->columns);
    }
    return b;
}

#endif
