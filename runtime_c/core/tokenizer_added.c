/* tokenizer_added.c: added and special tokens, cut out of the text before the pre-tokenizer sees it: leftmost
 * and longest. An automaton reads the text once from its end to its beginning and knows at every byte the
 * longest token that begins there, in time linear in the text whatever the tokens are. The attributes
 * (strip, single word) mean what they mean in Hugging Face's tokenizers. */
#include "tokenizer_parts.h"

enum { FINDER_BYTES_MAX = 1 << 30 };         /* of all tokens together */

#define NO_MEMORY(b) error_set((b)->err, AK42_STATUS_NOMEM, "%s: tokenizer: no memory", (b)->name)

/* ---- building ---- */

/* Room for one element more; grown by half. NULL: no memory, and the old one stays valid. */
static void *grown(const allocator *alloc, void *old, uint32_t *max, uint64_t wanted, uint64_t each) {
    wanted += wanted / 2 + 64;
    void *made = wanted > UINT32_MAX ? NULL : mem_resize(alloc, old, wanted * each);
    if (made) *max = (uint32_t)wanted;
    return made;
}

ak42_status finder_add(builder *b, finder *f, const uint8_t *bytes, uint32_t size, uint32_t token) {
    const allocator *alloc = &b->t->alloc;
    uint64_t wanted = (uint64_t)f->bytes.size + size;
    if (wanted > FINDER_BYTES_MAX)
        return error_set(b->err, AK42_STATUS_UNSUPPORTED,
                         "%s: tokenizer: expected added tokens of up to %d bytes together, found more", b->name,
                         FINDER_BYTES_MAX);
    if (wanted > f->bytes.max) {
        uint8_t *made = grown(alloc, f->bytes.data, &f->bytes.max, wanted, 1);
        if (!made) return NO_MEMORY(b);
        f->bytes.data = made;
    }
    if (f->n_tokens == f->tokens_max) {
        uint32_t *made = grown(alloc, f->entries, &f->tokens_max, f->n_tokens, 2 * sizeof *made);
        if (!made) return NO_MEMORY(b);
        f->entries = made;
    }
    memcpy(f->bytes.data + f->bytes.size, bytes, size);
    f->bytes.size += size;
    f->entries[2 * f->n_tokens] = token;
    f->entries[2 * f->n_tokens + 1] = size;
    f->n_tokens++;
    return AK42_STATUS_OK;
}

/* The slot of a node's child, or the empty slot where it belongs. */
static uint32_t *edge(const finder *f, uint32_t node, uint8_t byte) {
    const uint32_t mask = (1u << f->edges_log) - 1;
    uint32_t slot = (uint32_t)(((uint64_t)node << 8 | byte) * 0x9E3779B97F4A7C15u >> (64 - f->edges_log));
    for (;; slot = (slot + 1) & mask) {
        const finder_node *child = &f->nodes[f->edges[slot]];
        if (!f->edges[slot] || (child->parent == node && child->byte == byte)) return &f->edges[slot];
    }
}

static void insert(finder *f, const uint8_t *bytes, uint32_t size, uint32_t token) {
    uint32_t node = 0;
    for (uint32_t i = size; i-- > 0;) {
        uint32_t *child = edge(f, node, bytes[i]);
        if (!*child) {
            *child = f->n_nodes;
            f->nodes[f->n_nodes++] = (finder_node){
                .parent = node, .depth = size - i, .token = NO_TOKEN, .byte = bytes[i]};
            if (!node) f->root[bytes[i]] = *child;
        }
        node = *child;
    }
    if (f->nodes[node].token != NO_TOKEN) return;
    f->nodes[node].token = token;
    f->nodes[node].token_size = size;
}

/* The node that a byte in front of a node's bytes leads to; 0 where none of what they begin with goes on. */
static uint32_t step_back(const finder *f, uint32_t node, uint8_t byte) {
    while (node) {
        uint32_t child = *edge(f, node, byte);
        if (child) return child;
        node = f->nodes[node].back;
    }
    return f->root[byte];
}

/* Nodes in the order of their depths into order (n_nodes); begins has room for the greatest depth and 2. */
static void sort_by_depth(const finder *f, uint32_t *order, uint32_t *begins) {
    uint32_t n = 0, depth_max = 0;
    for (uint32_t i = 0; i < f->n_nodes; i++) {
        begins[f->nodes[i].depth]++;
        if (f->nodes[i].depth > depth_max) depth_max = f->nodes[i].depth;
    }
    for (uint32_t depth = 0; depth <= depth_max; depth++) {
        uint32_t count = begins[depth];
        begins[depth] = n;
        n += count;
    }
    for (uint32_t i = 0; i < f->n_nodes; i++) order[begins[f->nodes[i].depth]++] = i;
}

static void link_nodes(finder *f, const uint32_t *order) {
    for (uint32_t i = 1; i < f->n_nodes; i++) {
        finder_node *node = &f->nodes[order[i]];
        node->back = node->parent ? step_back(f, f->nodes[node->parent].back, node->byte) : 0;
        if (node->token != NO_TOKEN) continue;
        node->token = f->nodes[node->back].token;
        node->token_size = f->nodes[node->back].token_size;
    }
}

