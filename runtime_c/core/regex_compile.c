/* regex_compile.c: a pattern to a program, in two steps: a recursive descent parser that builds a tree of
 * nodes, and a walk over the tree that emits instructions. Whatever the subset of docs/tokenizer.md does not
 * have is refused by name. */
#include "error.h"
#include "regex.h"

typedef enum node_kind {
    NODE_EMPTY, NODE_CLASS, NODE_LOOK, NODE_LINE_END, NODE_SEQUENCE, NODE_CHOICE, NODE_REPEAT
} node_kind;

#define NONE UINT32_MAX                /* no node, class or character; an enum holds int only */
enum { CATEGORY_BITS_ALL = (1 << CATEGORY_COUNT) - 1 };

typedef struct node {
    node_kind kind;
    uint32_t a, b;                 /* children (REPEAT: a alone); the class's number (CLASS, LOOK) */
    uint32_t min, max;             /* REPEAT */
    bool possessive;               /* REPEAT */
    bool negative;                 /* LOOK */
    bool nullable;                 /* it can match the empty string */
} node;

typedef struct parser {
    regex *re;
    const unicode_map *map;
    const allocator *alloc;
    const char *name;
    ak42_error *err;
    const uint8_t *pattern, *p, *end;
    node *nodes;
    uint32_t n_nodes;
    uint32_t depth;
    bool fold;                     /* inside (?i: */
    uint32_t last_letter;          /* the literal just read under fold, 0 none: some pairs fold to one */
    uint64_t repeats;              /* the sum of all counted repeats emitted */
    ak42_status status;
} parser;

/* ---- errors: each returns NONE and keeps the first ---- */

static uint32_t refuse(parser *s, const char *what) {
    if (s->status == AK42_STATUS_OK) {
        size_t left = (size_t)(s->end - s->p), shown = left < 12 ? left : 12;
        s->status = error_set(s->err, AK42_STATUS_UNSUPPORTED,
                              "%s: regular expression: %s at byte %zu is not supported: %.*s", s->name, what,
                              (size_t)(s->p - s->pattern), (int)shown, (const char *)s->p);
    }
    return NONE;
}

static uint32_t wrong(parser *s, const char *what) {
    if (s->status == AK42_STATUS_OK) {
        s->status = error_set(s->err, AK42_STATUS_FORMAT, "%s: regular expression: %s at byte %zu of %zu",
                              s->name, what, (size_t)(s->p - s->pattern), (size_t)(s->end - s->pattern));
    }
    return NONE;
}

/* ---- growing: the arrays have REGEX_SIZE_MAX places from the start ---- */

static uint32_t add_node(parser *s, node n) {
    if (s->n_nodes == REGEX_SIZE_MAX) return refuse(s, "a pattern of this size");
    s->nodes[s->n_nodes] = n;
    return s->n_nodes++;
}

static bool add_item(parser *s, regex_item item) {
    if (s->re->n_items == REGEX_SIZE_MAX) return refuse(s, "a pattern of this size") != NONE;
    s->re->items[s->re->n_items++] = item;
    return true;
}

static bool add_range(parser *s, uint32_t low, uint32_t high) {
    return add_item(s, (regex_item){.kind = ITEM_RANGE, .low = low, .high = high});
}

/* A range and, where case does not count, what its ASCII letters fold to. */
static bool add_folded(parser *s, uint32_t low, uint32_t high) {
    if (!add_range(s, low, high)) return false;
    if (!s->fold) return true;
    if (high >= 128) return refuse(s, "a letter beyond ASCII inside (?i:") != NONE;
    for (uint32_t c = low; c <= high; c++) {
        uint32_t lower = c | 32;
        if (lower < 'a' || lower > 'z') continue;
        if (!add_range(s, c ^ 32, c ^ 32)) return false;
        if (lower == 's' && !add_range(s, 0x17F, 0x17F)) return false;       /* long s */
        if (lower == 'k' && !add_range(s, 0x212A, 0x212A)) return false;     /* Kelvin sign */
    }
    return true;
}

