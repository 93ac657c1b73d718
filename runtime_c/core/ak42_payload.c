/* ak42_payload.c: where the tensors of an ak42 file lie: in a fixed order that follows from the config (v0
 * to v2), or where the directory says (v3). Every extent is inside the file when it is done. Called by
 * ak42.c, which has checked the config. */
#include <stdio.h>
#include <stdlib.h>

#include "ak42_file.h"
#include "error.h"
#include "roles.h"

/* ---- v0 to v2 ---- */

/* v0: freq_cos and freq_sin, (seq_len, head_dim / 2) each; passed over */
enum { ROPE_TABLES = ROLE_COUNT };

/* docs/format.md; a role of layers stands for all of them, one after another. */
static const int order_v0[] = {
    ROLE_EMBEDDING, ROLE_ATT_NORM, ROLE_WQ, ROLE_WK, ROLE_WV, ROLE_WO, ROLE_FFN_NORM, ROLE_W1, ROLE_W2,
        ROLE_W3,
    ROLE_NORM, ROPE_TABLES, ROLE_HEAD,
};
static const int order_v1[] = {
    ROLE_ATT_NORM, ROLE_FFN_NORM, ROLE_NORM, ROLE_EMBEDDING, ROLE_WQ, ROLE_WK, ROLE_WV, ROLE_WO, ROLE_W1,
        ROLE_W2,
    ROLE_W3, ROLE_HEAD,
};

typedef struct walk {
    const container *c;
    const type_info *matrix_type;
    uint64_t offset;
    tensor *tensors;               /* NULL: only the sizes are wanted */
    uint32_t n_tensors;
} walk;

/* Passes one role; false where its size does not exist or overflows. */
static bool walk_role(walk *w, role role) {
    const model_config *config = &w->c->config;
    const bool vector = role_is_vector(role);
    const type_info *type = vector ? type_by_id(TYPE_F32) : w->matrix_type;
    const uint32_t group_size = type->id == TYPE_INT8 ? config->group_size : 0;
    const uint32_t n = role_per_layer(role) ? config->n_layers : 1;
    const role_dims dims = role_shape(role, config);
    uint64_t nbytes;
    if (!type_bytes(&nbytes, type, group_size, LAYOUT_ROWS, dims.rows, dims.columns)) return false;
    for (uint32_t layer = 0; layer < n; layer++) {
        if (w->tensors) {
            tensor *t = &w->tensors[w->n_tensors];
            *t = (tensor){.type = type, .layout = LAYOUT_ROWS, .group_size = group_size, .n_dims = vector ? 1
                          : 2,
                          .offset = w->offset, .nbytes = nbytes, .data = w->c->map.data + w->offset};
            t->dims[0] = vector ? dims.columns : dims.rows;
            t->dims[1] = vector ? 0 : dims.columns;
            role_name(t->name, role, layer);
        }
        w->n_tensors++;
        if (!add_u64(&w->offset, w->offset, nbytes)) return false;
    }
    return true;
}

static bool walk_payload(walk *w, int32_t version) {
    const model_config *config = &w->c->config;
    const int *order = version ? order_v1 : order_v0;
    const size_t n = version ? ARRAY_LEN(order_v1) : ARRAY_LEN(order_v0);
    w->matrix_type = type_by_id(version == 2 ? TYPE_INT8 : TYPE_F32);
    w->offset = version ? AK42_HEADER_BYTES : AK42_V0_HEADER_BYTES;
    w->n_tensors = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t tables;
        if (order[i] == ROPE_TABLES) {
            if (!mul_u64(&tables, (uint64_t)config->head_dim / 2 * 2 * sizeof(float), config->seq_len))
                return false;
            if (!add_u64(&w->offset, w->offset, tables)) return false;
        } else if (order[i] != ROLE_HEAD || !config->shared_classifier) {
            if (!walk_role(w, (role)order[i])) return false;
        }
    }
    return true;
}

ak42_status payload_bytes(uint64_t *end, const container *c, int32_t version, ak42_error *err) {
    walk w = {.c = c};
    if (!walk_payload(&w, version)) {
        if (version == 2)
            return error_set(err, AK42_STATUS_FORMAT, "%s: group_size %u: expected to divide every row: dim "
                             "%u, hidden_dim %u, n_heads * head_dim %u; convert the original weights",
                             c->name, c->config.group_size, c->config.dim, c->config.hidden_dim,
                             c->config.n_heads * c->config.head_dim);
        return error_set(err, AK42_STATUS_FORMAT, "%s: header: expected the size of a model, found one "
                         "beyond 64 bits", c->name);
    }
    *end = w.offset;
    return AK42_STATUS_OK;
}

