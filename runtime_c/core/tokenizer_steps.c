/* tokenizer_steps.c: the steps before the merges, one after another as the file lists them: the normaliser,
 * the cut at added tokens, the pre-tokenizer. A step hands every piece that it makes to the next step at
 * once, so that no list of pieces is kept; what a step rewrites stands in a buffer of its own. */
#include "tokenizer_parts.h"

static bool append(encoder *e, buffer *b, const void *bytes, uint32_t size) {
    if (!buffer_reserve(e, b, (uint64_t)b->size + size)) return false;
    if (size) memcpy(b->data + b->size, bytes, size);
    b->size += size;
    return true;
}

static bool begins_with(const uint8_t *text, uint32_t size, const step *s) {
    return size >= s->text_size && !memcmp(text, s->text, s->text_size);
}

/* ---- where a step cuts: stretches of text that match and such that do not, from left to right ---- */

typedef struct cutter {
    encoder *e;
    const step *s;
    regex_scan *scan;
    const uint8_t *text;
    uint32_t size, at;
    uint32_t match_begin, match_end;     /* found already, beyond the stretch handed out; equal: none */
} cutter;

/* The next occurrence of bytes in text from at on; size where there is none. */
static uint32_t find_literal(const uint8_t *text, uint32_t size, uint32_t at, const uint8_t *bytes,
                             uint32_t bytes_size) {
    while (bytes_size <= size && at <= size - bytes_size) {
        const uint8_t *hit = memchr(text + at, bytes[0], size - bytes_size - at + 1);
        if (!hit) break;
        at = (uint32_t)(hit - text);
        if (!memcmp(hit, bytes, bytes_size)) return at;
        at++;
    }
    return size;
}

static bool cut_char(const cutter *c, uint32_t code_point) {
    if (c->s->op == STEP_DIGITS) return unicode_is_number(c->e->t->map, code_point);
    return unicode_is_mark(code_point);
}

/* The first match at or after c->at; both ends are c->size where there is none. */
static void find_match(cutter *c) {
    uint32_t length;
    c->match_begin = c->match_end = c->size;
    if (c->s->op == STEP_DIGITS || c->s->op == STEP_PUNCTUATION) {
        for (uint32_t at = c->at; at < c->size; at += length) {
            if (!cut_char(c, utf8_next(c->text + at, c->text + c->size, &length))) continue;
            c->match_begin = at;
            c->match_end = at + length;
            return;
        }
    } else if (c->s->re.program) {
        if (!regex_scan_next(c->scan, c->at, &c->match_begin, &c->match_end))
            c->match_begin = c->match_end = c->size;
        if (c->scan->out_of_memory) c->e->status = AK42_STATUS_NOMEM;
    } else {
        c->match_begin = find_literal(c->text, c->size, c->at, c->s->text, c->s->text_size);
        if (c->match_begin < c->size) c->match_end = c->match_begin + c->s->text_size;
    }
}

static void cutter_begin(cutter *c, encoder *e, uint32_t index, const uint8_t *text, uint32_t size) {
    *c = (cutter){.e = e, .s = &e->t->steps[index], .scan = &e->scans[index], .text = text, .size = size};
    c->scan->map = e->t->map;
    c->scan->alloc = &e->t->alloc;
    if (c->s->re.program) regex_scan_begin(c->scan, &c->s->re, text, size);
}

/* The next stretch; false at the end of the text. */
static bool cutter_next(cutter *c, uint32_t *begin, uint32_t *end, bool *is_match) {
    if (c->at == c->size || c->e->status) return false;
    if (c->match_end <= c->at) find_match(c);
    *begin = c->at;
    *is_match = c->match_begin == c->at && c->match_end > c->at;
    *end = *is_match ? c->match_end : c->match_begin;
    c->at = *end;
    return !c->e->status;
}

/* ---- what becomes of the stretches ---- */