/* The items from first_item on become a class; its ASCII part is worked out now. */
static uint32_t add_class(parser *s, uint32_t first_item, bool negated) {
    if (s->re->n_classes == REGEX_SIZE_MAX) return refuse(s, "a pattern of this size");
    regex_class *class = &s->re->classes[s->re->n_classes];
    *class = (regex_class){.first_item = first_item, .n_items = s->re->n_items - first_item,
                           .negated = negated};
    for (uint32_t c = 0; c < 128; c++) {
        bool has = false;
        for (uint32_t i = first_item; i < s->re->n_items && !has; i++) {
            const regex_item *item = &s->re->items[i];
            switch (item->kind) {
            case ITEM_RANGE: has = c >= item->low && c <= item->high; break;
            case ITEM_CATEGORIES: has = item->categories >> unicode_category(s->map, c) & 1; break;
            case ITEM_SPACE: has = unicode_is_space(c); break;
            case ITEM_NOT_SPACE: has = !unicode_is_space(c); break;
            case ITEM_WORD: has = unicode_is_word(s->map, c); break;
            case ITEM_NOT_WORD: has = !unicode_is_word(s->map, c); break;
            }
        }
        if (has != negated) class->ascii[c >> 5] |= (uint32_t)1 << (c & 31);
    }
    return s->re->n_classes++;
}

static uint32_t class_node(parser *s, uint32_t first_item, bool negated) {
    uint32_t class = add_class(s, first_item, negated);
    if (class == NONE) return NONE;
    return add_node(s, (node){.kind = NODE_CLASS, .a = class, .b = NONE});
}

/* ---- single characters ---- */

/* Reads one character of the pattern; it must be valid UTF-8. NONE where it is not. */
static uint32_t next_char(parser *s) {
    uint32_t length, c = utf8_next(s->p, s->end, &length);
    if (c >= UNICODE_END) return wrong(s, "invalid UTF-8");
    s->p += length;
    return c;
}

static uint32_t hex_digit(uint8_t c) {
    if (c >= '0' && c <= '9') return c - '0';
    if ((c | 32) >= 'a' && (c | 32) <= 'f') return (c | 32u) - 'a' + 10;
    return 16;
}

/* \uHHHH with the backslash and the letter behind us. */
static uint32_t hex_escape(parser *s) {
    uint32_t value = 0;
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t digit = s->p < s->end ? hex_digit(*s->p) : 16;
        if (digit == 16) return wrong(s, "four hexadecimal digits expected");
        value = value << 4 | digit;
        s->p++;
    }
    if (value >= 0xD800 && value <= 0xDFFF) return wrong(s, "surrogate");
    return value;
}

/* The category bits of a \p{..} name; 0 where it is none. */
static uint32_t category_bits(const uint8_t *name, size_t size) {
    static const char names[] = "CnLuLlLtLmLoMnMcMeNdNlNoPcPdPsPePiPfPoSmScSkSoZsZlZpCcCfCoCs";
    uint32_t bits = 0;
    if (size < 1 || size > 2) return 0;
    for (uint32_t i = 0; i < CATEGORY_COUNT; i++)
        if (names[2 * i] == name[0] && (size == 1 || names[2 * i + 1] == name[1])) bits |= (uint32_t)1 << i;
    return bits;
}

