/* check_files.c: the readers of model files against files that are right and files that are damaged. Tiny
 * v0, v1, v2, v3 and GGUF files are built in memory (files_fixtures.h), opened with model_open, compared weight by weight, and
 * then damaged (files_damage.h). What families of models ask for beyond Llama's is check_families.c's business. `check_files`
 * alone damages every byte; `check_files --quick` every seventh. */
#include <sys/stat.h>
#include <unistd.h>

#include "../../runtime_c/core/json.h"
#include "files_damage.h"

/* ---- base, error, types, json ---- */

static uint32_t slow_crc(const uint8_t *p, size_t size) {
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < size; i++) {
        crc ^= p[i];
        for (int k = 0; k < 8; k++) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    }
    return ~crc;
}

static void check_crc(void) {
    uint8_t data[300];
    CHECK(crc32c(0, "123456789", 9) == 0xE3069283, "crc of 123456789: %08x", crc32c(0, "123456789", 9));
    random_state = 9;
    for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)random_u32();
    for (size_t n = 0; n < 290; n++) {
        const uint8_t *p = data + n % 9;
        CHECK(crc32c(0, p, n) == slow_crc(p, n), "crc of %zu bytes", n);
        CHECK(crc32c(crc32c(0, p, n / 3), p + n / 3, n - n / 3) == slow_crc(p, n), "crc of %zu bytes in two",
              n);
    }
}

/* The half that is nearest to value, by looking at all: ties to even. */
static uint16_t nearest_half(double value) {
    uint16_t best = 0;
    double least = INFINITY;
    for (uint32_t h = 0; h < 0x7c00; h++) {
        const double distance = fabs((double)f16_to_f32((uint16_t)h) - fabs(value));
        if (distance < least || (distance == least && h % 2 == 0)) best = (uint16_t)h, least = distance;
    }
    if (fabs(value) >= 65520.0) best = 0x7c00;
    return (uint16_t)(best | (signbit(value) ? 0x8000 : 0));
}

static void check_floats(void) {
    bool all = true, bf = true;
    for (uint32_t h = 0; h < 65536; h++) {
        const float f = f16_to_f32((uint16_t)h);
        const uint16_t back = f32_to_f16(f);
        if (isnan(f)) all &= (back & 0x7c00) == 0x7c00 && (back & 0x3ff);
        else all &= back == h;
        const float g = bf16_to_f32((uint16_t)h);
        bf &= isnan(g) ? isnan(bf16_to_f32(f32_to_bf16(g))) : f32_to_bf16(g) == h;
    }
    CHECK(all && bf, "all halves and bfloats come back");
    CHECK(f16_to_f32(0x3c00) == 1.0f && f16_to_f32(0x0001) == 0x1p-24f && f16_to_f32(0xfbff) == -65504.0f &&
          isinf(f16_to_f32(0x7c00)) && signbit(f16_to_f32(0x8000)), "known halves");
    random_state = 5;
    const float known[] = {0.0f, -0.0f, 65519.99f, 65520.0f, -65520.0f, 0x1p-24f, 0x1p-25f, 0x1.000002p-25f,
                           0x1p-26f, 0x1.8p-24f, 0x1p-14f, 0x1.ffep-15f, 0x1.ffdp-15f,
                           1.00048828125f, 1.00146484375f, 3.4e38f};
    for (size_t i = 0; i < ARRAY_LEN(known) + 150; i++) {
        float v = ldexpf((float)(random_u32() % 100000) / 50000.0f - 1.0f, (int)(random_u32() % 44) - 26);
        if (i < ARRAY_LEN(known)) v = known[i];
        CHECK(f32_to_f16(v) == nearest_half((double)v), "half of %a: %04x, expected %04x", (double)v,
              f32_to_f16(v), nearest_half((double)v));
    }
    CHECK(f32_to_bf16(1.00390625f) == 0x3f80 && f32_to_bf16(1.01171875f) == 0x3f82 &&
          f32_to_bf16(3.4e38f) == 0x7f80, "bf16 rounds to even");
    float nan;
    memcpy(&nan, &(uint32_t){0x7f800001}, 4);
    CHECK(isnan(bf16_to_f32(f32_to_bf16(nan))) && isnan(f16_to_f32(f32_to_f16(nan))), "NaN stays NaN");
}

static void check_memory(void) {
    allocator a;
    allocator_init(&a, NULL, NULL);
    CHECK(!mem_zalloc(&a, UINT64_MAX / 2, 3) && !mem_zalloc(&a, UINT64_MAX / 2, 2), "too much memory");
    uint8_t *p = mem_zalloc(&a, 0, 8);
    CHECK(p, "nothing is something");
    p = mem_resize(&a, p, 100);
    mem_free(&a, p);
    mem_free(&a, NULL);
    const uint64_t sizes[] = {0, 1, 4096, 4097, (4 << 20) - 5000, (4 << 20) - 1, 4 << 20, (9 << 20) + 1};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        uint8_t *pages = page_alloc(sizes[i]);
        CHECK(pages && (uintptr_t)pages % (sizes[i] >= 4 << 20 ? 2 << 20 : 4096) == 0, "pages of %llu",
              (unsigned long long)sizes[i]);
        for (uint64_t k = 0; k < sizes[i]; k += 4096) {
            CHECK(pages[k] == 0, "zeroed");
            pages[k] = 1;
        }
        if (sizes[i]) pages[sizes[i] - 1] = 1;
        page_free(pages, sizes[i]);
    }
    CHECK(!page_alloc(UINT64_MAX) && !page_alloc(1ull << 62), "too many pages");
    page_free(NULL, 5);
}

static void check_error(void) {
    ak42_error err;
    char text[400];
    CHECK(error_set(NULL, AK42_STATUS_IO, "x") == AK42_STATUS_IO, "no struct");
    error_set(&err, AK42_STATUS_ARG, "a\x1b[1m\nb\xff%s", "~ ");
    CHECK(!strcmp(err.text, "a\\x1b[1m\\x0ab\\xff~ "), "escaped: %s", err.text);
    memset(text, 'a', sizeof text);
    for (size_t n = 240; n < 300; n++) {
        for (size_t escapes = 0; escapes < 3; escapes++) {
            memset(text, 'a', sizeof text);
            text[n] = 0;
            if (escapes) text[n - 1] = 7;
            if (escapes == 2) text[0] = 7;
            error_set(&err, AK42_STATUS_ARG, "%s", text);
            const size_t whole = n + 3 * escapes, got = strlen(err.text);
            CHECK(whole < 252 ? got == whole : got >= 248 && got < 252 && !strcmp(err.text + got - 3, "..."),
                  "%zu: <%s>", n, err.text);
        }
    }
    error_clear(&err);
    CHECK(err.code == AK42_STATUS_OK && !err.text[0], "cleared");
}