static void split(encoder *e, uint32_t index, const uint8_t *text, uint32_t size, bool first) {
    const step *s = &e->t->steps[index];
    uint32_t behaviour = s->flags & SPLIT_BEHAVIOUR, begin, end;
    uint32_t held_begin = 0, held_end = 0;         /* a piece that may still grow; equal: none */
    bool invert = s->op == STEP_SPLIT && s->flags & SPLIT_INVERT, is_match, last = false;
    cutter c;
    if (s->op == STEP_DIGITS)
        behaviour = s->flags & DIGITS_SINGLE ? BEHAVIOUR_ISOLATED : BEHAVIOUR_CONTIGUOUS;
    cutter_begin(&c, e, index, text, size);
    while (cutter_next(&c, &begin, &end, &is_match)) {
        is_match ^= invert;
        bool joins = false;        /* the stretch belongs to the piece held */
        switch (behaviour) {
        case BEHAVIOUR_CONTIGUOUS: joins = is_match == last; break;
        case BEHAVIOUR_PREVIOUS: joins = is_match && !last; break;
        case BEHAVIOUR_NEXT: joins = !is_match && last; break;
        default: break;
        }
        last = is_match;
        if (joins && held_end > held_begin) {
            held_end = end;
            continue;
        }
        if (held_end > held_begin)
            encode_steps(e, index + 1, text + held_begin, held_end - held_begin, first && held_begin == 0);
        held_begin = begin;
        held_end = behaviour == BEHAVIOUR_REMOVED && is_match ? begin : end;
    }
    if (held_end > held_begin && !e->status)
        encode_steps(e, index + 1, text + held_begin, held_end - held_begin, first && held_begin == 0);
}

static void replace(encoder *e, uint32_t index, const uint8_t *text, uint32_t size, bool first) {
    const step *s = &e->t->steps[index];
    buffer *out = &e->buffers[index];
    uint32_t begin, end;
    bool is_match;
    cutter c;
    cutter_begin(&c, e, index, text, size);
    out->size = 0;
    while (cutter_next(&c, &begin, &end, &is_match))
        if (!append(e, out, is_match ? s->to : text + begin, is_match ? s->to_size : end - begin)) return;
    encode_steps(e, index + 1, out->data, out->size, first);
}

static void prepend(encoder *e, uint32_t index, const uint8_t *text, uint32_t size, bool first) {
    const step *s = &e->t->steps[index];
    buffer *out = &e->buffers[index];
    bool skip = (s->flags & PREPEND_FIRST && !first) || (e->flags & AK42_ENCODE_CONTINUE && first) ||
                (s->flags & PREPEND_UNLESS_THERE && begins_with(text, size, s));
    out->size = 0;
    if (!skip) {
        if (!append(e, out, s->text, s->text_size) || !append(e, out, text, size)) return;
        text = out->data;
        size = out->size;
    }
    encode_steps(e, index + 1, text, size, first);
}

static bool strips(const step *s, uint32_t c) {
    if (s->flags & STRIP_SPACES) return c == ' ';
    return s->flags & STRIP_MARKS ? c == 0x2581 : unicode_is_space(c);
}

static void strip(encoder *e, uint32_t index, const uint8_t *text, uint32_t size, bool first) {
    const step *s = &e->t->steps[index];
    const uint8_t *begin = text, *end = text + size;
    uint32_t length;
    while (s->flags & STRIP_LEFT && begin < end && strips(s, utf8_next(begin, end, &length))) begin += length;
    while (s->flags & STRIP_RIGHT && begin < end) {
        const uint8_t *before = utf8_back(begin, end);
        if (!strips(s, utf8_next(before, end, &length))) break;
        end = before;
    }
    encode_steps(e, index + 1, begin, (uint32_t)(end - begin), first && begin == text);
}