/* \p{..} or \P{..}, the letter is next. */
static bool property(parser *s) {
    bool negated = *s->p == 'P';
    const uint8_t *open = s->p + 1, *name = open + 1, *close = name;
    if (s->fold) return refuse(s, "\\p inside (?i:") != NONE;
    if (open >= s->end || *open != '{') return refuse(s, "\\p without braces") != NONE;
    if (name < s->end && *name == '^') {
        negated = !negated;
        close = ++name;
    }
    while (close < s->end && *close != '}') close++;
    if (close == s->end) return wrong(s, "\\p{ without }") != NONE;
    uint32_t bits = category_bits(name, (size_t)(close - name));
    if (!bits) return refuse(s, "this property (only general categories are known)") != NONE;
    s->p = close + 1;
    if (negated) bits = ~bits & CATEGORY_BITS_ALL;
    return add_item(s, (regex_item){.kind = ITEM_CATEGORIES, .categories = bits});
}

typedef enum escape_kind { ESCAPE_BAD, ESCAPE_CHAR, ESCAPE_ITEM } escape_kind;

/* After a backslash: one character (in *c), or an item that has been added. */
static escape_kind escape(parser *s, uint32_t *c) {
    regex_item item = {.kind = ITEM_CATEGORIES};
    if (s->p == s->end) {
        wrong(s, "backslash at the end");
        return ESCAPE_BAD;
    }
    if (s->fold && (*s->p == 'w' || *s->p == 'W' || *s->p == 'S' || *s->p == 'D')) {
        refuse(s, "this class inside (?i:");             /* it has letters that fold to two */
        return ESCAPE_BAD;
    }
    switch (*s->p) {
    case 'n': *c = '\n'; break;
    case 'r': *c = '\r'; break;
    case 't': *c = '\t'; break;
    case 'f': *c = '\f'; break;
    case 'v': *c = '\v'; break;
    case 'u':
        s->p++;
        *c = hex_escape(s);
        return *c == NONE ? ESCAPE_BAD : ESCAPE_CHAR;
    case 's': item.kind = ITEM_SPACE; goto item;
    case 'S': item.kind = ITEM_NOT_SPACE; goto item;
    case 'w': item.kind = ITEM_WORD; goto item;
    case 'W': item.kind = ITEM_NOT_WORD; goto item;
    case 'd': item.categories = 1u << CATEGORY_ND; goto item;
    case 'D': item.categories = ~(1u << CATEGORY_ND) & CATEGORY_BITS_ALL; goto item;
    case 'p':
    case 'P': return property(s) ? ESCAPE_ITEM : ESCAPE_BAD;
    default:
        if (*s->p >= 128 || (*s->p >= '0' && *s->p <= '9') || ((*s->p | 32) >= 'a' && (*s->p | 32) <= 'z')) {
            refuse(s, "this escape");
            return ESCAPE_BAD;
        }
        *c = *s->p;
    }
    s->p++;
    return ESCAPE_CHAR;
item:
    s->p++;
    return add_item(s, item) ? ESCAPE_ITEM : ESCAPE_BAD;
}

/* ---- classes ---- */

/* Also behind a '-', which is then the character itself. */
static bool at_intersection(const parser *s) { return s->end - s->p > 1 && s->p[0] == '&' && s->p[1] == '&'; }

/* [...], the bracket is behind us; *class is the class's number. */
static bool bracket(parser *s, uint32_t *class) {
    uint32_t first_item = s->re->n_items;
    bool negated = s->p < s->end && *s->p == '^', empty = true;
    if (negated) s->p++;
    for (;; empty = false) {
        uint32_t low, high;
        if (s->p == s->end) return wrong(s, "[ without ]") != NONE;
        if (*s->p == ']') {
            if (empty) return refuse(s, "an empty class") != NONE;
            s->p++;
            *class = add_class(s, first_item, negated);
            return *class != NONE;
        }
        if (*s->p == '[') return refuse(s, "a class within a class") != NONE;
        if (at_intersection(s)) return refuse(s, "an intersection of classes") != NONE;
        if (*s->p == '\\') {
            s->p++;
            escape_kind kind = escape(s, &low);
            if (kind == ESCAPE_BAD) return false;
            if (kind == ESCAPE_ITEM) {
                if (s->end - s->p > 1 && *s->p == '-' && s->p[1] != ']')
                    return refuse(s, "a range from a class") != NONE;
                continue;
            }
        } else if ((low = next_char(s)) == NONE) return false;
        high = low;
        if (s->end - s->p > 1 && *s->p == '-' && s->p[1] != ']') {
            s->p++;
            if (*s->p == '[') return refuse(s, "a class within a class") != NONE;
            if (at_intersection(s)) return refuse(s, "an intersection of classes") != NONE;
            if (*s->p == '\\') {
                s->p++;
                escape_kind kind = escape(s, &high);
                if (kind == ESCAPE_BAD) return false;
                if (kind == ESCAPE_ITEM) return refuse(s, "a range to a class") != NONE;
            } else if ((high = next_char(s)) == NONE) return false;
            if (high < low) return wrong(s, "a range that runs backwards") != NONE;
        }
        if (!add_folded(s, low, high)) return false;
    }
}

