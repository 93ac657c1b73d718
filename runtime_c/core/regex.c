/* regex.c: runs a compiled pattern. First by plain backtracking, which real patterns hardly ever need; a text
 * that costs more than a fixed number of steps per byte goes on with a memo of the choices that have failed,
 * so that none is explored twice and the total stays linear. A failure depends on position and instruction
 * alone, so the memo holds from one match to the next. */
#include "regex.h"

enum { STEPS_PER_BYTE = 48, STEPS_MIN = 4096, STACK_MIN = 64 };

bool regex_class_has(const regex *re, const regex_class *class, const unicode_map *map, uint32_t c) {
    if (c < 128) return class->ascii[c >> 5] >> (c & 31) & 1;
    const regex_item *item = re->items + class->first_item, *end = item + class->n_items;
    for (; item < end; item++) {
        bool has = false;
        switch (item->kind) {
        case ITEM_RANGE: has = c >= item->low && c <= item->high; break;
        case ITEM_CATEGORIES: has = item->categories >> unicode_category(map, c) & 1; break;
        case ITEM_SPACE: has = unicode_is_space(c); break;
        case ITEM_NOT_SPACE: has = !unicode_is_space(c); break;
        case ITEM_WORD:
        case ITEM_NOT_WORD:        /* without the joiners that unicode_is_word counts in */
            has = (unicode_is_word(map, c) && c != 0x200C && c != 0x200D) == (item->kind == ITEM_WORD);
            break;
        }
        if (has) return !class->negated;
    }
    return class->negated;
}

/* Length of the character at position if it is of the class; 0 where it is not or the text ends. */
static inline uint32_t take(const regex_scan *scan, uint32_t class, uint32_t position) {
    if (position >= scan->size) return 0;
    const regex_class *set = scan->re->classes + class;
    uint32_t first = scan->text[position];
    if (first < 128) return set->ascii[first >> 5] >> (first & 31) & 1;
    uint32_t length, c = utf8_next(scan->text + position, scan->text + scan->size, &length);
    return regex_class_has(scan->re, set, scan->map, c) ? length : 0;
}

static bool push(regex_scan *scan, uint32_t pc, uint32_t position, uint32_t floor) {
    if (scan->n_stack == scan->stack_max) {
        uint32_t wanted = scan->stack_max ? scan->stack_max * 2 : STACK_MIN;
        regex_choice *grown = mem_resize(scan->alloc, scan->stack, (uint64_t)wanted * sizeof *grown);
        if (!grown) {
            scan->out_of_memory = true;
            return false;
        }
        scan->stack = grown;
        scan->stack_max = wanted;
    }
    scan->stack[scan->n_stack++] = (regex_choice){pc, position, floor};
    return true;
}

/* Marks the row as tried at the position; true where it was already. */
static bool tried(regex_scan *scan, uint32_t row, uint32_t position) {
    uint64_t bit = (uint64_t)position * scan->re->n_rows + row;
    uint64_t mask = (uint64_t)1 << (bit & 63), *word = scan->memo + (bit >> 6);
    if (*word & mask) return true;
    *word |= mask;
    return false;
}

/* What was tried at the end of a match did not fail, so it must be forgotten. */
static void forget(regex_scan *scan, uint32_t position) {
    uint64_t bit = (uint64_t)position * scan->re->n_rows;
    for (uint32_t row = 0; row < scan->re->n_rows; row++, bit++)
        scan->memo[bit >> 6] &= ~((uint64_t)1 << (bit & 63));
}

static bool start_memo(regex_scan *scan) {
    uint64_t words = ((uint64_t)scan->size + 1) * scan->re->n_rows / 64 + 1;
    if (words > scan->memo_words) {
        uint64_t *grown = mem_resize(scan->alloc, scan->memo, words * sizeof *grown);
        if (!grown) {
            scan->out_of_memory = true;
            return false;
        }
        scan->memo = grown;
        scan->memo_words = words;
    }
    memset(scan->memo, 0, words * sizeof *scan->memo);
    scan->memoised = true;
    return true;
}

