/* chat.c: reads a CHAT section and lays out a conversation's turns, as docs/format.md says. Called by run.c. */
#include "chat.h"

#include <string.h>

enum { CHAT_VERSION = 1, CHAT_FLAGS_END = 512, CHAT_MANNERS = 31 };
/* Every sum of the flags that say where a system message stands and what is stripped. */
static const uint32_t known_manners[] = {0, 1, 2, 3, 5, 7, 8, 9, 19};

/* What stands before and behind a date's form: U+10FFFE. */
static const char date_mark[] = "\xf4\x8f\xbf\xbe";
enum { DATE_MARK_BYTES = 4, DATE_ITEMS = 64 };

static uint32_t read_u32(const unsigned char *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static bool flags_known(uint32_t flags) {
    bool known = false;
    for (size_t i = 0; i < sizeof known_manners / sizeof *known_manners; i++) known |= (flags & CHAT_MANNERS) == known_manners[i];
    return known && flags < CHAT_FLAGS_END && (flags & (CHAT_THOUGHTS | CHAT_LINES)) != CHAT_LINES;
}

/* ---- dates ---- */

/* The place of the first mark; t.size: there is none. */
static size_t find_mark(text t) {
    for (size_t i = 0; i + DATE_MARK_BYTES <= t.size; i++)
        if (!memcmp(t.data + i, date_mark, DATE_MARK_BYTES)) return i;
    return t.size;
}

static text behind(text t, size_t n) { return (text){t.data + n, t.size - n}; }

/* Takes a text's next date: what stands before it, and its form. False: there is none, and before is all of the text. */
static bool next_date(text *rest, text *before, text *form) {
    const size_t at = find_mark(*rest);
    *before = (text){rest->data, at};
    if (at == rest->size) return false;
    *rest = behind(*rest, at + DATE_MARK_BYTES);
    *form = (text){rest->data, find_mark(*rest)};
    *rest = behind(*rest, form->size < rest->size ? form->size + DATE_MARK_BYTES : rest->size);
    return true;
}

/* Of letters, and of conversions that C and Python have alike, none longer than 9 letters. */
static bool form_known(text form) {
    size_t items = 0;
    for (size_t i = 0; i < form.size; i++, items++) {
        if (form.data[i] < ' ' || form.data[i] > '~') return false;
        if (form.data[i] == '%' && (++i == form.size || !memchr("aAbBdeHIjmMpSyY%", form.data[i], 16))) return false;
    }
    return items && items <= DATE_ITEMS;
}

static bool dates_known(text t) {
    text before, form;
    while (next_date(&t, &before, &form))
        if (!form_known(form) || t.data < form.data + form.size + DATE_MARK_BYTES) return false;
    return true;
}

void chat_write_dates(chat *c, char *buffer, const struct tm *day) {
    for (int i = 0; i < CHAT_STRINGS; i++) {
        text rest = c->strings[i], before, form;
        char *const begin = buffer;
        for (bool more = true; more;) {
            more = next_date(&rest, &before, &form);
            memcpy(buffer, before.data, before.size);
            buffer += before.size;
            if (!more) break;
            char spelled[2 * DATE_ITEMS + 1], written[9 * DATE_ITEMS + 1];
            memcpy(spelled, form.data, form.size);
            spelled[form.size] = 0;
            const size_t n = strftime(written, sizeof written, spelled, day);
            memcpy(buffer, written, n);
            buffer += n;
        }
        c->strings[i] = (text){begin, (size_t)(buffer - begin)};
    }
}

/* ---- the section ---- */

bool chat_parse(chat *c, const unsigned char *data, size_t size) {
    size_t at = 12;
    if (size < 12 || read_u32(data) != CHAT_VERSION || read_u32(data + 8) != CHAT_STRINGS) return false;
    c->flags = read_u32(data + 4);
    if (!flags_known(c->flags)) return false;
    for (int i = 0; i < CHAT_STRINGS; i++) {
        if (size - at < 4) return false;
        const uint32_t length = read_u32(data + at);
        at += 4;
        if (size - at < length) return false;
        c->strings[i] = (text){(const char *)data + at, length};
        if (c->flags & CHAT_DATED && !dates_known(c->strings[i])) return false;
        at += length;
    }
    return true;
}

/* ---- white space ---- */

/* Bytes of the white space that a text begins with (or, from_end, ends with); 0: none. What Python's str.strip takes away. */
static size_t white_space(text t, bool from_end) {
    static const char *const wide[] = {
        "\xc2\x85", "\xc2\xa0", "\xe1\x9a\x80", "\xe2\x80\x80", "\xe2\x80\x81", "\xe2\x80\x82", "\xe2\x80\x83", "\xe2\x80\x84",
        "\xe2\x80\x85", "\xe2\x80\x86", "\xe2\x80\x87", "\xe2\x80\x88", "\xe2\x80\x89", "\xe2\x80\x8a", "\xe2\x80\xa8", "\xe2\x80\xa9",
        "\xe2\x80\xaf", "\xe2\x81\x9f", "\xe3\x80\x80"};
    if (!t.size) return 0;
    const unsigned char only = (unsigned char)t.data[from_end ? t.size - 1 : 0];
    if (only == ' ' || (only >= '\t' && only <= '\r') || (only >= 0x1c && only <= 0x1f)) return 1;
    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++) {
        const size_t n = strlen(wide[i]);
        if (t.size >= n && !memcmp(t.data + (from_end ? t.size - n : 0), wide[i], n)) return n;
    }
    return 0;
}