/* A literal; under fold, the pairs of letters that some single character folds to are refused. */
static uint32_t literal(parser *s, uint32_t c) {
    uint32_t first_item = s->re->n_items, letter = c | 32, last = s->last_letter;
    if (s->fold) {
        if ((last == 'f' && (letter == 'f' || letter == 'i' || letter == 'l')) ||
            (last == 's' && (letter == 's' || letter == 't')))
            return refuse(s, "a pair of letters inside (?i: that a ligature folds to");
        s->last_letter = letter;
    }
    if (!add_folded(s, c, c)) return NONE;
    return class_node(s, first_item, false);
}

/* ---- groups, repeats, sequences, alternatives ---- */

static uint32_t choice(parser *s);

/* What an atom that is one class gives to a look-ahead: its class, or NONE. */
static uint32_t look(parser *s, bool negative) {
    uint32_t inner = choice(s);
    if (inner == NONE) return NONE;
    if (s->nodes[inner].kind != NODE_CLASS)
        return refuse(s, "a look-ahead of more than one class before this");
    return add_node(s, (node){.kind = NODE_LOOK, .a = s->nodes[inner].a, .b = NONE, .negative = negative,
                              .nullable = true});
}

static bool starts_with(const parser *s, const char *text) {
    size_t size = strlen(text);
    return (size_t)(s->end - s->p) >= size && !memcmp(s->p, text, size);
}

/* ( .. ), the parenthesis is behind us. */
static uint32_t group(parser *s) {
    bool fold = s->fold;
    uint32_t inner;
    if (++s->depth > REGEX_NESTING_MAX) return refuse(s, "nesting this deep");
    if (starts_with(s, "?=") || starts_with(s, "?!")) {
        bool negative = s->p[1] == '!';
        s->p += 2;
        inner = look(s, negative);
    } else {
        if (starts_with(s, "?:")) s->p += 2;
        else if (starts_with(s, "?i:")) {
            s->p += 3;
            s->fold = true;
        } else if (s->p < s->end && *s->p == '?') return refuse(s, "this kind of group");
        inner = choice(s);
    }
    if (inner == NONE) return NONE;
    if (s->p == s->end) return wrong(s, "( without )");
    s->p++;
    if (s->nodes[inner].kind == NODE_REPEAT) {       /* a group, which may be repeated in its turn */
        uint32_t empty = add_node(s, (node){.kind = NODE_EMPTY, .nullable = true});
        if (empty == NONE) return NONE;
        inner = add_node(s, (node){.kind = NODE_SEQUENCE, .a = inner, .b = empty,
                                   .nullable = s->nodes[inner].nullable});
        if (inner == NONE) return NONE;
    }
    s->fold = fold;
    s->last_letter = 0;
    s->depth--;
    return inner;
}

/* \w, \s, \p{..} .. as an atom. Outside of brackets (and only there) Oniguruma, which tokenizers uses, counts
 * the superscripts and fractions of Latin-1 among the word characters; \W is the complement. */
