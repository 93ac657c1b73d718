/* ak42.c: the header of ak42 files v0 to v3: its fields become a model_config, every one checked, or the
 * file is refused. Where the tensors and the trailer lie is left to ak42_payload.c and ak42_trailer.c.
 * Called by container_parse. Opening reads the header, the directory and the trailer; the weights are not
 * touched, so their checksums are for `pyllama verify`. */
#include <math.h>
#include <stdio.h>

#include "ak42_file.h"
#include "error.h"
#include "families.h"
#include "json.h"

/* ---- features ---- */

/* Bits of incompat_flags, in format.md's order. */
enum {
    FEATURE_ROPE_THETA = 1 << 0,
    FEATURE_ROPE_SCALING = 1 << 1,
    FEATURE_NORM_EPS = 1 << 2,
    FEATURE_HEAD_DIM = 1 << 3,
    FEATURE_QKV_BIAS = 1 << 4,
    FEATURE_QK_NORM = 1 << 5,
    FEATURE_SLIDING_WINDOW = 1 << 6,
    FEATURE_ACTIVATION = 1 << 7,
    FEATURE_SOFTCAP = 1 << 8,
    FEATURE_SCALES = 1 << 9,
    FEATURE_MOE = 1 << 10,
    FEATURE_ROPE_HALF_SPLIT = 1 << 11,
    FEATURE_PARTIAL_ROTARY = 1 << 12,
    FEATURE_MODEL_FLAGS = 1 << 13,
    FEATURE_LAYER_FLAGS = 1 << 14,
    FEATURE_DIRECTORY = 1 << 15,
    FEATURES_KNOWN = (1 << 16) - 1,
};

static const char *const feature_names[] = {
    "ROPE_THETA", "ROPE_SCALING", "NORM_EPS", "HEAD_DIM", "QKV_BIAS", "QK_NORM", "SLIDING_WINDOW",
        "ACTIVATION",
    "SOFTCAP", "SCALES", "MOE", "ROPE_HALF_SPLIT", "PARTIAL_ROTARY", "MODEL_FLAGS", "LAYER_FLAGS",
        "DIRECTORY",
};

static const char *first_feature(uint32_t bits) {
    for (size_t i = 0; i < ARRAY_LEN(feature_names); i++)
        if (bits >> i & 1) return feature_names[i];
    return "none";
}

static float default_attention_scale(const model_config *m) { return 1.0f / sqrtf((float)m->head_dim); }

/* What llama2.c's reader would not compute as the config has it. */
static uint32_t features_used(const model_config *m) {
    model_config llama2c;
    config_init(&llama2c);
    uint32_t used = 0;
    if (m->rope_theta != llama2c.rope_theta) used |= FEATURE_ROPE_THETA;
    if (m->rope_scaling != ROPE_SCALING_NONE || m->rope_attn_factor != 1.0f) used |= FEATURE_ROPE_SCALING;
    if (m->norm_eps != llama2c.norm_eps) used |= FEATURE_NORM_EPS;
    if ((uint64_t)m->head_dim * m->n_heads != m->dim) used |= FEATURE_HEAD_DIM;
    if (m->rope_theta_local != 0.0f) used |= FEATURE_ROPE_THETA;
    if (m->qkv_bias) used |= FEATURE_QKV_BIAS;
    if (m->qk_norm) used |= FEATURE_QK_NORM;
    if (m->n_experts) used |= FEATURE_MOE;
    if (m->sliding_window && m->sliding_window < m->seq_len) used |= FEATURE_SLIDING_WINDOW;
    if (m->activation != ACTIVATION_SILU) used |= FEATURE_ACTIVATION;
    if (m->attn_softcap != 0.0f || m->final_softcap != 0.0f) used |= FEATURE_SOFTCAP;
    if (m->embedding_scale != 1.0f || m->residual_scale != 1.0f || m->logit_scale != 1.0f ||
        m->attention_scale != default_attention_scale(m))
        used |= FEATURE_SCALES;
    if (m->rope_layout != ROPE_LAYOUT_INTERLEAVED) used |= FEATURE_ROPE_HALF_SPLIT;
    if (m->rotary_dim != m->head_dim) used |= FEATURE_PARTIAL_ROTARY;
    if (m->model_flags) used |= FEATURE_MODEL_FLAGS;
    return used;
}

/* ---- integers of a header ---- */