ak42_status payload_read(container *c, int32_t version, ak42_error *err) {
    walk w = {.c = c};
    walk_payload(&w, version);           /* counts; payload_bytes has seen it succeed */
    const uint32_t n = w.n_tensors;
    if (!(c->tensors = mem_zalloc(c->alloc, n, sizeof *c->tensors)))
        return error_set(err, AK42_STATUS_NOMEM, "%s: no memory for the list of %u tensors", c->name, n);
    w.tensors = c->tensors;
    walk_payload(&w, version);
    c->n_tensors = n;
    return AK42_STATUS_OK;
}

/* ---- v3 ---- */

enum {
    ENTRY_TYPE = 64, ENTRY_LAYOUT = 68, ENTRY_N_DIMS = 72, ENTRY_ZERO = 76, ENTRY_DIMS = 80,
        ENTRY_OFFSET = 104,
    ENTRY_NBYTES = 112, ENTRY_ZERO_2 = 124, ENTRY_BYTES = 128,
    TENSOR_ALIGNMENT = 64, DATA_ALIGNMENT = 4096, TENSORS_MAX = 65536,
};

static ak42_status read_name(tensor *t, const container *c, const uint8_t *entry, uint32_t index,
                             ak42_error *err) {
    memcpy(t->name, entry, TENSOR_NAME_MAX);
    const size_t size = strlen(t->name);
    for (size_t i = size; i < TENSOR_NAME_MAX; i++)
        if (entry[i])
            return error_set(err, AK42_STATUS_FORMAT, "%s: tensor %u: expected a name padded with zeros, "
                             "found byte %u behind its end", c->name, index, entry[i]);
    if (!size)
        return error_set(err, AK42_STATUS_FORMAT, "%s: tensor %u: expected a name, found none", c->name,
                         index);
    return AK42_STATUS_OK;
}

/* Type, layout and dimensions, and the size that they give. */
static ak42_status read_kind(tensor *t, const container *c, const uint8_t *entry, ak42_error *err) {
    const uint32_t type = load_u32(entry + ENTRY_TYPE), layout = load_u32(entry + ENTRY_LAYOUT);
    t->type = type_by_id(type);
    if (!t->type)
        return error_set(err, AK42_STATUS_UNSUPPORTED, "%s: tensor %s: expected a type that this library "
                         "computes, found type 0x%x; convert the original weights", c->name, t->name, type);
    if (layout > LAYOUT_STREAM16 || (layout == LAYOUT_STREAM16 && t->type->panels != LAYOUT_STREAM16))
        return error_set(err, AK42_STATUS_UNSUPPORTED, "%s: tensor %s: expected layout 0 or 1%s, found %u",
                         c->name, t->name, t->type->panels == LAYOUT_STREAM16 ? " or 2" : "", layout);
    t->layout = (enum layout)layout;
    t->n_dims = load_u32(entry + ENTRY_N_DIMS);
    if (t->n_dims < 1 || t->n_dims > TENSOR_DIMS_MAX)
        return error_set(err, AK42_STATUS_FORMAT, "%s: tensor %s: expected 1 to 3 dimensions, found %u",
                         c->name, t->name, t->n_dims);
    if (load_u32(entry + ENTRY_ZERO) || load_u32(entry + ENTRY_ZERO_2))
        return error_set(err, AK42_STATUS_FORMAT, "%s: tensor %s: expected zeros in the reserved fields, "
                         "found %u and %u", c->name, t->name, load_u32(entry + ENTRY_ZERO),
                         load_u32(entry + ENTRY_ZERO_2));
    for (uint32_t i = 0; i < TENSOR_DIMS_MAX; i++) {
        const uint64_t dim = load_u64(entry + ENTRY_DIMS + 8 * i);
        if ((dim == 0) != (i >= t->n_dims))
            return error_set(err, AK42_STATUS_FORMAT, "%s: tensor %s: dimension %u of %u: expected %s, "
                             "found %llu", c->name, t->name, i, t->n_dims, i < t->n_dims ? "1 or more" : "0",
                             (unsigned long long)dim);
        t->dims[i] = dim;
    }
    t->group_size = t->type->id == TYPE_INT8 ? c->config.group_size : 0;
    if (t->layout != LAYOUT_ROWS && t->n_dims == 1)
        return error_set(err, AK42_STATUS_FORMAT, "%s: tensor %s: expected layout 0 of a vector, found "
                         "%u", c->name, t->name, layout);
    const uint64_t experts = t->n_dims == 3 ? t->dims[0] : 1;
    const uint64_t rows = t->n_dims > 1 ? t->dims[t->n_dims - 2] : 1;
    if (!type_bytes(&t->nbytes, t->type, t->group_size, t->layout, rows, t->dims[t->n_dims - 1]) ||
        !mul_u64(&t->nbytes, t->nbytes, experts))
        return error_set(err, AK42_STATUS_FORMAT, "%s: tensor %s: expected rows that a block of %s divides, "
                         "found %llu x %llu (group_size %u)", c->name, t->name, t->type->name,
                         (unsigned long long)rows, (unsigned long long)t->dims[t->n_dims - 1], t->group_size);
    return AK42_STATUS_OK;
}