static text stripped_left(text t) {
    for (size_t n; (n = white_space(t, false)) > 0;) t.data += n, t.size -= n;
    return t;
}

static text stripped_right(text t) {
    for (size_t n; (n = white_space(t, true)) > 0;) t.size -= n;
    return t;
}

static text stripped(text t) { return stripped_right(stripped_left(t)); }

/* ---- turns ---- */

static void add_part(turn *t, text what, bool is_content) { t->parts[t->n++] = (part){what, is_content}; }

void chat_add_template(turn *t, const chat *c, int string) { add_part(t, c->strings[string], false); }

/* The system message, or what stands in for it. */
static void add_system(turn *t, const chat *c, const char *system_prompt) {
    if (!system_prompt) {
        chat_add_template(t, c, CHAT_DEFAULT_SYSTEM);
        return;
    }
    const text content = {system_prompt, strlen(system_prompt)};
    const bool as_is = !(c->flags & CHAT_STRIPPED) || c->flags & (CHAT_SYSTEM_AS_IS | CHAT_WHOLE);
    chat_add_template(t, c, CHAT_SYSTEM_PREFIX);
    add_part(t, as_is ? content : stripped(content), true);
    chat_add_template(t, c, CHAT_SYSTEM_SUFFIX);
}

/* Takes the outer white space from the parts from the first one on, which are one content. */
static void strip_parts(turn *t, size_t first) {
    for (size_t i = first; i < t->n; i++) {
        t->parts[i].what = stripped_left(t->parts[i].what);
        if (t->parts[i].what.size) break;
    }
    for (size_t i = t->n; i-- > first;) {
        t->parts[i].what = stripped_right(t->parts[i].what);
        if (t->parts[i].what.size) break;
    }
}

void chat_add_question(turn *t, const chat *c, text question, bool first, const char *system_prompt) {
    const bool merged = c->flags & CHAT_MERGED, whole = c->flags & CHAT_WHOLE;
    if (first) chat_add_template(t, c, CHAT_BEGIN);
    if (first && !merged) add_system(t, c, system_prompt);
    chat_add_template(t, c, CHAT_USER_PREFIX);
    const size_t begin = t->n;
    if (first && merged) add_system(t, c, system_prompt);
    add_part(t, c->flags & CHAT_STRIPPED && !whole ? stripped(question) : question, true);
    if (whole) strip_parts(t, begin);
    chat_add_template(t, c, CHAT_USER_SUFFIX);
    chat_add_template(t, c, CHAT_GENERATION_PROMPT);
}

void chat_add_answer(turn *t, const chat *c, text answer) {
    static const char end[] = "</think>";
    const size_t n = sizeof end - 1;
    t->n--;                                /* the generation prompt */
    for (size_t at = answer.size; at-- > 0;) {
        if (answer.size - at < n || memcmp(answer.data + at, end, n)) continue;
        answer = behind(answer, at + n);
        while (c->flags & CHAT_LINES && answer.size && *answer.data == '\n') answer = behind(answer, 1);
        break;
    }
    chat_add_template(t, c, CHAT_ASSISTANT_PREFIX);
    add_part(t, c->flags & CHAT_STRIPPED ? stripped(answer) : answer, true);
}
