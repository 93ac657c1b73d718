/* tokenizer_added.c: added and special tokens: kept as a tree of bytes, found leftmost and longest, cut out
 * of the text before the pre-tokenizer sees it. The attributes (strip, single word) mean what they mean in
 * Hugging Face's tokenizers. */
#include "tokenizer_parts.h"

ak42_status trie_insert(builder *b, trie *tree, const uint8_t *bytes, uint32_t size, uint32_t token) {
    uint32_t *link = &tree->root[bytes[0]];
    for (uint32_t i = 0; i < size; i++) {
        while (*link && tree->nodes[*link].byte != bytes[i]) link = &tree->nodes[*link].sibling;
        if (!*link) {
            if (tree->n_nodes + 1 >= tree->nodes_max) {
                bool in_nodes = link < tree->root || link >= tree->root + 256;
                size_t offset = in_nodes ? (size_t)((uint8_t *)link - (uint8_t *)tree->nodes) : 0;
                uint32_t wanted = tree->nodes_max ? tree->nodes_max * 2 : 1024;
                trie_node *grown = mem_resize(&b->t->alloc, tree->nodes, (uint64_t)wanted * sizeof *grown);
                if (!grown) return error_set(b->err, AK42_STATUS_NOMEM, "%s: tokenizer: no memory", b->name);
                tree->nodes = grown;
                tree->nodes_max = wanted;
                if (in_nodes) link = (uint32_t *)(void *)((uint8_t *)grown + offset);
            }
            *link = ++tree->n_nodes;
            tree->nodes[*link] = (trie_node){.token = NO_TOKEN, .byte = bytes[i]};
        }
        if (i + 1 == size) {
            if (tree->nodes[*link].token == NO_TOKEN) {
                tree->nodes[*link].token = token;
                tree->n_tokens++;
            }
        } else link = &tree->nodes[*link].child;
    }
    return AK42_STATUS_OK;
}

/* The longest token that begins at text < end; *size is its length. */
static uint32_t longest(const trie *tree, const uint8_t *text, const uint8_t *end, uint32_t *size) {
    uint32_t found = NO_TOKEN, node = tree->root[*text];
    for (const uint8_t *p = text; node;) {
        if (tree->nodes[node].token != NO_TOKEN) {
            found = tree->nodes[node].token;
            *size = (uint32_t)(p + 1 - text);
        }
        if (++p == end) break;
        for (node = tree->nodes[node].child; node && tree->nodes[node].byte != *p;)
            node = tree->nodes[node].sibling;
    }
    return found;
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

void encode_added(encoder *e, const trie *tree, const uint8_t *text, uint32_t size, uint32_t next,
                  bool first) {
    const uint8_t *end = text + size, *from = text, *p = text;
    while (tree->n_tokens && p < end && !e->status) {
        uint32_t match = 0, id = tree->root[*p] ? longest(tree, p, end, &match) : NO_TOKEN;
        if (id == NO_TOKEN) {
            p++;
            continue;
        }
        const uint8_t *begin = p, *stop = p + match;
        uint32_t attr = e->t->attrs[id];
        p = stop;                  /* where the search goes on, also behind a match that does not count */
        if (type_is_special(attr & TYPE_MASK) && !(e->flags & AK42_ENCODE_SPECIAL)) continue;
        if (attr & ATTR_SINGLE_WORD && (word_before(e, text, begin, end) || word_after(e, stop, end)))
            continue;
        if (attr & ATTR_LSTRIP) begin = skip_space_back(from < begin ? from : begin, begin, end);
        if (attr & ATTR_RSTRIP) stop = skip_space(stop, end);
        if (from < begin) encode_steps(e, next, from, (uint32_t)(begin - from), first && from == text);
        encoder_emit(e, id);
        from = stop;
    }
    if (from < end && !e->status) encode_steps(e, next, from, (uint32_t)(end - from), first && from == text);
}