static uint32_t escaped_class(parser *s, uint32_t first_item) {
    regex_item *item = &s->re->items[first_item];
    bool negated = item->kind == ITEM_NOT_WORD;
    s->last_letter = 0;
    if (item->kind == ITEM_WORD || negated) {
        item->kind = ITEM_WORD;
        if (!add_range(s, 0xB2, 0xB3) || !add_range(s, 0xB9, 0xB9) || !add_range(s, 0xBC, 0xBE)) return NONE;
    }
    return class_node(s, first_item, negated);
}

static uint32_t atom(parser *s) {
    uint32_t class, c, first_item = s->re->n_items;
    uint8_t next = *s->p;
    if (next != '\\' && (next < 'A' || (next > 'Z' && next < 'a') || next > 'z')) s->last_letter = 0;
    switch (next) {
    case '(': s->p++; return group(s);
    case '[':
        s->p++;
        if (!bracket(s, &class)) return NONE;
        return add_node(s, (node){.kind = NODE_CLASS, .a = class, .b = NONE});
    case '.':
        s->p++;
        return add_range(s, '\n', '\n') ? class_node(s, first_item, true) : NONE;
    case '$':
        s->p++;
        return add_node(s, (node){.kind = NODE_LINE_END, .nullable = true});
    case '^': return refuse(s, "the beginning of a line");
    case '*':
    case '+':
    case '?': return wrong(s, "nothing to repeat");
    case '{':
        return refuse(s, "a brace that is no quantifier");
    case '\\':
        s->p++;
        switch (escape(s, &c)) {
        case ESCAPE_BAD: return NONE;
        case ESCAPE_CHAR: return literal(s, c);
        case ESCAPE_ITEM: return escaped_class(s, first_item);
        }
        return NONE;
    default:
        c = next_char(s);
        return c == NONE ? NONE : literal(s, c);
    }
}

/* {m}, {m,}, {,n} or {m,n}, the brace is next. */
static bool counts(parser *s, uint32_t *min, uint32_t *max) {
    const uint8_t *p = s->p + 1;
    uint32_t value[2] = {0, 0}, digits[2] = {0, 0}, side = 0;
    for (; p < s->end && *p != '}'; p++) {
        if (*p == ',' && !side) side = 1;
        else if (*p >= '0' && *p <= '9' && ++digits[side] < 6) value[side] = value[side] * 10 + (*p - '0');
        else return refuse(s, "a brace that is no quantifier") != NONE;
    }
    if (p == s->end || !(digits[0] || digits[1])) return refuse(s, "a brace that is no quantifier") != NONE;
    s->p = p + 1;
    *min = value[0];
    *max = !side ? value[0] : digits[1] ? value[1] : REGEX_MANY;
    if (*max < *min) return wrong(s, "a quantifier that runs backwards") != NONE;
    return true;
}

static uint32_t repeat(parser *s) {
    uint32_t inner = atom(s);
    while (inner != NONE && s->p < s->end && (*s->p == '*' || *s->p == '+' || *s->p == '?' || *s->p == '{')) {
        node n = {.kind = NODE_REPEAT, .a = inner, .b = NONE, .max = REGEX_MANY};
        bool braces = *s->p == '{';
        if (s->nodes[inner].kind == NODE_REPEAT) return refuse(s, "a quantifier of a quantifier");
        if (s->nodes[inner].kind == NODE_LOOK || s->nodes[inner].kind == NODE_LINE_END)
            return refuse(s, "a repeated assertion");
        if (braces) {
            if (!counts(s, &n.min, &n.max)) return NONE;
        } else {
            n.min = *s->p == '+';
            if (*s->p == '?') n.max = 1;
            s->p++;
        }
        if (s->p < s->end && *s->p == '?') return refuse(s, "a lazy quantifier");
        if (s->p < s->end && *s->p == '+') {
            if (braces) return refuse(s, "+ after braces");
            if (s->nodes[inner].kind != NODE_CLASS) return refuse(s, "a possessive quantifier of a group");
            n.possessive = true;
            s->p++;
        }
        if (s->nodes[inner].nullable && n.max > 1)
            return refuse(s, "repeating a group that can be empty, before this");
        n.nullable = n.min == 0 || s->nodes[inner].nullable;
        inner = add_node(s, n);
        s->last_letter = 0;
    }
    return inner;
}

