/* tokenizer_tokn.c: the TOKN section of ak42 files (docs/tokenizer.md) to a tokenizer. Every count is proven
 * against the bytes that are left before anything is allocated for it. */
#include "tokenizer_parts.h"

enum { HEADER_BYTES = 40, TOKEN_BYTES_MIN = 12, MERGE_BYTES = 8, STEP_BYTES_MIN = 12 };

typedef struct reader {
    const uint8_t *data;
    uint64_t size, at;
    const char *name;
    ak42_error *err;
} reader;

static ak42_status truncated(const reader *r, const char *what, uint64_t index) {
    return error_set(r->err, AK42_STATUS_FORMAT,
                     "%s: TOKN: %s %llu at byte %llu goes beyond the section of %llu bytes", r->name, what,
                     (unsigned long long)index, (unsigned long long)r->at, (unsigned long long)r->size);
}

static bool fits(const reader *r, uint64_t count, uint64_t each) { return count <= (r->size - r->at) / each; }

/* The length-prefixed entries (fixed bytes, the last four of them a length, then so many bytes) from here on:
 * checks them all and adds up the lengths. */
static ak42_status measure(reader *r, uint32_t count, uint32_t fixed, const char *what, uint64_t *bytes) {
    uint64_t start = r->at;
    *bytes = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (!fits(r, 1, fixed)) return truncated(r, what, i);
        uint32_t length = load_u32(r->data + r->at + fixed - 4);
        if (length > r->size - r->at - fixed) return truncated(r, what, i);
        r->at += (uint64_t)fixed + length;
        *bytes += length;
    }
    r->at = start;
    return AK42_STATUS_OK;
}

static ak42_status read_tokens(reader *r, builder *b, uint32_t n_tokens) {
    uint64_t bytes;
    ak42_status status = measure(r, n_tokens, TOKEN_BYTES_MIN, "token", &bytes);
    if (!status) status = build_tokens(b, n_tokens, bytes);
    for (uint32_t i = 0; i < n_tokens && !status; i++) {
        const uint8_t *p = r->data + r->at;
        uint32_t length = load_u32(p + 8);
        status = build_token(b, p + TOKEN_BYTES_MIN, length, load_f32(p), load_u32(p + 4));
        r->at += TOKEN_BYTES_MIN + (uint64_t)length;
    }
    return status;
}

static ak42_status read_merges(reader *r, builder *b, uint32_t n_merges) {
    if (!fits(r, n_merges, MERGE_BYTES)) return truncated(r, "merge", n_merges - 1);
    ak42_status status = build_index(b, n_merges);
    for (uint32_t i = 0; i < n_merges && !status; i++, r->at += MERGE_BYTES)
        status = build_merge(b, i, load_u32(r->data + r->at), load_u32(r->data + r->at + 4));
    return status;
}

static ak42_status read_steps(reader *r, builder *b, uint32_t n_steps) {
    uint64_t bytes;
    ak42_status status = measure(r, n_steps, STEP_BYTES_MIN, "step", &bytes);
    if (!status) status = build_steps(b, n_steps, bytes);
    for (uint32_t i = 0; i < n_steps && !status; i++) {
        const uint8_t *p = r->data + r->at;
        uint32_t length = load_u32(p + 8);
        status = build_step(b, load_u32(p), load_u32(p + 4), p + STEP_BYTES_MIN, length);
        r->at += STEP_BYTES_MIN + (uint64_t)length;
    }
    return status;
}

static ak42_status read_section(reader *r, builder *b, const allocator *alloc) {
    int32_t eos_ids[AK42_EOS_MAX];
    if (r->size < HEADER_BYTES)
        return error_set(r->err, AK42_STATUS_FORMAT, "%s: TOKN: expected at least %d bytes, found %llu",
                         r->name, HEADER_BYTES, (unsigned long long)r->size);
    const uint8_t *p = r->data;
    uint32_t n_eos = load_u32(p + 24), n_tokens = load_u32(p + 28), n_merges = load_u32(p + 32);
    uint32_t n_steps = load_u32(p + 36);
    if (load_u32(p) != 1)
        return error_set(r->err, AK42_STATUS_UNSUPPORTED, "%s: TOKN: expected version 1, found %u", r->name,
                         load_u32(p));
    r->at = HEADER_BYTES;
    if (n_eos > AK42_EOS_MAX)
        return error_set(r->err, AK42_STATUS_UNSUPPORTED, "%s: TOKN: expected up to %d eos ids, found %u",
                         r->name, AK42_EOS_MAX, n_eos);
    if (!fits(r, n_eos, 4)) return truncated(r, "eos id", n_eos);
    for (uint32_t i = 0; i < n_eos; i++, r->at += 4) eos_ids[i] = load_i32(p + r->at);
    if (!fits(r, n_tokens, TOKEN_BYTES_MIN)) return truncated(r, "token", n_tokens);
    ak42_status status = build_begin(b, alloc, load_u32(p + 4), load_u32(p + 8));
    if (!status) status = read_tokens(r, b, n_tokens);
    if (!status) status = build_ids(b, load_i32(p + 12), load_i32(p + 16), load_i32(p + 20), eos_ids, n_eos);
    if (!status) status = read_merges(r, b, n_merges);
    if (!status) status = read_steps(r, b, n_steps);
    if (!status && r->at != r->size)
        status = error_set(r->err, AK42_STATUS_FORMAT, "%s: TOKN: expected %llu bytes, found %llu", r->name,
                           (unsigned long long)r->at, (unsigned long long)r->size);
    return status;
}

ak42_status tokenizer_from_tokn(ak42_tokenizer **tokenizer, const uint8_t *data, uint64_t size,
                                const char *name, const allocator *alloc, ak42_error *err) {
    reader r = {.data = data, .size = size, .name = name, .err = err};
    builder b = {.name = name, .err = err};
    ak42_status status = read_section(&r, &b, alloc);
    if (!status) status = build_end(&b, tokenizer);
    if (status) tokenizer_free(b.t);
    return status;
}