typedef struct int_field {
    const char *name;
    uint32_t at;
    int64_t min, max;
    uint32_t *out;                 /* NULL: only checked */
} int_field;

static ak42_status read_ints(const container *c, const int_field *fields, size_t n, ak42_error *err) {
    for (size_t i = 0; i < n; i++) {
        const int32_t value = load_i32(c->map.data + fields[i].at);
        if (value < fields[i].min || value > fields[i].max)
            return error_set(err, AK42_STATUS_FORMAT, "%s: header: field %s at byte %u: expected %lld to "
                             "%lld, found %d", c->name, fields[i].name, fields[i].at,
                             (long long)fields[i].min, (long long)fields[i].max, value);
        if (fields[i].out) *fields[i].out = (uint32_t)value;
    }
    return AK42_STATUS_OK;
}

/* The seven integers that every version begins with. A negative vocab_size is v0's way to say that the
 * head is its own. */
static ak42_status read_dims(container *c, uint32_t at, bool negative_vocab, ak42_error *err) {
    model_config *m = &c->config;
    int32_t vocab_size = load_i32(c->map.data + at + 20);
    const int_field fields[] = {
        {"dim", at, 1, CONFIG_MAX_DIM, &m->dim},
        {"hidden_dim", at + 4, 1, CONFIG_MAX_DIM, &m->hidden_dim},
        {"n_layers", at + 8, 1, CONFIG_MAX_LAYERS, &m->n_layers},
        {"n_heads", at + 12, 1, CONFIG_MAX_HEADS, &m->n_heads},
        {"n_kv_heads", at + 16, 1, CONFIG_MAX_HEADS, &m->n_kv_heads},
        {"vocab_size", at + 20, negative_vocab ? -CONFIG_MAX_VOCAB : 1, CONFIG_MAX_VOCAB, NULL},
        {"seq_len", at + 24, 1, INT32_MAX, &m->seq_len},
    };
    const ak42_status status = read_ints(c, fields, ARRAY_LEN(fields), err);
    if (status) return status;
    m->vocab_size = (uint32_t)(vocab_size < 0 ? -vocab_size : vocab_size);
    return AK42_STATUS_OK;
}

/* llama2.c's constants where no extension says otherwise. */
static ak42_status fill_defaults(container *c, ak42_error *err) {
    model_config *m = &c->config;
    if (m->dim % m->n_heads)
        return error_set(err, AK42_STATUS_FORMAT, "%s: header: dim: expected a multiple of n_heads (%u), "
                         "found %u", c->name, m->n_heads, m->dim);
    m->head_dim = m->rotary_dim = m->dim / m->n_heads;
    m->attention_scale = default_attention_scale(m);
    m->trained_ctx = m->seq_len;
    return AK42_STATUS_OK;
}

/* ---- v0 ---- */

ak42_status ak42_parse_v0(container *c, container_want want, ak42_error *err) {
    (void)want;
    uint64_t end;
    ak42_error why;
    memcpy(c->format, "ak42 v0", 8);
    if (c->map.size < AK42_V0_HEADER_BYTES)
        return error_set(err, AK42_STATUS_FORMAT, "%s: expected an ak42 or GGUF file, found %llu bytes; the "
                         "smallest header has %d", c->name, (unsigned long long)c->map.size,
                         AK42_V0_HEADER_BYTES);
    /* Any file without a magic comes here, so a refusal says that first. */
    container view = {.name = "no ak42 or GGUF magic; as llama2.c's headerless format", .map = c->map};
    config_init(&view.config);
    ak42_status status = read_dims(&view, 0, true, &why);
    if (!status) status = fill_defaults(&view, &why);
    config_layers_alike(&view.config);
    if (!status) status = config_check(&view.config, view.name, &why);
    if (status) return error_set(err, status, "%s: %s", c->name, why.text);
    c->config = view.config;
    c->config.shared_classifier = load_i32(c->map.data + 20) > 0;
    status = payload_bytes(&end, c, 0, err);
    if (!status && end != c->map.size)
        status = error_set(err, AK42_STATUS_FORMAT, "%s: no ak42 or GGUF magic; as llama2.c's headerless "
                           "format: expected exactly %llu bytes for its sizes, found %llu", c->name,
                           (unsigned long long)end, (unsigned long long)c->map.size);
    if (!status) status = payload_read(c, 0, err);
    return status ? status : container_sort(c, err);
}

