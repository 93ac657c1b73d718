/* tokenizer.c: text to ids and ids to text with a tokenizer that is built. Everything that a call needs is
 * its own, so that any number of threads may share one tokenizer. Called by api.c, model.c and the
 * session. */
#include "tokenizer_parts.h"

/* ---- the encoder's memory ---- */

void encoder_begin(encoder *e, const ak42_tokenizer *t, uint32_t flags) {
    memset(e, 0, sizeof *e);
    e->t = t;
    e->flags = flags;
}

void encoder_end(encoder *e) {
    for (uint32_t i = 0; i <= STEPS_MAX; i++) mem_free(&e->t->alloc, e->buffers[i].data);
    for (uint32_t i = 0; i < STEPS_MAX; i++)
        if (e->scans[i].alloc) regex_scan_free(&e->scans[i]);
    mem_free(&e->t->alloc, e->points);
    mem_free(&e->t->alloc, e->symbols);
    mem_free(&e->t->alloc, e->heap);
    mem_free(&e->t->alloc, e->found);
}

bool buffer_reserve(encoder *e, buffer *b, uint64_t max) {
    if (max > TEXT_MAX) {
        e->status = AK42_STATUS_RANGE;
        return false;
    }
    if (max <= b->max && b->data) return true;
    uint64_t wanted = max + max / 2 + 256;
    uint8_t *grown = mem_resize(&e->t->alloc, b->data, wanted);
    if (!grown) {
        e->status = AK42_STATUS_NOMEM;
        return false;
    }
    b->data = grown;
    b->max = (uint32_t)wanted;
    return true;
}

void encoder_emit(encoder *e, uint32_t id) {
    if (e->status) return;
    if (e->n_ids == e->ids_max) {
        size_t wanted = e->ids_max ? e->ids_max * 2 : 256;
        int32_t *grown = mem_resize(&e->t->alloc, e->ids, (uint64_t)wanted * sizeof *grown);
        if (!grown) {
            e->status = AK42_STATUS_NOMEM;
            return;
        }
        e->ids = grown;
        e->ids_max = wanted;
    }
    e->ids[e->n_ids++] = (int32_t)id;
}

/* ---- text to ids ---- */

static void encode_all(encoder *e, const uint8_t *text, uint32_t size) {
    const ak42_tokenizer *t = e->t;
    bool whole = !(e->flags & (AK42_ENCODE_NO_BOS | AK42_ENCODE_CONTINUE));
    bool bos = e->flags & AK42_ENCODE_BOS || (whole && t->flags & FLAG_ADD_BOS);
    if (bos) encoder_emit(e, (uint32_t)t->bos_id);
    encode_added(e, &t->raw, text, size, 0, true);
    /* A text that spells its BOS out has it already. */
    if (bos && !e->status && e->n_ids > 1 && e->ids[1] == t->bos_id)
        memmove(e->ids, e->ids + 1, --e->n_ids * sizeof *e->ids);
    if (whole && t->flags & FLAG_ADD_EOS) encoder_emit(e, (uint32_t)t->eos_ids[0]);
}

ak42_status tokenizer_encode(const ak42_tokenizer *t, const char *text, size_t size, uint32_t flags,
                             int32_t *ids, size_t n_max, size_t *n_ids, ak42_error *err) {
    encoder e;
    if (size > TEXT_MAX)
        return error_set(err, AK42_STATUS_RANGE, "encode: expected up to %d bytes, found %zu", TEXT_MAX,
                         size);
    if (flags & AK42_ENCODE_BOS && t->bos_id < 0)
        return error_set(err, AK42_STATUS_ARG, "encode: the tokenizer has no BOS");
    encoder_begin(&e, t, flags);
    encode_all(&e, (const uint8_t *)text, (uint32_t)size);
    ak42_status status = e.status;
    if (status == AK42_STATUS_NOMEM)
        error_set(err, status, "encode: no memory for a text of %zu bytes", size);
    else if (status) error_set(err, status, "encode: a text of %zu bytes is too long", size);
    else {
        *n_ids = e.n_ids;
        if (e.n_ids > n_max)
            status = error_set(err, AK42_STATUS_RANGE, "encode: expected room for %zu ids, found %zu",
                               e.n_ids, n_max);
        else if (e.n_ids) memcpy(ids, e.ids, e.n_ids * sizeof *ids);
    }
    encoder_end(&e);
    mem_free(&t->alloc, e.ids);
    return status;
}