ak42_status finder_build(builder *b, finder *f) {
    const allocator *alloc = &b->t->alloc;
    uint32_t n_max = f->bytes.size + 1, at = 0, *order = NULL, *begins = NULL;
    ak42_status status = AK42_STATUS_OK;
    if (!f->n_tokens) return status;
    for (f->edges_log = 4; 1u << f->edges_log < 2 * (uint64_t)n_max;) f->edges_log++;
    f->nodes = mem_zalloc(alloc, n_max, sizeof *f->nodes);
    f->edges = mem_zalloc(alloc, 1u << f->edges_log, sizeof *f->edges);
    order = mem_zalloc(alloc, n_max, sizeof *order);
    begins = mem_zalloc(alloc, (uint64_t)n_max + 1, sizeof *begins);
    if (f->nodes && f->edges && order && begins) {
        f->nodes[0].token = NO_TOKEN;
        f->n_nodes = 1;
        for (uint32_t i = 0; i < f->n_tokens; at += f->entries[2 * i + 1], i++)
            insert(f, f->bytes.data + at, f->entries[2 * i + 1], f->entries[2 * i]);
        sort_by_depth(f, order, begins);
        link_nodes(f, order);
    } else status = NO_MEMORY(b);
    mem_free(alloc, begins);
    mem_free(alloc, order);
    mem_free(alloc, f->entries);
    mem_free(alloc, f->bytes.data);
    f->entries = NULL;
    f->bytes = (buffer){0};
    return status;
}

void finder_free(finder *f, const allocator *alloc) {
    mem_free(alloc, f->bytes.data);
    mem_free(alloc, f->entries);
    mem_free(alloc, f->nodes);
    mem_free(alloc, f->edges);
}

/* ---- finding ---- */

/* Puts every place where a token begins, with the longest such token, on top of e->found. */
static void find(encoder *e, const finder *f, const uint8_t *text, uint32_t size) {
    uint32_t node = 0;
    for (uint32_t at = size; at-- > 0;) {
        if (!node && !f->root[text[at]]) continue;
        node = step_back(f, node, text[at]);
        if (f->nodes[node].token == NO_TOKEN) continue;
        if (e->n_found == e->found_max) {
            found *made = grown(&e->t->alloc, e->found, &e->found_max, e->n_found, sizeof *made);
            if (!made) {
                e->status = AK42_STATUS_NOMEM;
                return;
            }
            e->found = made;
        }
        e->found[e->n_found++] = (found){at, node};
    }
}

/* Whether a word character ends before p, or begins at p. */
static bool word_before(const encoder *e, const uint8_t *text, const uint8_t *p, const uint8_t *end) {
    uint32_t length;
    return p > text && unicode_is_word(e->t->map, utf8_next(utf8_back(text, p), end, &length));
}

static bool word_after(const encoder *e, const uint8_t *p, const uint8_t *end) {
    uint32_t length;
    return p < end && unicode_is_word(e->t->map, utf8_next(p, end, &length));
}

static const uint8_t *skip_space_back(const uint8_t *floor, const uint8_t *p, const uint8_t *end) {
    uint32_t length;
    while (p > floor) {
        const uint8_t *before = utf8_back(floor, p);
        if (!unicode_is_space(utf8_next(before, end, &length))) break;
        p = before;
    }
    return p;
}

static const uint8_t *skip_space(const uint8_t *p, const uint8_t *end) {
    uint32_t length;
    while (p < end && unicode_is_space(utf8_next(p, end, &length))) p += length;
    return p;
}

/* Hands on what stands between two tokens. */
static void between(encoder *e, uint32_t next, const uint8_t *text, const uint8_t *from, const uint8_t *to,
                    bool first) {
    if (from < to) encode_steps(e, next, from, (uint32_t)(to - from), first && from == text);
}

void encode_added(encoder *e, const finder *f, const uint8_t *text, uint32_t size, uint32_t next, bool first) {
    const uint8_t *end = text + size, *from = text, *p = text, *blank_end = text;
    uint32_t floor = e->n_found;   /* the tokens of the text that this one is a part of */
    if (f->n_tokens) find(e, f, text, size);
    while (e->n_found > floor && !e->status) {
        found hit = e->found[--e->n_found];
        const finder_node *node = &f->nodes[hit.node];
        const uint8_t *begin = text + hit.at, *stop = begin + node->token_size;
        uint32_t id = node->token, attr = e->t->attrs[id];
        if (begin < p) continue;
        p = stop;                  /* where the search goes on, also behind a match that does not count */
        if (type_is_special(attr & TYPE_MASK) && !(e->flags & AK42_ENCODE_SPECIAL)) continue;
        if (attr & ATTR_SINGLE_WORD && (word_before(e, text, begin, end) || word_after(e, stop, end)))
            continue;
        if (attr & ATTR_LSTRIP) begin = from < begin ? skip_space_back(from, begin, end) : from;
        if (attr & ATTR_RSTRIP) {
            /* Inside white space that has been walked through the end is known. */
            if (stop >= blank_end || (*stop & 0xC0) == 0x80) blank_end = skip_space(stop, end);
            stop = blank_end;
        }
        if (begin >= stop) continue;         /* the token before has taken all of its white space */
        between(e, next, text, from, begin, first);
        encoder_emit(e, id);
        from = stop;
    }
    e->n_found = floor;
    if (!e->status) between(e, next, text, from, end, first);
}