/* ---- the extension ---- */

/* Bytes [begin, end) are reserved. */
static ak42_status check_zero(const container *c, uint32_t begin, uint32_t end, ak42_error *err) {
    for (uint32_t at = begin; at < end; at++)
        if (c->map.data[at])
            return error_set(err, AK42_STATUS_FORMAT, "%s: header: reserved byte %u: expected 0, found %u",
                             c->name, at, c->map.data[at]);
    return AK42_STATUS_OK;
}

static ak42_status check_extension(const container *c, ak42_header *h, ak42_error *err) {
    const uint8_t *p = c->map.data;
    const uint32_t expected = load_u32(p + 252), found = crc32c(0, p, 252);
    if (expected != found)
        return error_set(err, AK42_STATUS_FORMAT, "%s: header checksum at byte 252: expected 0x%08x, found "
                         "0x%08x: the file is damaged", c->name, expected, found);
    if (load_u16(p + 68) != AK42_HEADER_BYTES - AK42_EXTENSION_AT || load_u16(p + 70) != 0)
        return error_set(err, AK42_STATUS_UNSUPPORTED, "%s: header: expected extension 192.0, found %u.%u; "
                         "a newer version may read it", c->name, load_u16(p + 68), load_u16(p + 70));
    h->incompat_flags = load_u32(p + 76);
    if (h->incompat_flags & ~(uint32_t)FEATURES_KNOWN)
        return error_set(err, AK42_STATUS_UNSUPPORTED, "%s: header: field incompat_flags at byte 76: "
                         "expected bits 0 to 15, found 0x%08x; a newer version may read it", c->name,
                         h->incompat_flags);
    h->directory_offset = load_u64(p + 176);
    h->n_tensors = load_u32(p + 184);
    h->directory_crc = load_u32(p + 188);
    h->data_offset = load_u64(p + 192);
    h->data_bytes = load_u64(p + 200);
    h->trailer_offset = load_u64(p + 208);
    h->trailer_bytes = load_u64(p + 216);
    h->file_bytes = load_u64(p + 224);
    h->trailer_crc = load_u32(p + 248);
    return AK42_STATUS_OK;
}

/* Ids that are there, without repeats. */
static void read_eos(model_config *m, const uint8_t *p) {
    m->n_eos = 0;
    for (int i = 0; i < AK42_EOS_MAX; i++) {
        const int32_t id = load_i32(p + 4 * i);
        bool known = id < 0;
        for (int k = 0; k < m->n_eos; k++) known |= m->eos_ids[k] == id;
        if (!known) m->eos_ids[m->n_eos++] = id;
    }
}

static float or_one(float scale) { return scale == 0.0f ? 1.0f : scale; }

static ak42_status read_extension(container *c, ak42_error *err) {
    model_config *m = &c->config;
    const uint8_t *p = c->map.data;
    const int64_t last_id = (int64_t)m->vocab_size - 1;
    const int_field fields[] = {
        {"head_dim", 88, 2, CONFIG_MAX_DIM, &m->head_dim},
        {"rotary_dim", 92, 0, CONFIG_MAX_DIM, &m->rotary_dim},
        {"sliding_window", 96, 0, INT32_MAX, &m->sliding_window},
        {"rope_original_ctx", 116, 0, INT32_MAX, &m->rope_original_ctx},
        {"bos_id", 124, -1, last_id, NULL},
        {"eos_id[0]", 128, -1, last_id, NULL},
        {"eos_id[1]", 132, -1, last_id, NULL},
        {"eos_id[2]", 136, -1, last_id, NULL},
        {"eos_id[3]", 140, -1, last_id, NULL},
        {"pad_id", 144, -1, last_id, NULL},
        {"n_experts", 148, 0, CONFIG_MAX_EXPERTS, &m->n_experts},
        {"n_experts_used", 152, 0, CONFIG_MAX_EXPERTS, &m->n_experts_used},
        {"trained_ctx", 172, 1, INT32_MAX, &m->trained_ctx},
    };
    const ak42_status status = read_ints(c, fields, ARRAY_LEN(fields), err);
    if (status) return status;
    if (!m->rotary_dim) m->rotary_dim = m->head_dim;
    m->rope_theta = load_f32(p + 80);
    m->norm_eps = load_f32(p + 84);
    m->rope_scaling = p[100];
    m->rope_layout = p[101];
    m->activation = p[102];
    m->model_flags = p[103];
    m->rope_factor = load_f32(p + 104);
    m->rope_low_freq = load_f32(p + 108);
    m->rope_high_freq = load_f32(p + 112);
    m->rope_attn_factor = or_one(load_f32(p + 120));
    m->rope_theta_local = load_f32(p + 240);
    m->qkv_bias = load_u32(p + 76) & FEATURE_QKV_BIAS;
    m->qk_norm = load_u32(p + 76) & FEATURE_QK_NORM;
    m->bos_id = load_i32(p + 124);
    read_eos(m, p + 128);
    m->pad_id = load_i32(p + 144);
    m->attn_softcap = load_f32(p + 156);
    m->final_softcap = load_f32(p + 160);
    m->embedding_scale = or_one(load_f32(p + 164));
    m->residual_scale = or_one(load_f32(p + 168));
    m->logit_scale = or_one(load_f32(p + 236));
    m->attention_scale = load_f32(p + 232);
    if (m->attention_scale == 0.0f) m->attention_scale = default_attention_scale(m);
    return AK42_STATUS_OK;
}