/* ---- ids to text ---- */

typedef struct decoder {
    const ak42_tokenizer *t;
    char *out;                     /* NULL: only counting */
    size_t size;
    bool strip;                    /* the text's first byte is dropped if it is a space */
} decoder;

static void put(decoder *d, const void *bytes, size_t size) {
    if (d->strip && size) {
        d->strip = false;
        if (*(const char *)bytes == ' ') {
            bytes = (const char *)bytes + 1;
            size--;
        }
    }
    if (d->out && size) memcpy(d->out + d->size, bytes, size);
    d->size += size;
}

/* first: nothing stands before the token. */
static void decode_token(decoder *d, uint32_t id, bool first) {
    const ak42_tokenizer *t = d->t;
    uint32_t size, from = 0;
    const uint8_t *bytes = token_form(t, id, &size);
    if (token_is_byte(t, id) && t->flags & FLAG_BYTE_FALLBACK && byte_token_value(bytes, size) >= 0) {
        uint8_t byte = (uint8_t)byte_token_value(bytes, size);
        put(d, &byte, 1);
        return;
    }
    for (uint32_t at = 0; t->spaces && size >= t->spaces_size && at <= size - t->spaces_size;) {
        if (memcmp(bytes + at, t->spaces, t->spaces_size)) {
            at++;
            continue;
        }
        put(d, bytes + from, at - from);
        if (!first || !(t->spaces_flags & SPACES_FIRST)) put(d, " ", 1);
        from = at += t->spaces_size;
    }
    put(d, bytes + from, size - from);
}

static size_t decode_all(const ak42_tokenizer *t, const int32_t *ids, size_t n_ids, uint32_t flags,
                         char *out) {
    bool first = !(flags & AK42_DECODE_CONTINUE);
    decoder d = {.t = t, .out = out, .strip = first && t->flags & FLAG_DUMMY_PREFIX};
    for (size_t i = 0; i < n_ids; i++) {
        if (flags & AK42_DECODE_SKIP_SPECIAL && type_is_special(token_type(t, (uint32_t)ids[i]))) continue;
        decode_token(&d, (uint32_t)ids[i], first);
        first = false;
    }
    return d.size;
}

ak42_status tokenizer_decode(const ak42_tokenizer *t, const int32_t *ids, size_t n_ids, uint32_t flags,
                             char *text, size_t size_max, size_t *size, ak42_error *err) {
    for (size_t i = 0; i < n_ids; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= t->n_tokens)
            return error_set(err, AK42_STATUS_ARG, "decode: id %zu: expected 0 to %u, found %d", i,
                             t->n_tokens - 1, ids[i]);
    *size = decode_all(t, ids, n_ids, flags, NULL);
    if (*size > size_max)
        return error_set(err, AK42_STATUS_RANGE, "decode: expected room for %zu bytes, found %zu", *size,
                         size_max);
    decode_all(t, ids, n_ids, flags, text);
    return AK42_STATUS_OK;
}

/* ---- the rest ---- */

uint32_t tokenizer_vocab_size(const ak42_tokenizer *t) { return t->n_tokens; }

int32_t tokenizer_eos(const ak42_tokenizer *t, int32_t *ids) {
    memcpy(ids, t->eos_ids, (size_t)t->n_eos * sizeof *ids);
    return t->n_eos;
}

int32_t tokenizer_bos(const ak42_tokenizer *t) { return t->bos_id; }

bool tokenizer_adds_bos(const ak42_tokenizer *t) { return t->flags & FLAG_ADD_BOS; }

void tokenizer_free(ak42_tokenizer *t) {
    if (!t) return;
    allocator alloc = t->alloc;
    for (uint32_t i = 0; t->steps && i < t->n_steps; i++) regex_free(&t->steps[i].re, &alloc);
    mem_free(&alloc, t->steps);
    mem_free(&alloc, t->step_bytes);
    mem_free(&alloc, t->forms);
    mem_free(&alloc, t->form_bytes.data);
    finder_free(&t->raw, &alloc);
    finder_free(&t->normalised, &alloc);
    mem_free(&alloc, t->map);
    mem_free(&alloc, t->bytes);
    mem_free(&alloc, t->begins);
    mem_free(&alloc, t->scores);
    mem_free(&alloc, t->attrs);
    mem_free(&alloc, t->priorities);
    mem_free(&alloc, t->index);
    mem_free(&alloc, t->merges);
    mem_free(&alloc, t);
}