static uint32_t sequence(parser *s) {
    uint32_t all = NONE;
    s->last_letter = 0;
    while (s->p < s->end && *s->p != '|' && *s->p != ')') {
        uint32_t one = repeat(s);
        if (one == NONE) return NONE;
        if (all == NONE) {
            all = one;
            continue;
        }
        bool nullable = s->nodes[all].nullable && s->nodes[one].nullable;
        all = add_node(s, (node){.kind = NODE_SEQUENCE, .a = all, .b = one, .nullable = nullable});
        if (all == NONE) return NONE;
    }
    return all != NONE ? all : add_node(s, (node){.kind = NODE_EMPTY, .nullable = true});
}

/* Alternatives hang to the right, so that the emitted splits try them from left to right. */
static uint32_t choice(parser *s) {
    uint32_t first = sequence(s), last = NONE;
    while (first != NONE && s->p < s->end && *s->p == '|') {
        s->p++;
        uint32_t one = sequence(s);
        if (one == NONE) return NONE;
        uint32_t left = last == NONE ? first : s->nodes[last].b;
        uint32_t both = add_node(s, (node){.kind = NODE_CHOICE, .a = left, .b = one});
        if (both == NONE) return NONE;
        if (last == NONE) first = both;
        else s->nodes[last].b = both;
        last = both;
        if (s->nodes[left].nullable || s->nodes[one].nullable) s->nodes[first].nullable = true;
    }
    return first;
}

/* ---- emitting ---- */

static uint32_t emit(parser *s, regex_instruction i) {
    if (s->re->n_program == REGEX_SIZE_MAX) return refuse(s, "a pattern of this size");
    if (i.op == REGEX_RUN || i.op == REGEX_SPLIT) i.row = s->re->n_rows++;
    s->re->program[s->re->n_program] = i;
    return s->re->n_program++;
}

static bool emit_node(parser *s, uint32_t index);

/* A repeated group: min copies, then a loop or optional copies. */
static bool emit_group(parser *s, const node *n) {
    regex *re = s->re;
    for (uint32_t i = 0; i < n->min; i++)
        if (!emit_node(s, n->a)) return false;
    if (n->max == REGEX_MANY) {
        uint32_t split = emit(s, (regex_instruction){.op = REGEX_SPLIT});
        if (split == NONE || !emit_node(s, n->a) ||
            emit(s, (regex_instruction){.op = REGEX_JUMP, .a = split}) == NONE)
            return false;
        re->program[split].a = split + 1;
        re->program[split].b = re->n_program;
        return true;
    }
    uint32_t first = re->n_program, optional = n->max - n->min;
    for (uint32_t i = 0; i < optional; i++) {
        uint32_t split = emit(s, (regex_instruction){.op = REGEX_SPLIT, .b = NONE});
        if (split == NONE) return false;
        re->program[split].a = split + 1;
        if (!emit_node(s, n->a)) return false;
    }
    /* Every optional copy that is left out goes to the end; splits of the copies themselves have their b
     * already. */
    for (uint32_t i = first; i < re->n_program; i++)
        if (re->program[i].op == REGEX_SPLIT && re->program[i].b == NONE) re->program[i].b = re->n_program;
    return true;
}