/* A RUN at position: consumes, and leaves what else could be tried on the stack. false: it fails here. */
static bool run(regex_scan *scan, const regex_instruction *i, uint32_t pc, uint32_t *position,
                uint64_t *steps) {
    uint32_t at = *position, count = 0, length;
    bool memoised = scan->memoised;
    if (memoised && i->max != REGEX_MANY && tried(scan, i->row, at)) return false;
    for (; count < i->min; count++) {
        if (!(length = take(scan, i->a, at))) return false;
        at += length;
    }
    uint32_t floor = at, last = at;
    bool open = true;      /* the position itself is still worth trying */
    if (memoised && i->max == REGEX_MANY) {
        /* The same run from a later position is part of this one: where that has failed, only what stands
         * before is left. */
        if (tried(scan, i->row, at)) return false;
        while ((length = take(scan, i->a, at))) {
            at += length;
            if (tried(scan, i->row, at)) {
                open = false;
                break;
            }
            last = at;
            count++;
        }
        if (!open && i->possessive) return false;
    } else {
        for (; count < i->max && (length = take(scan, i->a, at)); count++) at += length;
        last = at;
    }
    *steps += count;
    *position = last;
    return i->possessive || last == floor || push(scan, pc, last, floor);
}

/* A match that begins exactly at position: its end, or false. */
static bool match_at(regex_scan *scan, uint32_t position, uint32_t *end) {
    const regex_instruction *program = scan->re->program;
    uint32_t pc = 0;
    uint64_t steps = 0;
    scan->n_stack = 0;
    for (;;) {
        const regex_instruction *i = program + pc;
        bool ok = true;
        uint32_t length;
        steps++;
        switch (i->op) {
        case REGEX_CLASS:
            length = take(scan, i->a, position);
            position += length;
            pc++;
            ok = length > 0;
            break;
        case REGEX_RUN:
            ok = run(scan, i, pc, &position, &steps);
            pc++;
            break;
        case REGEX_SPLIT:
            ok = !(scan->memoised && tried(scan, i->row, position)) && push(scan, i->b, position, position);
            pc = i->a;
            break;
        case REGEX_JUMP: pc = i->a; break;
        case REGEX_LOOK:
            ok = (take(scan, i->a, position) != 0) != (i->b != 0);
            pc++;
            break;
        case REGEX_LINE_END:
            ok = position >= scan->size || scan->text[position] == '\n';
            pc++;
            break;
        case REGEX_MATCH:
            *end = position;
            if (scan->memoised) forget(scan, position);
            scan->steps_left -= steps < scan->steps_left ? steps : scan->steps_left;
            return true;
        }
        if (ok) continue;
        if (scan->out_of_memory) return false;
        if (!scan->memoised && steps > scan->steps_left) {
            scan->steps_left = 0;
            return false;
        }
        if (!scan->n_stack) break;
        regex_choice *choice = &scan->stack[scan->n_stack - 1];
        pc = choice->pc;
        if (choice->position > choice->floor) {     /* a RUN gives back its last character */
            choice->position = (uint32_t)(utf8_back(scan->text + choice->floor,
                                                    scan->text + choice->position) - scan->text);
            position = choice->position;
            if (position == choice->floor) scan->n_stack--;
            pc++;
        } else {
            position = choice->position;
            scan->n_stack--;
        }
    }
    scan->steps_left -= steps < scan->steps_left ? steps : scan->steps_left;
    return false;
}

void regex_scan_begin(regex_scan *scan, const regex *re, const uint8_t *text, uint32_t size) {
    scan->re = re;
    scan->text = text;
    scan->size = size;
    scan->steps_left = (uint64_t)size * STEPS_PER_BYTE + STEPS_MIN;
    scan->memoised = false;
    scan->out_of_memory = false;
}

bool regex_scan_next(regex_scan *scan, uint32_t from, uint32_t *begin, uint32_t *end) {
    for (uint32_t position = from; position < scan->size;) {
        if (match_at(scan, position, end)) {
            *begin = position;
            return true;
        }
        if (scan->out_of_memory) return false;
        if (!scan->memoised && !scan->steps_left) {
            if (!start_memo(scan)) return false;
            continue;              /* the same position once more: the cheap way was broken off */
        }
        uint32_t length;
        utf8_next(scan->text + position, scan->text + scan->size, &length);
        position += length;
    }
    return false;
}

void regex_scan_free(regex_scan *scan) {
    mem_free(scan->alloc, scan->stack);
    mem_free(scan->alloc, scan->memo);
    scan->stack = NULL;
    scan->memo = NULL;
    scan->stack_max = 0;
    scan->memo_words = 0;
}