static void check_types(void) {
    uint64_t n;
    const struct {
        uint32_t id, group;
        layout layout;
        uint64_t rows, columns, bytes;      /* bytes 0: refused */
    } cases[] = {
        {TYPE_F32, 0, LAYOUT_ROWS, 3, 5, 60}, {TYPE_F32, 0, LAYOUT_PANEL16, 3, 5, 4096},
        {TYPE_BF16, 0, LAYOUT_PANEL16, 17, 65, 8192}, {TYPE_Q8_0, 0, LAYOUT_ROWS, 2, 64, 136},
        {TYPE_Q8_0, 0, LAYOUT_PANEL16, 16, 32, 1088}, {TYPE_Q8_0, 0, LAYOUT_ROWS, 2, 33, 0},
        {TYPE_Q4_0, 0, LAYOUT_PANEL16, 1, 96, 1152}, {TYPE_Q4_1, 0, LAYOUT_PANEL16, 1, 96, 1280},
        {TYPE_INT8, 4, LAYOUT_ROWS, 2, 8, 32}, {TYPE_INT8, 4, LAYOUT_PANEL16, 2, 8, 2048},
        {TYPE_INT8, 64, LAYOUT_PANEL16, 2, 64, 1088}, {TYPE_INT8, 64, LAYOUT_ROWS, 2, 32, 0},
        {TYPE_INT8, 0, LAYOUT_ROWS, 2, 8, 0}, {TYPE_INT8, 3, LAYOUT_ROWS, 2, 9, 0},
        {TYPE_INT8, 128, LAYOUT_ROWS, 2, 128, 0}, {TYPE_F16, 4, LAYOUT_ROWS, 2, 8, 0},
        {TYPE_F32, 0, LAYOUT_ROWS, 1ull << 32, 1ull << 31, 0},
        {TYPE_F32, 0, LAYOUT_PANEL16, UINT64_MAX, 1, 0}, {TYPE_F32, 0, LAYOUT_PANEL16, 16, UINT64_MAX, 0},
        {TYPE_INT8, 4, LAYOUT_ROWS, 1, UINT64_MAX - 3, 0},
        {TYPE_Q5_0, 0, LAYOUT_PANEL16, 17, 96, 2 * 2 * 704}, {TYPE_Q5_1, 0, LAYOUT_ROWS, 2, 96, 144},
        {TYPE_Q4_K, 0, LAYOUT_ROWS, 3, 512, 864}, {TYPE_Q4_K, 0, LAYOUT_PANEL16, 3, 512, 4608},
        {TYPE_Q6_K, 0, LAYOUT_PANEL16, 16, 256, 3392}, {TYPE_Q6_K, 0, LAYOUT_ROWS, 1, 128, 0},
        {TYPE_MXFP4, 0, LAYOUT_PANEL16, 16, 160, 2176}, {TYPE_NF4, 0, LAYOUT_ROWS, 2, 128, 144},
        {TYPE_NF4, 0, LAYOUT_ROWS, 2, 96, 0}, {TYPE_NF4_DQ, 0, LAYOUT_PANEL16, 2, 128, 0},
        {TYPE_NF4_DQ, 0, LAYOUT_ROWS, 2, 128, 4 * 33 + 4 + 4}, {TYPE_NF4_DQ, 0, LAYOUT_ROWS, 257, 64, 257 * 33 + 4 + 8},
        {TYPE_NF4_DQ, 0, LAYOUT_ROWS, UINT64_MAX / 64, 128, 0},
        {TYPE_Q6_K, 0, LAYOUT_STREAM16, 17, 512, 4 * 3392}, {TYPE_IQ4_XS, 0, LAYOUT_STREAM16, 1, 256, 2176},
        {TYPE_Q4_K, 0, LAYOUT_STREAM16, 16, 256, 0}, {TYPE_F32, 0, LAYOUT_STREAM16, 16, 64, 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        n = 0;
        const bool ok = type_bytes(&n, type_by_id(cases[i].id), cases[i].group, cases[i].layout,
                                   cases[i].rows, cases[i].columns);
        CHECK(ok == (cases[i].bytes != 0) && n == cases[i].bytes, "type case %zu: %llu", i,
              (unsigned long long)n);
    }
    CHECK(!type_by_id(5) && !type_by_id(0x1003) && type_by_name("q4_1") == type_by_id(3) &&
          type_by_name("nf4-dq") == type_by_id(0x1002) && !type_by_name("iq2_s"), "type lookup");
}

static void check_json(void) {
    const struct {
        const char *text;
        json_found found;
        const char *value;
    } cases[] = {
        {"{\"k\": \"v\"}", JSON_FOUND, "v"}, {"{}", JSON_ABSENT, NULL},
        {" {\"a\": [1, {\"k\": 2}], \"k\" : \"w\" } \n", JSON_FOUND, "w"},
        {"{\"a\": \"k\", \"b\": \"\\\"k\\\": \"}", JSON_ABSENT, NULL}, {"{\"k\": 1}", JSON_BROKEN, NULL},
        {"", JSON_BROKEN, NULL}, {"[\"k\"]", JSON_BROKEN, NULL}, {"{\"k\": \"v\"", JSON_BROKEN, NULL},
        {"{\"k\": \"v", JSON_BROKEN, NULL}, {"{\"k\":", JSON_BROKEN, NULL},
        {"{\"k\": \"v\", \"k\": \"v\"}", JSON_BROKEN, NULL}, {"{\"k\": \"v\"} x", JSON_BROKEN, NULL},
        {"{\"a\\", JSON_BROKEN, NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const size_t size = strlen(cases[i].text);
        char *copy = malloc(size + 1);       /* one more, so that size 0 has an address */
        memcpy(copy, cases[i].text, size);
        const char *value = NULL;
        size_t value_size = 0;
        CHECK(json_find_string(&value, &value_size, copy, size, "k") == cases[i].found, "json %s",
              cases[i].text);
        if (cases[i].value)
            CHECK(value && value_size == strlen(cases[i].value) && !memcmp(value, cases[i].value, value_size),
                  "json value");
        free(copy);
    }
}

/* ---- right files are read right ---- */

static const shape shape_f32 = {.dim = 12, .hidden_dim = 20, .n_layers = 2, .n_heads = 3, .n_kv_heads = 1,
                                .vocab_size = 19, .seq_len = 5, .head_dim = 4, .shared = true};
static const shape shape_f32_own = {.dim = 8, .hidden_dim = 6, .n_layers = 1, .n_heads = 2, .n_kv_heads = 2,
                                    .vocab_size = 17, .seq_len = 3, .head_dim = 4, .shared = false};
static const shape shape_int8 = {.dim = 24, .hidden_dim = 40, .n_layers = 1, .n_heads = 3, .n_kv_heads = 1,
                                 .vocab_size = 18, .seq_len = 4, .head_dim = 8, .shared = false,
                                 .group_size = 8};
/* head_dim is not dim / n_heads; all rows are whole blocks of 32. */
static const shape shape_blocks = {.dim = 32, .hidden_dim = 96, .n_layers = 2, .n_heads = 4, .n_kv_heads = 2,
                                   .vocab_size = 21, .seq_len = 7, .head_dim = 16, .shared = false,
                                   .group_size = 16};
static const uint32_t all_types[] = {TYPE_Q8_0, TYPE_F16, TYPE_Q4_0, TYPE_INT8, TYPE_BF16, TYPE_Q4_1,
                                     TYPE_F32};
static const uint32_t gguf_types[] = {TYPE_Q8_0, TYPE_F16, TYPE_Q4_0, TYPE_BF16, TYPE_Q4_1, TYPE_F32};
static const uint32_t only_f32[] = {TYPE_F32};

/* All weights of a layer against the places that the fixture remembers; prefix "" or "data ", suffix "" or
 * ".weight". */
static void check_weights(const ak42_model *model, const bytes *b, const char *prefix, const char *suffix) {
    char name[80];
    for (uint32_t l = 0; l < model->config.n_layers; l++) {
        const layer *y = &model->layers[l];
        const struct {
            const char *name;
            const matrix *matrix;
        } all[] = {{"attn_q", &y->wq}, {"attn_k", &y->wk}, {"attn_v", &y->wv}, {"attn_output", &y->wo},
                   {"ffn_gate", &y->w1}, {"ffn_down", &y->w2}, {"ffn_up", &y->w3}};
        for (size_t i = 0; i < ARRAY_LEN(all); i++) {
            snprintf(name, sizeof name, "%sblk.%u.%s%s", prefix, l, all[i].name, suffix);
            check_matrix(all[i].matrix, b->data + marked(b, name), name);
        }
        snprintf(name, sizeof name, "%sblk.%u.attn_norm%s", prefix, l, suffix);
        CHECK(!memcmp(y->att_norm, b->data + marked(b, name), model->config.dim * 4), "%s", name);
        snprintf(name, sizeof name, "%sblk.%u.ffn_norm%s", prefix, l, suffix);
        CHECK(!memcmp(y->ffn_norm, b->data + marked(b, name), model->config.dim * 4), "%s", name);
    }
    snprintf(name, sizeof name, "%stoken_embd%s", prefix, suffix);
    check_matrix(&model->embedding, b->data + marked(b, name), name);
    snprintf(name, sizeof name, "%soutput_norm%s", prefix, suffix);
    CHECK(!memcmp(model->norm, b->data + marked(b, name), model->config.dim * 4), "%s", name);
    if (model->config.shared_classifier) {
        CHECK(model->head.panels == model->embedding.panels, "shared head");
    } else {
        snprintf(name, sizeof name, "%soutput%s", prefix, suffix);
        check_matrix(&model->head, b->data + marked(b, name), name);
    }
}

static void check_info(const ak42_model *model, const shape *s, const char *format, const char *type) {
    const ak42_model_info *i = &model->info;
    CHECK(!strcmp(i->format, format) && !strcmp(i->weight_type, type) && !strcmp(i->architecture, "llama") &&
          !strcmp(i->isa, "generic") && !strcmp(i->device, "cpu") && i->n_threads == 1,
          "%s: strings: %s %s %s", format, i->format, i->weight_type, i->architecture);
    CHECK(i->dim == (int)s->dim && i->hidden_dim == (int)s->hidden_dim && i->n_layers == (int)s->n_layers &&
          i->n_heads == (int)s->n_heads && i->n_kv_heads == (int)s->n_kv_heads &&
          i->head_dim == (int)s->head_dim && i->vocab_size == (int)s->vocab_size &&
          i->seq_len == (int)s->seq_len && i->trained_ctx == (int)s->seq_len &&
          i->shared_classifier == s->shared, "%s: sizes", format);
    const uint64_t q = s->n_heads * s->head_dim, kv = s->n_kv_heads * s->head_dim;
    const uint64_t n = s->vocab_size * s->dim * (s->shared ? 1 : 2) + s->dim +
                       s->n_layers * s->dim * (2 + 2 * q + 2 * kv + 3 * s->hidden_dim);
    CHECK(i->n_params == n, "%s: %llu parameters, expected %llu", format, (unsigned long long)i->n_params,
          (unsigned long long)n);
}

static ak42_model *open_good(const bytes *b, uint8_t **copy, const char *what) {
    ak42_model *model;
    ak42_error err;
    const ak42_status status = open_copy(&model, copy, b->data, b->size, &err);
    CHECK(!status, "%s: %s", what, err.text);
    return model;
}

static void check_old(const shape *s, uint32_t version, bool extended, const char *format) {
    bytes b = version ? build_v12(s, version, extended) : build_v0(s);
    uint8_t *copy;
    ak42_model *model = open_good(&b, &copy, format);
    if (model) {
        check_weights(model, &b, "", "");
        check_info(model, s, format, version == 2 ? "int8" : "f32");
        CHECK(model->info.mapped_bytes == 0 && model->info.packed_bytes > 0, "%s: packed", format);
        for (uint32_t i = 0; i < s->head_dim / 2; i++)
            CHECK(frequency(model, i) == 1.0f / powf(10000.0f, (float)(2 * i) / (float)s->head_dim),
                  "inv_freq");
        CHECK(model->info.bos_id == (extended ? 1 : -1) && model->info.n_eos == extended &&
              model->info.eos_ids[0] == (extended ? 2 : -1) && model->info.eos_ids[1] == -1, "%s: ids",
              format);
        const blob *text = &model->file.sections[SECTION_TMPL];
        CHECK(extended ? text->size == 14 && !memcmp(text->data, "{{ messages }}", 14) : !text->data,
              "%s: TMPL", format);
    }
    model_free(model);
    free(copy);
    free(b.data);
}

/* A v3 file, in rows and in panels, gives the same weights; panels are computed in place where they are
 * aligned. */
static void check_v3(void) {
    bytes rows = build_v3(&shape_blocks, all_types, ARRAY_LEN(all_types), 0);
    bytes panels = build_v3(&shape_blocks, all_types, ARRAY_LEN(all_types), 1);
    ak42_model_opts opts = options();
    ak42_error err;
    for (size_t shift = 0; shift < 3; shift++) {
        const bytes *b = shift ? &panels : &rows;
        uint8_t *memory = aligned_alloc(64, round_up(b->size + 64, 64));
        uint8_t *data = memory + (shift == 2 ? 4 : 0);
        ak42_model *model = NULL;
        memcpy(data, b->data, b->size);
        const ak42_status status = model_open(&model, "v3", data, b->size, &opts, &err);
        CHECK(!status, "v3: %s", err.text);
        if (status) continue;
        check_weights(model, &rows, "", ".weight");
        check_info(model, &shape_blocks, "ak42 v3", model->info.weight_type);
        const bool mapped = shift == 1;
        CHECK(mapped ? model->info.packed_bytes == 0 && !model->packed &&
              model->embedding.panels == data + marked(b, "token_embd.weight")
              : model->info.mapped_bytes == 0 && model->info.packed_bytes > 0, "v3: mapped in place, %zu",
              shift);
        CHECK(model->layers[0].sliding_window == 3 && model->layers[1].sliding_window == 0 &&
              model->info.sliding_window == 3, "LAYR");
        for (uint32_t i = 0; i < 8; i++)
            CHECK(frequency(model, i) == 1.0f / powf(10000.0f, (float)(2 * i) / 16.0f) / (1.0f + (float)i),
                  "rope_freqs divide");
        CHECK(model->info.group_size == 16, "group_size");
        model_free(model);
        free(memory);
    }
    free(rows.data);
    free(panels.data);
}

static void more_keys(bytes *b) {
    kv_u32(b, "llama.attention.sliding_window", 4);
    kv_string(b, "llama.rope.scaling.type", "linear");
    kv_f32(b, "llama.rope.scaling.factor", 4.0f);
    kv_string(b, "ak42.config", "{}");
    kv_string(b, "ak42.generation_config", "[]");
    kv_array(b, "llama.feed_forward_length", G_U64, 2), put_u64(b, 96), put_u64(b, 96);
    kv_array(b, "general.tags", G_STRING, 2), put_string(b, "a"), put_string(b, "");
    kv_bool(b, "llama.attention.causal", 77);
}

static void check_gguf(uint32_t version) {
    bytes b = build_gguf(&shape_blocks, version, gguf_types, ARRAY_LEN(gguf_types), more_keys,
                         "llama.feed_forward_length");
    put(&b, "trailing bytes", 14);
    uint8_t *copy;
    ak42_model *model = open_good(&b, &copy, "gguf");
    if (model) {
        check_weights(model, &b, "data ", ".weight");
        check_info(model, &shape_blocks, version == 2 ? "gguf v2" : "gguf v3", model->info.weight_type);
        CHECK(model->info.rope_theta == 500000.0f && model->info.norm_eps == 1e-6f &&
              model->layers[1].sliding_window == 4, "gguf: config");
        for (uint32_t i = 0; i < 8; i++)
            CHECK(frequency(model, i) == 1.0f / powf(500000.0f, (float)(2 * i) / 16.0f) / 4.0f, "linear rope");
        const struct {
            int section;
            const char *text;
        } texts[] = {{SECTION_TMPL, "{{ messages }}"}, {SECTION_CONF, "{}"}, {SECTION_GENC, "[]"},
                     {SECTION_CHAT, "abc"}};
        for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
            const blob *found = &model->file.sections[texts[i].section];
            CHECK(found->data && found->size == strlen(texts[i].text) &&
                  !memcmp(found->data, texts[i].text, (size_t)found->size), "section %zu", i);
        }
    }
    model_free(model);
    free(copy);
    free(b.data);
}

/* ---- vocabularies ---- */

static ak42_status parse_vocab(const bytes *b, gguf_vocab *vocab, ak42_error *err) {
    allocator alloc;
    allocator_init(&alloc, NULL, NULL);
    container c = {.name = "vocab", .alloc = &alloc};
    uint8_t *copy = malloc(b->size);
    memcpy(copy, b->data, b->size);
    filemap_borrow(&c.map, copy, b->size);
    const ak42_status status = container_parse(&c, CONTAINER_VOCAB, err);
    CHECK(status || c.has_vocab, "vocabulary found");
    *vocab = c.vocab;
    vocab->tokens.data = vocab->tokens.data ? b->data + (vocab->tokens.data - copy) : NULL;
    container_free(&c);
    free(copy);
    return status;
}

static bytes vocab_file(const char *architecture, uint32_t eos, uint32_t scores) {
    bytes b = {0};
    put_gguf_header(&b, 3);
    kv_string(&b, "general.architecture", architecture);
    kv_string(&b, "tokenizer.ggml.model", "gpt2");
    kv_string(&b, "tokenizer.ggml.pre", "smollm");
    kv_array(&b, "tokenizer.ggml.tokens", G_STRING, 3), put_string(&b, "a"), put_string(&b, ""),
        put_string(&b, "ccc");
    kv_array(&b, "tokenizer.ggml.merges", G_STRING, 1), put_string(&b, "a c");
    kv_array(&b, "tokenizer.ggml.scores", G_F32, scores), put(&b, NULL, 4 * scores);
    kv_array(&b, "tokenizer.ggml.token_type", G_I32, 3), put(&b, NULL, 12);
    kv_u32(&b, "tokenizer.ggml.bos_token_id", UINT32_MAX);
    kv_u32(&b, "tokenizer.ggml.eos_token_id", eos);
    kv_u32(&b, "tokenizer.ggml.eot_token_id", 1);
    kv_u32(&b, "tokenizer.ggml.eom_token_id", 1);
    kv(&b, "tokenizer.ggml.unknown_token_id", G_I64), put_u64(&b, 0);
    kv_bool(&b, "tokenizer.ggml.add_bos_token", 9);
    return b;
}

static void check_vocab(void) {
    gguf_vocab v;
    ak42_error err = {0};
    bytes b = vocab_file("mamba", 2, 3);
    CHECK(!parse_vocab(&b, &v, &err), "vocabulary of another architecture: %s", err.text);
    CHECK(v.n_tokens == 3 && v.tokens.size == 3 * 8 + 4 &&
          v.tokens.data == b.data + marked(&b, "tokenizer.ggml.tokens") + 8 + 21 + 16, "tokens");
    CHECK(v.n_merges == 1 && v.n_scores == 3 && v.n_types == 3 && v.bos_id == -1 && v.unk_id == 0 &&
          v.pad_id == -1 && v.n_eos == 2 && v.eos_ids[0] == 2 && v.eos_ids[1] == 1 && v.add_bos == 1 &&
          v.add_eos == -1 && v.add_space_prefix == -1, "vocabulary's fields");
    expect(b.data, b.size, AK42_STATUS_UNSUPPORTED, "mamba", "vocabulary as a model");
    for (size_t n = 0; n < b.size; n++) {
        bytes part = b;
        part.size = n;
        CHECK(parse_vocab(&part, &v, &err), "cut to %zu bytes", n);
    }
    free(b.data);
    b = vocab_file("llama", 3, 3);
    CHECK(parse_vocab(&b, &v, &err) == AK42_STATUS_FORMAT && strstr(err.text, "eos_token_id"), 
          "eos beyond: %s", err.text);
    free(b.data);
    b = vocab_file("llama", 2, 2);
    CHECK(parse_vocab(&b, &v, &err) == AK42_STATUS_FORMAT && strstr(err.text, "scores"), "scores short: %s",
          err.text);
    expect(b.data, b.size, AK42_STATUS_FORMAT, "scores", "scores short, as a model");
    free(b.data);
    b = vocab_file("llama", 2, 3);
    expect(b.data, b.size, AK42_STATUS_FORMAT, "no tensors", "vocabulary alone as a model");
    free(b.data);
}

static void check_v0_fields(void) {
    bytes b = build_v0(&shape_f32);
    static const edit edits[] = {
        {"dim 0", 0, 0, 4, FORMAT, "field dim at byte 0"}, {"dim 13", 0, 13, 4, FORMAT, "n_heads"},
        {"hidden -1", 4, UINT32_MAX, 4, FORMAT, "hidden_dim"},
        {"layers 2^30", 8, 1 << 30, 4, FORMAT, "n_layers"}, {"heads 0", 12, 0, 4, FORMAT, "n_heads"},
        {"heads 12", 12, 12, 4, FORMAT, "head_dim"}, {"kv 2", 16, 2, 4, FORMAT, "multiple of n_kv_heads"},
        {"vocab 0", 20, 0, 4, FORMAT, "vocab_size"}, {"vocab min", 20, 1u << 31, 4, FORMAT, "vocab_size"},
        {"own head", 20, (uint32_t)-19, 4, FORMAT, "exactly"}, {"seq_len", 24, 6, 4, FORMAT, "exactly"},
        {"seq_len 0", 24, 0, 4, FORMAT, "seq_len"}, {"payload", 40, 7, 1, AK42_STATUS_OK, NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(edits); i++) apply(&b, &edits[i], 0, false);
    put_u8(&b, 0);
    expect(b.data, b.size, FORMAT, "expected exactly", "v0 with one byte more");
    free(b.data);
}

static void check_header_fields(void) {
    bytes v1 = build_v12(&shape_f32, 1, true), v1_old = build_v12(&shape_f32, 1, false);
    bytes v2 = build_v12(&shape_int8, 2, true);
    static const edit of_v1[] = {
        {"version 4", 4, 4, 4, UNSUPPORTED, "version"}, {"version 0", 4, 0, 4, FORMAT, "version"},
        {"version 3", 4, 3, 4, FORMAT, "DIRECTORY"}, {"reserved", 50, 1, 1, FORMAT, "reserved byte 50"},
        {"shared 2", 36, 2, 1, FORMAT, "shared_classifier"}, {"group", 37, 4, 4, FORMAT, "group_size"},
        {"not shared", 36, 0, 1, FORMAT, "data at byte 192"}, {"ext size", 68, 200, 2, UNSUPPORTED, "200.0"},
        {"ext minor", 70, 1, 2, UNSUPPORTED, "192.1"}, {"compat bit", 72, 1u << 31, 4, AK42_STATUS_OK, NULL},
        {"unknown bit", 76, 1u << 16, 4, UNSUPPORTED, "incompat_flags"},
        {"known bit", 76, 1, 4, FORMAT, "ROPE_THETA"},
        {"another known bit", 76, 1 << 4, 4, FORMAT, "QKV_BIAS"},
        {"theta", 80, 0x48f42400, 4, FORMAT, "ROPE_THETA"},
        {"theta nan", 80, 0x7fc00000, 4, FORMAT, "rope_theta"}, {"eps 0", 84, 0, 4, FORMAT, "norm_eps"},
        {"eps 1e-6", 84, 0x358637bd, 4, FORMAT, "NORM_EPS"}, {"head_dim", 88, 6, 4, FORMAT, "HEAD_DIM"},
        {"head_dim 0", 88, 0, 4, FORMAT, "head_dim"}, {"head_dim odd", 88, 3, 4, FORMAT, "even"},
        {"rotary", 92, 2, 4, FORMAT, "PARTIAL_ROTARY"}, {"rotary beyond", 92, 6, 4, FORMAT, "rotary_dim"},
        {"window", 96, 2, 4, FORMAT, "SLIDING_WINDOW"}, {"wide window", 96, 99, 4, AK42_STATUS_OK, NULL},
        {"scaling", 100, 1, 1, FORMAT, "ROPE_SCALING"}, {"yarn", 100, 3, 1, FORMAT, "rope_original_ctx"},
        {"scaling 9", 100, 9, 1, UNSUPPORTED, "rope_scaling"},
        {"half split", 101, 1, 1, FORMAT, "HALF_SPLIT"}, {"gelu", 102, 1, 1, FORMAT, "ACTIVATION"},
        {"activation 3", 102, 3, 1, UNSUPPORTED, "activation"},
        {"flags", 103, 1, 1, FORMAT, "MODEL_FLAGS"}, {"flags 3", 103, 3, 1, UNSUPPORTED, "model_flags"},
        {"flags 8", 103, 8, 1, UNSUPPORTED, "model_flags"},
        {"factor -1", 104, 0xbf800000, 4, FORMAT, "rope_factor"},
        {"attn factor", 120, 0x40000000, 4, FORMAT, "ROPE_SCALING"}, {"attn factor -2", 120, 0xc0000000, 4, FORMAT, "rope_attn_factor"},
        {"bos", 124, 19, 4, FORMAT, "bos_id"}, {"eos", 140, 19, 4, FORMAT, "eos_id[3]"},
        {"pad -2", 144, (uint32_t)-2, 4, FORMAT, "pad_id"}, {"experts", 148, 8, 4, FORMAT, "n_experts_used"},
        {"softcap", 156, 0x41a00000, 4, FORMAT, "SOFTCAP"},
        {"final softcap", 160, 0x41a00000, 4, FORMAT, "SOFTCAP"},
        {"embedding scale", 164, 0x40000000, 4, FORMAT, "SCALES"}, {"embedding nan", 164, 0x7fc00000, 4, FORMAT, "embedding_scale"},
        {"attention scale", 232, 0x3f800000, 4, FORMAT, "SCALES"},
        {"trained_ctx 0", 172, 0, 4, FORMAT, "trained_ctx"}, {"directory", 176, 256, 8, FORMAT, "directory"},
        {"data offset", 192, 264, 8, FORMAT, "192"}, {"data bytes", 200, UINT64_MAX, 8, FORMAT, "192"},
        {"trailer offset", 208, 8, 8, FORMAT, "trailer_offset"}, {"no trailer", 208, 0, 8, FORMAT, "trailer"},
        {"trailer bytes", 216, UINT64_MAX, 8, FORMAT, "trailer"},
        {"file bytes", 224, 1, 8, FORMAT, "bytes behind"},
        {"file bytes more", 224, UINT64_MAX, 8, FORMAT, "fetch or convert it again"},
        {"theta local", 240, 0x3f800000, 4, FORMAT, "ROPE_THETA"}, {"theta local nan", 240, 0x7fc00000, 4, FORMAT, "rope_theta_local"},
    };
    static const edit of_v2[] = {
        {"group 0", 37, 0, 4, FORMAT, "group_size"}, {"group -8", 37, (uint32_t)-8, 4, FORMAT, "group_size"},
        {"group 3", 37, 3, 4, FORMAT, "power of two"}, {"group 2", 37, 2, 4, UNSUPPORTED, "group_size"},
        {"group 16", 37, 16, 4, FORMAT, "divide every row"}, {"group 32", 37, 32, 4, FORMAT, "up to dim"},
        {"group min", 37, 1u << 31, 4, FORMAT, "group_size"}, {"group 4", 37, 4, 4, FORMAT, "192"},
    };
    static const edit of_old[] = {
        {"reserved 41", 41, 1, 1, FORMAT, "byte 41"}, {"reserved 255", 255, 1, 1, FORMAT, "byte 255"},
        {"AKX2", 64, 0x32584b41, 4, FORMAT, "byte 64"}, {"seq_len", 32, INT32_MAX, 4, AK42_STATUS_OK, NULL},
        {"seq_len 0", 32, 0, 4, FORMAT, "seq_len"}, {"vocab -19", 28, (uint32_t)-19, 4, FORMAT, "vocab_size"},
        {"magic", 0, 0x62616279, 4, UNSUPPORTED, "baby-llm"},
        {"magic 2", 0, 0x616a6331, 4, UNSUPPORTED, "qwen3.c"},
        {"magic 3", 0, 0x0A00ABCD, 4, UNSUPPORTED, "distributed-llama"},
        {"magic be", 0, 0x32346b61, 4, UNSUPPORTED, "big-endian"},
        {"one layer", 16, 1, 4, FORMAT, "bytes behind the end"},
        {"three layers", 16, 3, 4, FORMAT, "truncated"},
    };
    for (size_t i = 0; i < ARRAY_LEN(of_v1); i++) apply(&v1, &of_v1[i], 0, true);
    for (size_t i = 0; i < ARRAY_LEN(of_v2); i++) apply(&v2, &of_v2[i], 0, true);
    for (size_t i = 0; i < ARRAY_LEN(of_old); i++) apply(&v1_old, &of_old[i], 0, false);
    apply(&v1, &(edit){"header crc", 8, 13, 4, FORMAT, "header checksum"}, 0, false);
    apply(&v1, &(edit){"trailer crc", 20, 1, 1, FORMAT, "trailer checksum"}, marked(&v1, "trailer"), false);
    const size_t tmpl = marked(&v1, "TMPL"), next = marked(&v1, "NEXT");
    apply(&v1, &(edit){"section zero", 4, 1, 1, FORMAT, "section TMPL"}, tmpl, true);
    apply(&v1, &(edit){"section size", 8, 17, 8, FORMAT, "section TMPL"}, tmpl, true);
    apply(&v1, &(edit){"section size huge", 8, UINT64_MAX, 8, FORMAT, "section TMPL"}, tmpl, true);
    apply(&v1, &(edit){"section padding", 16 + 15, 1, 1, FORMAT, "padding"}, tmpl, true);
    apply(&v1, &(edit){"section twice", 0, 0x4c504d54, 4, FORMAT, "found twice"}, next, true);
    apply(&v1, &(edit){"bit LAYER_FLAGS", 0, 0x5259414c, 4, FORMAT, "LAYR"}, next, true);
    free(v1.data), free(v1_old.data), free(v2.data);
}

static void check_v3_fields(void) {
    bytes b = build_v3(&shape_blocks, all_types, ARRAY_LEN(all_types), 1);
    const size_t embedding = 256, freqs = 256 + 128, norm = 256 + 2 * 128, wq = 256 + 3 * 128;
    static const edit header[] = {
        {"no AKX1", 64, 0, 4, FORMAT, "AKX1"},
        {"no DIRECTORY", 76, 0x404a, 4, FORMAT, "DIRECTORY"},
        {"no ROPE_SCALING", 76, 0xc048, 4, FORMAT, "ROPE_SCALING"},
        {"no HEAD_DIM", 76, 0xc042, 4, FORMAT, "HEAD_DIM"},
        {"no SLIDING_WINDOW", 76, 0xc00a, 4, FORMAT, "SLIDING_WINDOW"},
        {"no LAYER_FLAGS", 76, 0x804a, 4, FORMAT, "LAYR"},
        {"n_tensors 0", 184, 0, 4, FORMAT, "n_tensors"},
        {"n_tensors max", 184, UINT32_MAX, 4, FORMAT, "n_tensors"},
        {"one tensor fewer", 184, 21, 4, FORMAT, "1 missing: output.weight"},
        {"directory at 0", 176, 0, 8, FORMAT, "directory_offset"},
        {"directory far", 176, UINT64_MAX - 64, 8, FORMAT, "directory_offset"},
        {"data 64 later", 192, 4096 + 64, 8, FORMAT, "trailer_offset"},
        {"theta", 80, 0x48f42400, 4, FORMAT, "ROPE_THETA"}, {"group", 37, 0, 4, FORMAT, "block of int8"},
        {"shared", 36, 1, 1, FORMAT, "1 unexpected: output.weight"},
    };
    for (size_t i = 0; i < ARRAY_LEN(header); i++) apply(&b, &header[i], 0, true);
    static const edit entry[] = {
        {"empty name", 0, 0, 8, FORMAT, "expected a name"},
        {"name renamed", 0, 'x', 1, FORMAT, "xoken_embd.weight"},
        {"name padding", 63, 'x', 1, FORMAT, "padded"}, {"type 0x1003", 64, 0x1003, 4, UNSUPPORTED, "0x1003"},
        {"type iq2_s", 64, 22, 4, UNSUPPORTED, "0x16"},
        {"type q4_k", 64, 12, 4, FORMAT, "block of q4_k"}, {"layout 2", 68, 2, 4, UNSUPPORTED, "layout 0 or 1, found 2"},
        {"layout 3", 68, 3, 4, UNSUPPORTED, "layout 0 or 1, found 3"},
        {"layout rows", 68, 0, 4, FORMAT, "bytes for its type"}, {"dims 0", 72, 0, 4, FORMAT, "dimensions"},
        {"dims 4", 72, 4, 4, FORMAT, "dimensions"}, {"dims 3", 72, 3, 4, FORMAT, "dimension 2 of 3"},
        {"zero", 76, 1, 4, FORMAT, "reserved"}, {"rows 0", 80, 0, 8, FORMAT, "dimension 0"},
        {"rows 22", 80, 22, 8, FORMAT, "expected 21 x 32, found 22 x 32"},
        {"rows max", 80, UINT64_MAX, 8, FORMAT, "token_embd"},
        {"rows 2^60", 80, 1ull << 60, 8, FORMAT, "token_embd"},
        {"columns 33", 88, 33, 8, FORMAT, "block of q8_0"}, {"third dim", 96, 1, 8, FORMAT, "dimension 2"},
        {"offset unaligned", 104, 4097, 8, FORMAT, "64 divides"},
        {"offset 0", 104, 0, 8, FORMAT, "inside the data"},
        {"offset far", 104, UINT64_MAX - 63, 8, FORMAT, "inside the data"},
        {"bytes", 112, 1, 8, FORMAT, "bytes for its type"}, {"zero 2", 124, 1, 4, FORMAT, "reserved"},
    };
    for (size_t i = 0; i < ARRAY_LEN(entry); i++) apply(&b, &entry[i], embedding, true);
    apply(&b, &(edit){"overlap", 104, load_u64(b.data + wq + 104), 8, FORMAT, "overlapping"}, norm, true);
    apply(&b, &(edit){"norm f16", 64, TYPE_F16, 4, FORMAT, "bytes for its type"}, norm, true);
    apply(&b, &(edit){"norm in panels", 68, 1, 4, FORMAT, "layout 0"}, norm, true);
    apply(&b, &(edit){"factor 0", 0, 0, 4, FORMAT, "rope_freqs"}, (size_t)load_u64(b.data + freqs + 104),
          true);
    apply(&b, &(edit){"directory crc", 0, 'x', 1, FORMAT, "directory checksum"}, embedding, false);
    apply(&b, &(edit){"gap", 0, 1, 1, AK42_STATUS_OK, NULL}, 4095, false);
    uint8_t *data = malloc(b.size);
    memcpy(data, b.data, b.size);
    memcpy(data + norm, data + embedding, 64);
    sign(data, b.size);
    expect(data, b.size, FORMAT, "found twice", "two tensors of a name");
    memcpy(data, b.data, b.size);
    memset(data + norm, 0, 64);
    memcpy(data + norm, "blk.0.attn_q.bias", 17);
    sign(data, b.size);
    expect(data, b.size, FORMAT, "1 missing: blk.0.attn_norm.weight and 1 unexpected: blk.0.attn_q.bias",
           "a bias");
    const char *const confs[] = {"{\"model_type\": \"mamba\"}", "{}", "[]",
                                 "{\"model_type\": \"llama\", \"model_type\": \"llama\"}"};
    const size_t conf = marked(&b, "CONF") + 16;
    for (size_t i = 0; i < ARRAY_LEN(confs); i++) {
        memcpy(data, b.data, b.size);
        memset(data + conf, ' ', strlen(conf_llama));
        memcpy(data + conf, confs[i], strlen(confs[i]));
        sign(data, b.size);
        expect(data, b.size, i ? FORMAT : UNSUPPORTED, i ? "CONF" : "mamba", "CONF");
    }
    apply(&b, &(edit){"no CONF", 0, 0x58585858, 4, FORMAT, "CONF"}, marked(&b, "CONF"), true);
    apply(&b, &(edit){"LAYR flag", 16, 8, 1, UNSUPPORTED, "LAYR"}, marked(&b, "LAYR"), true);
    apply(&b, &(edit){"LAYR size", 8, 4, 1, FORMAT, "LAYR"}, marked(&b, "LAYR"), true);
    free(data);
    free(b.data);
}

/* ---- GGUF semantics ---- */

static void add_architecture_mamba(bytes *b) { kv_string(b, "general.architecture", "mamba"); }
static void add_architecture_qwen(bytes *b) { kv_string(b, "general.architecture", "qwen2"); }
static void add_architecture_int(bytes *b) { kv_u32(b, "general.architecture", 3); }
static void add_mistral(bytes *b) { kv_string(b, "general.architecture", "mistral"); }
static void add_duplicate(bytes *b) { kv_u32(b, "llama.block_count", 1); }
static void add_eps_nan(bytes *b) { kv_f32(b, "llama.attention.layer_norm_rms_epsilon", NAN); }
static void add_eps_int(bytes *b) { kv_u32(b, "llama.attention.layer_norm_rms_epsilon", 1); }
static void add_blocks_0(bytes *b) { kv_u32(b, "llama.block_count", 0); }
static void add_blocks_max(bytes *b) { kv_u32(b, "llama.block_count", UINT32_MAX); }
static void add_blocks_text(bytes *b) { kv_string(b, "llama.block_count", "2"); }
static void add_blocks_more(bytes *b) { kv_u32(b, "llama.block_count", 3); }
static void add_blocks_fewer(bytes *b) { kv_u32(b, "llama.block_count", 1); }
static void add_heads_0(bytes *b) { kv_u32(b, "llama.attention.head_count", 0); }
static void add_heads_negative(bytes *b) {
    kv(b, "llama.attention.head_count", G_I32);
    put_u32(b, UINT32_MAX);
}
static void add_kv_array(bytes *b) {
    kv_array(b, "llama.attention.head_count_kv", G_I32, 2);
    put_u32(b, 2);
    put_u32(b, 1);
}
static void add_kv_short(bytes *b) { kv_array(b, "llama.attention.head_count_kv", G_I32, 1), put_u32(b, 2); }
static void add_kv_text(bytes *b) {
    kv_array(b, "llama.attention.head_count_kv", G_STRING, 2);
    put_string(b, "");
    put_string(b, "");
}
static void add_context_max(bytes *b) { kv_u32(b, "llama.context_length", UINT32_MAX); }
static void add_context_0(bytes *b) { kv_u32(b, "llama.context_length", 0); }
static void add_value_length(bytes *b) { kv_u32(b, "llama.attention.value_length", 8); }
static void add_yarn(bytes *b) {
    kv_string(b, "llama.rope.scaling.type", "yarn");
    kv_f32(b, "llama.rope.scaling.factor", 2);
}
static void add_linear_alone(bytes *b) { kv_string(b, "llama.rope.scaling.type", "linear"); }
static void add_factor_0(bytes *b) { kv_f32(b, "llama.rope.scaling.factor", 0); }
static void add_factor_inf(bytes *b) {
    kv(b, "llama.rope.scaling.factor", G_F64);
    put_u64(b, 0x7fefffffffffffff);
}
static void add_experts(bytes *b) { kv_u32(b, "llama.expert_count", 8); }
static void add_no_experts(bytes *b) {
    kv_u32(b, "llama.expert_count", 0);
    kv_f32(b, "llama.logit_scale", 0);
    kv_bool(b, "llama.attention.causal", 2);
}
static void add_softcap(bytes *b) { kv_f32(b, "llama.attn_logit_softcapping", 50); }
static void add_bidirectional(bytes *b) { kv_bool(b, "llama.attention.causal", 0); }
static void add_split(bytes *b) { kv(b, "split.count", G_U16), put(b, "\2\0", 2); }
static void add_vocab_size(bytes *b) { kv_u32(b, "llama.vocab_size", 22); }
static void add_rotary(bytes *b) { kv_u32(b, "llama.rope.dimension_count", 8); }
static void add_rotary_17(bytes *b) { kv_u32(b, "llama.rope.dimension_count", 18); }
static void add_alignment_0(bytes *b) { kv_u32(b, "general.alignment", 0); }
static void add_alignment_13(bytes *b) { kv_u32(b, "general.alignment", 13); }
static void add_alignment_max(bytes *b) { kv_u32(b, "general.alignment", 1u << 31); }
static void add_alignment_int(bytes *b) { kv(b, "general.alignment", G_I32), put_u32(b, 32); }
static void add_alignment_64(bytes *b) { kv_u32(b, "general.alignment", 64); }
static void add_nested(bytes *b) { kv_array(b, "nest", G_ARRAY, 1), put_u32(b, G_U8), put_u64(b, 0); }
static void add_type_13(bytes *b) { kv(b, "odd", 13), put_u32(b, 0); }
static void add_element_13(bytes *b) { kv_array(b, "odd", 13, 0); }
static void add_array_huge(bytes *b) { kv_array(b, "odd", G_U64, 1ull << 61); }
static void add_array_long(bytes *b) { kv_array(b, "odd", G_U32, 1 << 30); }
static void add_array_strings(bytes *b) { kv_array(b, "odd", G_STRING, 1ull << 62); }
static void add_string_huge(bytes *b) { kv(b, "odd", G_STRING), put_u64(b, UINT64_MAX); }
static void add_key_empty(bytes *b) { kv_u32(b, "", 0); }
static void add_key_latin(bytes *b) { kv_u32(b, "caf\xe9", 0); }
static void add_key_utf8(bytes *b) { kv_u32(b, "caf\xc3\xa9 \xf0\x9f\x98\x80", 0); }
static void add_key_surrogate(bytes *b) { kv_u32(b, "\xed\xa0\x80", 0); }
static void add_key_long(bytes *b) {
    char *key = malloc(65537);
    memset(key, 'k', 65536);
    key[65536] = 0;
    mark(b, "long");
    put_string(b, key);
    put_u32(b, G_U8), put_u8(b, 0);
    set_u64(b->data + 16, load_u64(b->data + 16) + 1);
    free(key);
}

static void check_gguf_keys(void) {
    static const struct {
        const char *what;
        gguf_edit *edit;
        const char *skip;
        ak42_status status;
        const char *word;
    } cases[] = {
        {"no architecture", NULL, "general.architecture", FORMAT, "general.architecture"},
        {"mamba", add_architecture_mamba, "general.architecture", UNSUPPORTED, "found mamba"},
        {"qwen2 without keys", add_architecture_qwen, "general.architecture", FORMAT, "qwen2.block_count"},
        {"architecture 3", add_architecture_int, "general.architecture", FORMAT, "expected a string"},
        {"mistral without keys", add_mistral, "general.architecture", FORMAT, "mistral.block_count"},
        {"duplicate key", add_duplicate, NULL, FORMAT, "llama.block_count: expected once"},
        {"no eps", NULL, "llama.attention.layer_norm_rms_epsilon", FORMAT, "layer_norm_rms_epsilon"},
        {"eps nan", add_eps_nan, "llama.attention.layer_norm_rms_epsilon", FORMAT, "norm_eps"},
        {"eps int", add_eps_int, "llama.attention.layer_norm_rms_epsilon", FORMAT,
         "expected a float, found u32"},
        {"no blocks", NULL, "llama.block_count", FORMAT, "llama.block_count"},
        {"0 blocks", add_blocks_0, "llama.block_count", FORMAT, "n_layers"},
        {"max blocks", add_blocks_max, "llama.block_count", FORMAT, "n_layers"},
        {"blocks in words", add_blocks_text, "llama.block_count", FORMAT,
         "expected an integer, found string"},
        {"3 blocks", add_blocks_more, "llama.block_count", FORMAT,
         "9 missing: blk.2.attn_norm.weight, blk.2.attn_q.weight, blk.2.attn_k.weight, ..."},
        {"1 block", add_blocks_fewer, "llama.block_count", FORMAT, "9 unexpected: blk.1.attn_k.weight, "},
        {"0 heads", add_heads_0, "llama.attention.head_count", FORMAT, "n_heads"},
        {"-1 heads", add_heads_negative, "llama.attention.head_count", FORMAT, "found -1"},
        {"kv differ", add_kv_array, "llama.attention.head_count_kv", UNSUPPORTED, "same value in all layers"},
        {"kv short", add_kv_short, "llama.attention.head_count_kv", FORMAT, "each of 2 layers"},
        {"kv texts", add_kv_text, "llama.attention.head_count_kv", FORMAT, "integers"},
        {"no kv", NULL, "llama.attention.head_count_kv", FORMAT,
         "blk.0.attn_k.weight: expected 64 x 32, found 32 x 32"},
        {"context max", add_context_max, "llama.context_length", AK42_STATUS_OK, NULL},
        {"context 0", add_context_0, "llama.context_length", FORMAT, "seq_len"},
        {"value length", add_value_length, "llama.attention.value_length", UNSUPPORTED, "value_length"},
        {"no key length", NULL, "llama.attention.key_length", UNSUPPORTED, "value_length"},
        {"yarn", add_yarn, NULL, AK42_STATUS_OK, NULL},
        {"linear alone", add_linear_alone, NULL, FORMAT, "scaling.factor"},
        {"factor 0", add_factor_0, NULL, FORMAT, "above 0"},
        {"factor beyond f32", add_factor_inf, NULL, FORMAT, "above 0"},
        {"experts", add_experts, NULL, FORMAT, "n_experts_used"},
        {"no experts", add_no_experts, NULL, AK42_STATUS_OK, NULL},
        {"softcap", add_softcap, NULL, UNSUPPORTED, "softcapping"},
        {"bidirectional", add_bidirectional, NULL, UNSUPPORTED, "causal"},
        {"split", add_split, NULL, UNSUPPORTED, "part 1 of 2: expected a file"},
        {"vocab_size", add_vocab_size, NULL, FORMAT, "22, 21 and 21"},
        {"partial rotary", add_rotary, NULL, AK42_STATUS_OK, NULL},
        {"rotary beyond", add_rotary_17, NULL, FORMAT, "rotary_dim"},
        {"alignment 0", add_alignment_0, NULL, FORMAT, "alignment"},
        {"alignment 13", add_alignment_13, NULL, FORMAT, "alignment"},
        {"alignment 2^31", add_alignment_max, NULL, FORMAT, "alignment"},
        {"alignment i32", add_alignment_int, NULL, FORMAT, "alignment"},
        {"alignment 64 in a file of 32", add_alignment_64, NULL, FORMAT, "tensor"},
        {"nested array", add_nested, NULL, FORMAT, "no array inside an array"},
        {"type 13", add_type_13, NULL, FORMAT, "found 13"},
        {"element 13", add_element_13, NULL, FORMAT, "found 13"},
        {"array huge", add_array_huge, NULL, FORMAT, "odd"},
        {"array long", add_array_long, NULL, FORMAT, "odd"},
        {"strings huge", add_array_strings, NULL, FORMAT, "odd"},
        {"string huge", add_string_huge, NULL, FORMAT, "18446744073709551615"},
        {"empty key", add_key_empty, NULL, FORMAT, "found nothing"},
        {"latin key", add_key_latin, NULL, FORMAT, "UTF-8"},
        {"utf-8 key", add_key_utf8, NULL, AK42_STATUS_OK, NULL},
        {"surrogate key", add_key_surrogate, NULL, FORMAT, "UTF-8"},
        {"long key", add_key_long, NULL, FORMAT, "up to 65535"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        bytes b = build_gguf(&shape_blocks, 3, only_f32, 1, cases[i].edit, cases[i].skip);
        expect(b.data, b.size, cases[i].status, cases[i].word, cases[i].what);
        free(b.data);
    }
}

static void check_gguf_tensors(void) {
    bytes b = build_gguf(&shape_blocks, 3, gguf_types, ARRAY_LEN(gguf_types), NULL, NULL);
    /* at n_dims: u32, two u64, u32 type, u64 offset */
    const size_t embedding = marked(&b, "token_embd.weight") + 8 + 17;
    static const edit header[] = {
        {"version 1", 4, 1, 4, UNSUPPORTED, "version"}, {"version 4", 4, 4, 4, UNSUPPORTED, "version"},
        {"version 0", 4, 0, 4, FORMAT, "version"},
        {"big-endian", 4, 0x03000000, 4, UNSUPPORTED, "big-endian"},
        {"tensors 2^63", 8, 1ull << 63, 8, FORMAT, "n_tensors"},
        {"tensors 10^6", 8, 1000000, 8, FORMAT, "n_tensors"},
        {"keys 2^64-1", 16, UINT64_MAX, 8, FORMAT, "n_kv"}, {"keys 65537", 16, 65537, 8, FORMAT, "n_kv"},
        {"no tensors", 8, 0, 8, FORMAT, "no tensors"},
    };
    static const edit entry[] = {
        {"dims 5", 0, 5, 4, FORMAT, "dimensions, found 5"}, {"dim -1", 4, UINT64_MAX, 8, FORMAT, "2^63"},
        {"dim 0", 4, 0, 8, FORMAT, "expected offset 0"},
        {"dims wrap", 12, 1ull << 59, 8, FORMAT, "token_embd"},
        {"columns 33", 4, 33, 8, FORMAT, "block of 32"}, {"IQ4_XS", 20, 23, 4, FORMAT, "block of 256"},
        {"I32", 20, 26, 4, UNSUPPORTED, "I32"}, {"removed type", 20, 4, 4, UNSUPPORTED, "type 4"},
        {"type -1", 20, UINT32_MAX, 4, UNSUPPORTED, "type 4294967295"},
        {"type int8", 20, 0x1000, 4, UNSUPPORTED, "type 4096"},
        {"offset 32", 24, 32, 8, FORMAT, "expected offset 0"},
        {"offset max", 24, UINT64_MAX, 8, FORMAT, "expected offset"},
        {"rows 20", 12, 20, 8, FORMAT, "expected offset"},
    };
    for (size_t i = 0; i < ARRAY_LEN(header); i++) apply(&b, &header[i], 0, false);
    for (size_t i = 0; i < ARRAY_LEN(entry); i++) apply(&b, &entry[i], embedding, false);
    const size_t name = marked(&b, "blk.0.attn_norm.weight");
    apply(&b, &(edit){"NUL in a name", 9, 0, 1, FORMAT, "NUL"}, name, false);
    apply(&b, &(edit){"name too long", 0, 65, 8, FORMAT, "up to 64"}, name, false);
    apply(&b, &(edit){"name beyond", 0, UINT64_MAX - 7, 8, FORMAT, "tensor name"}, name, false);
    apply(&b, &(edit){"escape code", 8, 0x1b, 1, FORMAT, "\\x1blk.0.attn_norm.weight"}, name, false);
    uint8_t *data = malloc(b.size);
    memcpy(data, b.data, b.size);
    memcpy(data + marked(&b, "blk.1.attn_norm.weight") + 8, "blk.0", 5);
    expect(data, b.size, FORMAT, "found twice", "two tensors of a name");
    free(data);
    free(b.data);
    shape shared = shape_blocks;         /* so that the last tensor is a vector */
    shared.shared = true;
    b = build_gguf(&shared, 3, only_f32, 1, NULL, NULL);
    apply(&b, &(edit){"f16 norm", 8 + 18 + 4 + 8, TYPE_F16, 4, UNSUPPORTED,
                      "expected f32 in rows, found f16"},
          marked(&b, "output_norm.weight"), false);
    free(b.data);
}

/* ---- what is no model ---- */

static void check_strangers(void) {
    static const struct {
        const char *bytes;
        size_t size;
        ak42_status status;
        const char *word;
    } cases[] = {
        {"", 0, FORMAT, "0 bytes"}, {"GGU", 3, FORMAT, "3 bytes"}, {"GGUF", 4, FORMAT, "fetch or convert it again"},
        {"24ka", 4, FORMAT, "fetch or convert it again"},
        {"version https://git-lfs.github.com/spec/v1\n", 43, FORMAT, "git lfs pull"},
        {"\n <!DOCTYPE html><html>aaaaaaaaaaaaa", 36, FORMAT, "HTML"}, {"<HTML>", 6, FORMAT, "HTML"},
        {"PK\3\4aaaaaaaaaaaaaaaaaaaaaaaaa", 29, FORMAT, "zip"}, {"\x7f" "ELF\2\1\1", 7, FORMAT, "ELF"},
        {"\x89PNG\r\n\x1a\n", 8, FORMAT, "PNG"}, {"{\n  \"model_type\": 1}", 20, FORMAT, "JSON"},
        {"\4\0\0\0\0\0\0\0{ab}xxxxxxxxxxxxxxxxxxxxxxx", 35, FORMAT, "safetensors"},
        {"tjgg", 4, UNSUPPORTED, "GGJT"},
        {"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", 10, FORMAT, "gzip"},
        {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"
         "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 30, FORMAT, "found -1"},
        {"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 30, FORMAT, "no ak42 or GGUF magic"},
        {"abcdefghijklmnopqrstuvwxyz0123456789", 36, FORMAT, "no ak42 or GGUF magic"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        expect((const uint8_t *)cases[i].bytes, cases[i].size, cases[i].status, cases[i].word, cases[i].word);
}

/* ---- files ---- */

static void write_file(const char *path, const void *data, size_t size) {
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, size, f) != size || fclose(f)) exit(2);
}

static void check_filemap(void) {
    char folder[] = "/tmp/check_files_XXXXXX", path[64], other[64];
    ak42_model_opts opts = options();
    ak42_error err;
    ak42_model *model = NULL;
    if (!mkdtemp(folder)) exit(2);
    snprintf(path, sizeof path, "%s/m.bin", folder);
    snprintf(other, sizeof other, "%s/fifo", folder);
    bytes b = build_v3(&shape_blocks, all_types, ARRAY_LEN(all_types), 1),
        rows = build_v3(&shape_blocks, all_types, ARRAY_LEN(all_types), 0);
    for (int i = 0; i < 4; i++) {
        const bytes *file = i < 2 ? &b : &rows;
        opts.use_mmap = i % 2 ? AK42_MMAP_NO : AK42_MMAP_YES;
        write_file(path, file->data, file->size);
        const ak42_status status = model_open(&model, path, NULL, 0, &opts, &err);
        CHECK(!status, "%s", err.text);
        if (status) continue;
        check_weights(model, &rows, "", ".weight");
        CHECK((model->info.packed_bytes == 0) == (i < 2), "mapped panels stay where they are");
        CHECK(model->info.file_bytes == file->size, "file_bytes");
        model_free(model);
    }
    const struct {
        const char *path;
        ak42_status status;
        const char *word;
    } cases[] = {{other, AK42_STATUS_IO, "No such file"}, {folder, FORMAT, "folder"},
                 {"", AK42_STATUS_IO, "cannot open"}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const ak42_status status = model_open(&model, cases[i].path, NULL, 0, &opts, &err);
        CHECK(status == cases[i].status && strstr(err.text, cases[i].word), "%s: %d %s", cases[i].path,
              status, err.text);
    }
    if (!mkfifo(other, 0600)) {
        CHECK(model_open(&model, other, NULL, 0, &opts, &err) == FORMAT && strstr(err.text, "pipe"), "%s",
              err.text);
        unlink(other);
    }
    write_file(path, "", 0);
    CHECK(model_open(&model, path, NULL, 0, &opts, &err) == FORMAT && strstr(err.text, "m.bin: "), "empty: "
          "%s", err.text);
    unlink(path);
    rmdir(folder);
    free(b.data), free(rows.data);
}

/* ---- memory that runs out, and a caller that changes its mind ---- */

typedef struct counting {
    long left;                         /* allocations that still succeed */
    long live, calls;
} counting;

static void *counting_realloc(void *user, void *memory, size_t size) {
    counting *c = user;
    if (!size) {
        c->live--;
        free(memory);
        return NULL;
    }
    c->calls++;
    if (c->left-- <= 0) return NULL;
    if (!memory) c->live++;
    return realloc(memory, size);
}

static int32_t cancel_now(void *user) {
    ++*(int *)user;
    return 1;
}

static void check_failures(void) {
    bytes files[] = {build_v0(&shape_f32), build_v12(&shape_int8, 2, true),
                     build_v3(&shape_blocks, all_types, ARRAY_LEN(all_types), 0),
                     build_gguf(&shape_blocks, 3, gguf_types, ARRAY_LEN(gguf_types), NULL, NULL)};
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        ak42_model_opts opts = options();
        ak42_model *model = NULL;
        ak42_error err;
        ak42_status status = AK42_STATUS_NOMEM;
        long n = 0;
        for (; status && n < 100; n++) {
            counting c = {.left = n};
            opts.allocator = counting_realloc;
            opts.allocator_user = &c;
            status = model_open(&model, "m", files[i].data, files[i].size, &opts, &err);
            CHECK(status == AK42_STATUS_OK || status == AK42_STATUS_NOMEM, "allocation %ld: %s", n, err.text);
            if (!status) model_free(model);
            CHECK(c.live == 0, "allocation %ld: %ld blocks left", n, c.live);
        }
        CHECK(n > 3 && !status, "file %zu opens after %ld allocations", i, n);
        int asked = 0;
        opts = options();
        opts.cancel = cancel_now;
        opts.cancel_user = &asked;
        model = NULL;
        status = model_open(&model, "m", files[i].data, files[i].size, &opts, &err);
        CHECK(status == AK42_STATUS_CANCELLED && !model && asked > 0, "cancelled: %d", status);
        free(files[i].data);
    }
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "--quick")) step = 7;
    check_crc();
    check_floats();
    check_memory();
    check_error();
    check_types();
    check_json();

    check_old(&shape_f32, 0, false, "ak42 v0");
    check_old(&shape_f32_own, 0, false, "ak42 v0");
    check_old(&shape_f32, 1, false, "ak42 v1");
    check_old(&shape_f32_own, 1, true, "ak42 v1");
    check_old(&shape_int8, 2, false, "ak42 v2");
    check_old(&shape_int8, 2, true, "ak42 v2");
    check_v3();
    check_gguf(2);
    check_gguf(3);
    check_vocab();
    check_filemap();
    check_failures();

    check_strangers();
    check_v0_fields();
    check_header_fields();
    check_v3_fields();
    check_gguf_keys();
    check_gguf_tensors();

    damage(build_v0(&shape_f32_own), 28, 0, 28, 7, false, "v0");
    damage(build_v12(&shape_f32_own, 1, false), 256, 0, 256, 0, false, "v1");
    damage(build_v12(&shape_f32_own, 1, true), 256, 64, 256, 0, true, "v1 with trailer");
    damage(build_v12(&shape_int8, 2, true), 256, 0, 64, 0, true, "v2 with trailer");
    damage(build_v3(&shape_blocks, all_types, ARRAY_LEN(all_types), 1), 512, 0, 256 + 4 * 128, 0, true, "v3");
    bytes gguf = build_gguf(&shape_blocks, 3, gguf_types, ARRAY_LEN(gguf_types), more_keys,
                            "llama.feed_forward_length");
    const size_t table = marked(&gguf, "blk.0.attn_q.weight");
    damage(gguf, table, 0, table, 0, false, "gguf");

    printf("%ld files opened%s\n", n_opens, isnan(touched) ? "" : ".");
    printf("%ld passed, %ld failed\n", n_passed, n_failed);
    return n_failed != 0;
}