/* The feature bits against the fields: an older reader trusts the bits alone, so a file whose bits say
 * less is wrong. */
static ak42_status check_features(const container *c, const ak42_header *h, ak42_error *err) {
    const uint32_t flags = h->incompat_flags, used = features_used(&c->config);
    if (h->version < 3 && flags)
        return error_set(err, AK42_STATUS_FORMAT, "%s: header: expected no feature bits in version %d, "
                         "found %s", c->name, h->version, first_feature(flags));
    if (h->version == 3 && !(flags & FEATURE_DIRECTORY))
        return error_set(err, AK42_STATUS_FORMAT, "%s: header: expected feature bit DIRECTORY in version 3, "
                         "found 0x%08x", c->name, flags);
    if (used & ~flags)
        return error_set(err, AK42_STATUS_FORMAT, "%s: header: fields need feature bit %s: expected it to "
                         "be set%s, found 0x%08x", c->name, first_feature(used & ~flags),
                         h->version < 3 ? " (and version 3)" : "", flags);
    return AK42_STATUS_OK;
}

/* ---- the whole header ---- */

static ak42_status read_group_size(container *c, const ak42_header *h, ak42_error *err) {
    const int32_t group = load_i32(c->map.data + 37);
    const bool power = group > 0 && (group & (group - 1)) == 0;
    if (h->version == 1 || (h->version == 3 && group == 0)) {
        if (group)
            return error_set(err, AK42_STATUS_FORMAT, "%s: header: field group_size at byte 37: expected 0 "
                             "in version 1, found %d", c->name, group);
        return AK42_STATUS_OK;
    }
    if (!power || (uint32_t)group > c->config.dim)
        return error_set(err, AK42_STATUS_FORMAT, "%s: header: field group_size at byte 37: expected a "
                         "power of two up to dim (%u), found %d", c->name, c->config.dim, group);
    if (group < 4 || group > SUPER_K)
        return error_set(err, AK42_STATUS_UNSUPPORTED, "%s: header: field group_size at byte 37: expected 4 "
                         "to %d, found %d; convert the original weights", c->name, SUPER_K, group);
    c->config.group_size = (uint32_t)group;
    return AK42_STATUS_OK;
}

static ak42_status read_header(container *c, ak42_header *h, ak42_error *err) {
    const uint8_t *p = c->map.data;
    if (c->map.size < AK42_HEADER_BYTES)
        return error_set(err, AK42_STATUS_FORMAT, "%s: truncated: expected a header of %d bytes, found %llu; "
                         "fetch or convert it again", c->name, AK42_HEADER_BYTES, (unsigned long long)c->map.size);
    h->version = load_i32(p + 4);
    if (h->version < 1 || h->version > 3)
        return error_set(err, h->version < 1 ? AK42_STATUS_FORMAT : AK42_STATUS_UNSUPPORTED, "%s: header: "
                         "field version at byte 4: expected 1 to 3, found %d", c->name, h->version);
    memcpy(c->format, "ak42 v1", 8);
    c->format[6] = (char)('0' + h->version);
    h->extended = !memcmp(p + AK42_EXTENSION_AT, "AKX1", 4);
    if (h->version == 3 && !h->extended)
        return error_set(err, AK42_STATUS_FORMAT, "%s: header: expected \"AKX1\" at byte 64 of version 3, "
                         "found %.4s", c->name, (const char *)p + AK42_EXTENSION_AT);
    ak42_status status = h->extended ? check_extension(c, h, err) : AK42_STATUS_OK;
    if (!status) status = check_zero(c, 41, h->extended ? AK42_EXTENSION_AT : AK42_HEADER_BYTES, err);
    if (!status) status = read_dims(c, 8, false, err);
    if (!status && p[36] > 1)
        status = error_set(err, AK42_STATUS_FORMAT, "%s: header: field shared_classifier at byte 36: "
                           "expected 0 or 1, found %u", c->name, p[36]);
    c->config.shared_classifier = p[36] == 1;
    if (!status) status = read_group_size(c, h, err);
    if (!status) status = h->extended ? read_extension(c, err) : fill_defaults(c, err);
    config_layers_alike(&c->config);
    if (!status) status = config_check(&c->config, c->name, err);
    if (!status && h->extended) status = check_features(c, h, err);
    return status;
}