static bool emit_node(parser *s, uint32_t index) {
    const node *n = &s->nodes[index];
    regex *re = s->re;
    uint32_t split, jump;
    switch (n->kind) {
    case NODE_EMPTY: return true;
    case NODE_CLASS: return emit(s, (regex_instruction){.op = REGEX_CLASS, .a = n->a}) != NONE;
    case NODE_LOOK:
        return emit(s, (regex_instruction){.op = REGEX_LOOK, .a = n->a, .b = n->negative}) != NONE;
    case NODE_LINE_END: return emit(s, (regex_instruction){.op = REGEX_LINE_END}) != NONE;
    case NODE_SEQUENCE: return emit_node(s, n->a) && emit_node(s, n->b);
    case NODE_CHOICE:
        split = emit(s, (regex_instruction){.op = REGEX_SPLIT});
        if (split == NONE || !emit_node(s, n->a)) return false;
        jump = emit(s, (regex_instruction){.op = REGEX_JUMP});
        if (jump == NONE) return false;
        re->program[split].a = split + 1;
        re->program[split].b = re->n_program;
        if (!emit_node(s, n->b)) return false;
        re->program[jump].a = re->n_program;
        return true;
    case NODE_REPEAT:
        if (s->nodes[n->a].kind != NODE_CLASS) return emit_group(s, n);
        s->repeats += n->max == REGEX_MANY ? n->min : n->max;
        if (s->repeats > REGEX_SIZE_MAX) return refuse(s, "this many repeats, ending") != NONE;
        return emit(s, (regex_instruction){.op = REGEX_RUN, .a = s->nodes[n->a].a, .min = n->min,
                                           .max = n->max, .possessive = n->possessive}) != NONE;
    }
    return false;
}

/* Gives back what the arrays have too much. A failure to shrink is none. */
static void shrink(parser *s) {
    regex *re = s->re;
    void *program = mem_resize(s->alloc, re->program, re->n_program * sizeof *re->program);
    void *classes = mem_resize(s->alloc, re->classes, re->n_classes * sizeof *re->classes);
    void *items = mem_resize(s->alloc, re->items, re->n_items * sizeof *re->items);
    if (program) re->program = program;
    if (classes) re->classes = classes;
    if (items) re->items = items;
}

ak42_status regex_compile(regex *re, const uint8_t *pattern, size_t size, const unicode_map *map,
                          const allocator *alloc, const char *name, ak42_error *err) {
    memset(re, 0, sizeof *re);
    if (!size || size > REGEX_PATTERN_MAX)
        return error_set(err, AK42_STATUS_FORMAT, "%s: regular expression: expected 1 to %d bytes, found %zu",
                         name, REGEX_PATTERN_MAX, size);
    parser s = {.re = re, .map = map, .alloc = alloc, .name = name, .err = err, .pattern = pattern,
                .p = pattern, .end = pattern + size};
    s.nodes = mem_zalloc(alloc, REGEX_SIZE_MAX, sizeof *s.nodes);
    re->program = mem_zalloc(alloc, REGEX_SIZE_MAX, sizeof *re->program);
    re->classes = mem_zalloc(alloc, REGEX_SIZE_MAX, sizeof *re->classes);
    re->items = mem_zalloc(alloc, REGEX_SIZE_MAX, sizeof *re->items);
    if (!s.nodes || !re->program || !re->classes || !re->items) {
        s.status = error_set(err, AK42_STATUS_NOMEM, "%s: no memory for a regular expression", name);
        goto out;
    }
    uint32_t root = choice(&s);
    if (root == NONE) goto out;
    if (s.p < s.end) wrong(&s, ") without (");
    else if (s.nodes[root].nullable) refuse(&s, "a pattern that matches the empty text, ending");
    else if (emit_node(&s, root) && emit(&s, (regex_instruction){.op = REGEX_MATCH}) != NONE) shrink(&s);
out:
    mem_free(alloc, s.nodes);
    return s.status;
}

void regex_free(regex *re, const allocator *alloc) {
    mem_free(alloc, re->program);
    mem_free(alloc, re->classes);
    mem_free(alloc, re->items);
    memset(re, 0, sizeof *re);
}