/* One stretch that begins where nothing composes backwards. */
static bool append_nfc(encoder *e, buffer *out, const uint8_t *text, uint32_t size) {
    if (size > e->points_max) {
        uint32_t *grown = mem_resize(&e->t->alloc, e->points,
                                     (uint64_t)size * 2 * UNICODE_NFC_GROWTH * sizeof *grown);
        if (!grown) {
            e->status = AK42_STATUS_NOMEM;
            return false;
        }
        e->points = grown;
        e->points_max = size;
    }
    uint32_t n = unicode_nfc(e->points, text, size);
    if (!buffer_reserve(e, out, (uint64_t)out->size + (uint64_t)n * 4)) return false;
    for (uint32_t i = 0; i < n; i++) out->size += utf8_put(out->data + out->size, e->points[i]);
    return true;
}

/* Normalisation form C. What is below U+0300 is in that form already, and no ASCII character composes with
 * what stands before it: only stretches with other characters are worth the work. */
static void normalise(encoder *e, uint32_t index, const uint8_t *text, uint32_t size, bool first) {
    buffer *out = &e->buffers[index];
    uint32_t begin = 0, at = 0;
    out->size = 0;
    while (at < size) {
        uint32_t start = at++;     /* one character of ASCII, or the text's first, and all others behind it */
        bool plain = text[start] < 0xCC;
        /* In UTF-8 what is below U+0300 has no byte from 0xCC on. */
        for (; at < size && text[at] >= 0x80; at++) plain &= text[at] < 0xCC;
        if (plain) continue;
        if (!append(e, out, text + begin, start - begin) || !append_nfc(e, out, text + start, at - start))
            return;
        begin = at;
    }
    if (!append(e, out, text + begin, size - begin)) return;
    encode_steps(e, index + 1, out->data, out->size, first);
}

/* Bytes to GPT-2's alphabet, for steps that come after ByteLevel and see its letters. */
static void map_bytes(encoder *e, uint32_t index, const uint8_t *text, uint32_t size, bool first) {
    buffer *out = &e->buffers[index];
    if (!buffer_reserve(e, out, (uint64_t)size * 2)) return;
    out->size = 0;
    for (uint32_t i = 0; i < size; i++)
        out->size += utf8_put(out->data + out->size, alphabet_from_byte(text[i]));
    encode_steps(e, index + 1, out->data, out->size, first);
}

/* The way back, before the merges. */
static void unmap_bytes(encoder *e, const uint8_t *text, uint32_t size) {
    buffer *out = &e->buffers[STEPS_MAX];
    uint32_t length;
    if (!buffer_reserve(e, out, size)) return;
    out->size = 0;
    for (uint32_t at = 0; at < size; at += length) {
        int byte = alphabet_to_byte(utf8_next(text + at, text + size, &length));
        if (byte >= 0) out->data[out->size++] = (uint8_t)byte;
    }
    encode_piece(e, out->data, out->size);
}

void encode_steps(encoder *e, uint32_t index, const uint8_t *text, uint32_t size, bool first) {
    const ak42_tokenizer *t = e->t;
    if (e->status || !size) return;
    if (index == t->n_steps) {
        if (t->maps_bytes) unmap_bytes(e, text, size);
        else encode_piece(e, text, size);
        return;
    }
    switch (t->steps[index].op) {
    case STEP_PREPEND: prepend(e, index, text, size, first); break;
    case STEP_REPLACE: replace(e, index, text, size, first); break;
    case STEP_STRIP: strip(e, index, text, size, first); break;
    case STEP_ADDED:
        if (e->capture) append(e, e->capture, text, size);
        else encode_added(e, &t->normalised, text, size, index + 1, first);
        break;
    case STEP_SPLIT:
    case STEP_DIGITS:
    case STEP_PUNCTUATION: split(e, index, text, size, first); break;
    case STEP_BYTE_LEVEL: map_bytes(e, index, text, size, first); break;
    case STEP_NFC: normalise(e, index, text, size, first); break;
    case STEP_SPACES: break;       /* kept apart: it is for decoding */
    }
}