/* ---- extents ---- */

/* v1, v2: the payload's place follows from the sizes; an extension must agree. */
static ak42_status check_payload(const container *c, ak42_header *h, ak42_error *err) {
    uint64_t end;
    const ak42_status status = payload_bytes(&end, c, h->version, err);
    if (status) return status;
    if (!h->extended) {
        h->data_offset = AK42_HEADER_BYTES;
        h->data_bytes = end - AK42_HEADER_BYTES;
        h->file_bytes = end;
        return AK42_STATUS_OK;
    }
    if (h->data_offset != AK42_HEADER_BYTES || h->data_bytes != end - AK42_HEADER_BYTES)
        return error_set(err, AK42_STATUS_FORMAT, "%s: header: data at byte 192: expected %llu bytes at 256 "
                         "for its sizes, found %llu at %llu", c->name,
                         (unsigned long long)(end - AK42_HEADER_BYTES), (unsigned long long)h->data_bytes,
                         (unsigned long long)h->data_offset);
    if (h->directory_offset || h->n_tensors)
        return error_set(err, AK42_STATUS_FORMAT, "%s: header: expected no directory in version %d, found "
                         "%u tensors at %llu", c->name, h->version, h->n_tensors,
                         (unsigned long long)h->directory_offset);
    return AK42_STATUS_OK;
}

/* Header, data, gap, trailer: they must end where the header says, and there the file must end. */
static ak42_status check_extents(const container *c, const ak42_header *h, ak42_error *err) {
    uint64_t end, gap_end;
    if (c->map.size != h->file_bytes)
        return error_set(err, AK42_STATUS_FORMAT, "%s: %s: expected %llu bytes, found %llu; fetch or convert it again",
                         c->name, c->map.size < h->file_bytes ? "truncated" : "bytes behind the end",
                         (unsigned long long)h->file_bytes, (unsigned long long)c->map.size);
    if (!add_u64(&end, h->data_offset, h->data_bytes) || end > h->file_bytes)
        return error_set(err, AK42_STATUS_FORMAT, "%s: header: data at byte 192: expected inside %llu "
                         "bytes, found %llu at %llu", c->name, (unsigned long long)h->file_bytes,
                         (unsigned long long)h->data_bytes, (unsigned long long)h->data_offset);
    const uint64_t data_end = end;
    if (h->trailer_offset) {
        gap_end = round_up(end, 8);
        if (h->trailer_offset != gap_end || gap_end > h->file_bytes)
            return error_set(err, AK42_STATUS_FORMAT, "%s: header: field trailer_offset at byte 208: "
                             "expected %llu, behind the data, found %llu", c->name,
                             (unsigned long long)gap_end, (unsigned long long)h->trailer_offset);
        for (; end < gap_end; end++)
            if (c->map.data[end])
                return error_set(err, AK42_STATUS_FORMAT, "%s: expected zeros between data and trailer, "
                                 "found %u at byte %llu", c->name, c->map.data[end], (unsigned long long)end);
    }
    if (!add_u64(&end, end, h->trailer_bytes) || end != h->file_bytes ||
        (!h->trailer_offset && h->trailer_bytes))
        return error_set(err, AK42_STATUS_FORMAT, "%s: header: expected data and trailer to end at %llu, "
                         "found data to %llu and %llu bytes of trailer", c->name,
                         (unsigned long long)h->file_bytes, (unsigned long long)data_end,
                         (unsigned long long)h->trailer_bytes);
    return AK42_STATUS_OK;
}

