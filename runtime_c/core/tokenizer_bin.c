/* tokenizer_bin.c: llama2.c's tokenizer.bin to a tokenizer that encodes as llama2.c does: a space in front,
 * merges by score, bytes as ids 3 to 258. The file states neither the count nor the special ids: they are
 * llama2.c's (unk 0, bos 1, eos 2). */
#include "tokenizer_parts.h"

enum { HEADER_BYTES = 4, ENTRY_BYTES_MIN = 8, ID_UNK = 0, ID_BOS = 1, ID_EOS = 2, ID_BYTES = 3,
       N_TOKENS_MIN = ID_BYTES + 256 };

/* The file writes its control tokens with a line feed on both sides; their text is what stands between. */
static const uint8_t *trim_control(const uint8_t *bytes, uint32_t *size) {
    if (*size < 3 || bytes[0] != '\n' || bytes[*size - 1] != '\n') return bytes;
    *size -= 2;
    return bytes + 1;
}

static ak42_status add_piece(builder *b, uint32_t id, const uint8_t *bytes, uint32_t size, float score) {
    uint32_t type = TYPE_NORMAL;
    if (id == ID_UNK) type = TYPE_UNKNOWN;
    else if (id == ID_BOS || id == ID_EOS) {
        type = TYPE_CONTROL;
        bytes = trim_control(bytes, &size);
    } else if (id < N_TOKENS_MIN) {
        type = TYPE_BYTE;
        if (byte_token_value(bytes, size) != (int)id - ID_BYTES)
            return error_set(b->err, AK42_STATUS_FORMAT,
                             "%s: piece %u: expected <0x%02X>; this is no llama2.c vocabulary", b->name, id,
                             id - ID_BYTES);
    }
    return build_token(b, bytes, size, score, type);
}

/* Counts the pieces and checks that the last one ends where the file does. */
static ak42_status measure(const builder *b, const uint8_t *data, uint64_t size, uint32_t *n_tokens,
                           uint64_t *bytes) {
    *n_tokens = 0;
    *bytes = 0;
    uint64_t at = HEADER_BYTES;
    for (; at < size; (*n_tokens)++) {
        uint64_t left = size - at;
        uint32_t length = left >= ENTRY_BYTES_MIN ? load_u32(data + at + 4) : 0;
        if (left < ENTRY_BYTES_MIN || length > left - ENTRY_BYTES_MIN)
            return error_set(b->err, AK42_STATUS_FORMAT,
                             "%s: piece %u at byte %llu goes beyond the file of %llu bytes", b->name,
                             *n_tokens, (unsigned long long)at, (unsigned long long)size);
        *bytes += length;
        at += (uint64_t)ENTRY_BYTES_MIN + length;
    }
    if (at != size || *n_tokens < N_TOKENS_MIN)
        return error_set(b->err, AK42_STATUS_FORMAT, "%s: expected at least %d pieces, found %u", b->name,
                         N_TOKENS_MIN, *n_tokens);
    return AK42_STATUS_OK;
}

static ak42_status read_file(builder *b, const uint8_t *data, uint64_t size, const allocator *alloc) {
    const int32_t eos_id = ID_EOS;
    uint32_t n_tokens;
    uint64_t bytes;
    ak42_status status = measure(b, data, size, &n_tokens, &bytes);
    uint32_t flags = FLAG_ADD_BOS | FLAG_DUMMY_PREFIX | FLAG_BYTE_FALLBACK | FLAG_ANY_PIECE;
    if (!status) status = build_begin(b, alloc, KIND_SPM, flags);
    if (!status) status = build_tokens(b, n_tokens, bytes);
    uint64_t at = HEADER_BYTES;
    for (uint32_t id = 0; id < n_tokens && !status; id++) {
        uint32_t length = load_u32(data + at + 4);
        status = add_piece(b, id, data + at + ENTRY_BYTES_MIN, length, load_f32(data + at));
        at += (uint64_t)ENTRY_BYTES_MIN + length;
    }
    if (!status) status = build_ids(b, ID_BOS, ID_UNK, -1, &eos_id, 1);
    if (!status) status = build_index(b, 0);
    if (!status) status = build_steps(b, 2, 1);
    if (!status) status = build_step(b, STEP_PREPEND, 0, (const uint8_t *)" ", 1);
    if (!status) status = build_step(b, STEP_ADDED, 0, NULL, 0);
    return status;
}

ak42_status tokenizer_from_bin(ak42_tokenizer **tokenizer, const uint8_t *data, uint64_t size,
                               const char *name, const allocator *alloc, ak42_error *err) {
    builder b = {.name = name, .err = err};
    ak42_status status = read_file(&b, data, size, alloc);
    if (!status) status = build_end(&b, tokenizer);
    if (status) tokenizer_free(b.t);
    return status;
}