static ak42_status read_extent(tensor *t, const container *c, const ak42_header *header, const uint8_t *entry,
                               ak42_error *err) {
    const uint64_t nbytes = load_u64(entry + ENTRY_NBYTES), end = header->data_offset + header->data_bytes;
    t->offset = load_u64(entry + ENTRY_OFFSET);
    if (nbytes != t->nbytes)
        return error_set(err, AK42_STATUS_FORMAT, "%s: tensor %s: expected %llu bytes for its type and "
                         "shape, found %llu", c->name, t->name, (unsigned long long)t->nbytes,
                         (unsigned long long)nbytes);
    if (t->offset % TENSOR_ALIGNMENT)
        return error_set(err, AK42_STATUS_FORMAT, "%s: tensor %s: expected an offset that 64 divides, found "
                         "%llu", c->name, t->name, (unsigned long long)t->offset);
    if (t->offset < header->data_offset || t->offset > end || nbytes > end - t->offset)
        return error_set(err, AK42_STATUS_FORMAT, "%s: tensor %s: expected inside the data, bytes %llu to "
                         "%llu, found %llu bytes at %llu", c->name, t->name,
                         (unsigned long long)header->data_offset, (unsigned long long)end,
                         (unsigned long long)nbytes, (unsigned long long)t->offset);
    t->data = c->map.data + t->offset;
    return AK42_STATUS_OK;
}

static int compare_offsets(const void *a, const void *b) {
    const uint64_t x = ((const tensor *)a)->offset, y = ((const tensor *)b)->offset;
    return (x > y) - (x < y);
}

static ak42_status check_overlap(container *c, ak42_error *err) {
    qsort(c->tensors, c->n_tensors, sizeof *c->tensors, compare_offsets);
    for (uint32_t i = 1; i < c->n_tensors; i++) {
        const tensor *before = &c->tensors[i - 1], *t = &c->tensors[i];
        if (before->offset + before->nbytes > t->offset)
            return error_set(err, AK42_STATUS_FORMAT, "%s: tensors %s and %s: expected apart, found "
                             "overlapping at byte %llu", c->name, before->name, t->name,
                             (unsigned long long)t->offset);
    }
    return AK42_STATUS_OK;
}

static ak42_status check_directory(const container *c, const ak42_header *header, ak42_error *err) {
    const uint64_t bytes = (uint64_t)header->n_tensors * ENTRY_BYTES, offset = header->directory_offset;
    if (header->n_tensors < 1 || header->n_tensors > TENSORS_MAX)
        return error_set(err, AK42_STATUS_FORMAT, "%s: field n_tensors at byte 184: expected 1 to %d, found "
                         "%u", c->name, TENSORS_MAX, header->n_tensors);
    if (header->data_offset % DATA_ALIGNMENT)
        return error_set(err, AK42_STATUS_FORMAT, "%s: field data_offset at byte 192: expected a multiple "
                         "of %d, found %llu", c->name, DATA_ALIGNMENT,
                         (unsigned long long)header->data_offset);
    if (offset < AK42_HEADER_BYTES || offset > header->data_offset || bytes > header->data_offset - offset)
        return error_set(err, AK42_STATUS_FORMAT, "%s: field directory_offset at byte 176: expected %llu "
                         "bytes between the header and the data at %llu, found them at %llu", c->name,
                         (unsigned long long)bytes, (unsigned long long)header->data_offset,
                         (unsigned long long)offset);
    const uint32_t found = crc32c(0, c->map.data + offset, (size_t)bytes);
    if (found != header->directory_crc)
        return error_set(err, AK42_STATUS_FORMAT, "%s: directory checksum: expected 0x%08x, found 0x%08x: "
                         "the file is damaged", c->name, header->directory_crc, found);
    return AK42_STATUS_OK;
}

ak42_status directory_read(container *c, const ak42_header *header, ak42_error *err) {
    ak42_status status = check_directory(c, header, err);
    if (status) return status;
    if (!(c->tensors = mem_zalloc(c->alloc, header->n_tensors, sizeof *c->tensors)))
        return error_set(err, AK42_STATUS_NOMEM, "%s: no memory for the list of %u tensors", c->name,
                         header->n_tensors);
    for (uint32_t i = 0; i < header->n_tensors; i++) {
        const uint8_t *entry = c->map.data + header->directory_offset + (uint64_t)i * ENTRY_BYTES;
        tensor *t = &c->tensors[i];
        status = read_name(t, c, entry, i, err);
        if (!status) status = read_kind(t, c, entry, err);
        if (!status) status = read_extent(t, c, header, entry, err);
        if (status) return status;
    }
    c->n_tensors = header->n_tensors;
    return check_overlap(c, err);
}