/* ---- sections that concern the config ---- */

/* CONF names the architecture of a v3 file. */
static ak42_status read_architecture(container *c, ak42_error *err) {
    const blob *conf = &c->sections[SECTION_CONF];
    const char *name = NULL;
    size_t size = 0;
    if (!conf->data)
        return error_set(err, AK42_STATUS_FORMAT, "%s: expected section CONF, which names the architecture, "
                         "found none", c->name);
    const json_found found = json_find_string(&name, &size, (const char *)conf->data, (size_t)conf->size,
                                              "model_type");
    if (found != JSON_FOUND)
        return error_set(err, AK42_STATUS_FORMAT, "%s: section CONF: expected a JSON object with one string "
                         "\"model_type\", found %s", c->name,
                         found == JSON_ABSENT ? "no such key" : "something else");
    const family *family = family_of_model_type(name, size);
    if (!family)
        return error_set(err, AK42_STATUS_UNSUPPORTED, "%s: architecture: expected one of %s, found %.*s", c->name,
                         family_model_types(), (int)(size < 64 ? size : 64), name);
    snprintf(c->config.architecture, sizeof c->config.architecture, "%s", family->gguf);
    return AK42_STATUS_OK;
}

/* LAYR says where layers differ. */
static ak42_status read_layer_flags(container *c, const ak42_header *h, ak42_error *err) {
    model_config *m = &c->config;
    const blob *layers = &c->sections[SECTION_LAYR];
    if (!layers->data != !(h->incompat_flags & FEATURE_LAYER_FLAGS))
        return error_set(err, AK42_STATUS_FORMAT, "%s: section LAYR and feature bit LAYER_FLAGS: expected "
                         "both or none, found %s alone", c->name, layers->data ? "LAYR" : "LAYER_FLAGS");
    if (!layers->data) return AK42_STATUS_OK;
    if (layers->size != (uint64_t)m->n_layers * 4)
        return error_set(err, AK42_STATUS_FORMAT, "%s: section LAYR: expected 4 bytes for each of %u "
                         "layers, found %llu", c->name, m->n_layers, (unsigned long long)layers->size);
    for (uint32_t i = 0; i < m->n_layers; i++) {
        const uint32_t flags = load_u32(layers->data + 4 * (size_t)i);
        if (flags & ~(uint32_t)LAYER_FLAGS_KNOWN)
            return error_set(err, AK42_STATUS_UNSUPPORTED, "%s: section LAYR: layer %u: expected flags 1 (sliding "
                             "window), 2 (no rope) and 4 (experts), found 0x%x", c->name, i, flags);
        m->layer_flags[i] = (uint8_t)flags;
    }
    return config_check(m, c->name, err);
}

/* Rope factors change the numbers as a scaling does, so their file needs the same bit. */
static ak42_status check_rope_factors(const container *c, const ak42_header *h, ak42_error *err) {
    if (!container_find(c, "rope_freqs.weight") || (h->incompat_flags & FEATURE_ROPE_SCALING))
        return AK42_STATUS_OK;
    return error_set(err, AK42_STATUS_FORMAT, "%s: header: tensor rope_freqs.weight needs feature bit "
                     "ROPE_SCALING: expected it to be set, found 0x%08x", c->name, h->incompat_flags);
}

ak42_status ak42_parse(container *c, container_want want, ak42_error *err) {
    (void)want;
    ak42_header h = {0};
    config_init(&c->config);
    ak42_status status = read_header(c, &h, err);
    if (!status && h.version < 3) status = check_payload(c, &h, err);
    if (!status) status = check_extents(c, &h, err);
    if (!status && h.extended) {
        c->has_weights_crc = true;
        c->weights_crc = h.version < 3 ? load_u32(c->map.data + 244) : h.directory_crc;    /* the directory has each tensor's */
    }
    if (!status) status = trailer_read(c, &h, err);
    if (!status && h.version == 3) status = read_architecture(c, err);
    if (!status) status = read_layer_flags(c, &h, err);
    if (!status) status = h.version < 3 ? payload_read(c, h.version, err) : directory_read(c, &h, err);
    if (!status) status = container_sort(c, err);
    if (!status) container_read_shapes(c);
    return status ? status : check_rope_factors(c, &h, err);
}
