/* chat.c: reads a CHAT section and lays out a conversation's turns, as docs/format.md says. Called by run.c. */
#include "chat.h"

#include <string.h>

enum { CHAT_VERSION = 1 };
/* Every sum of flags that says something, but for CHAT_PROMPTED. */
static const uint32_t known_flags[] = {0, 1, 2, 3, 5, 7, 8, 9, 19};

static uint32_t read_u32(const unsigned char *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

bool chat_parse(chat *c, const unsigned char *data, size_t size) {
    size_t at = 12;
    bool known = false;
    if (size < 12 || read_u32(data) != CHAT_VERSION || read_u32(data + 8) != CHAT_STRINGS) return false;
    c->flags = read_u32(data + 4);
    for (size_t i = 0; i < sizeof known_flags / sizeof *known_flags; i++) known |= (c->flags & ~(uint32_t)CHAT_PROMPTED) == known_flags[i];
    if (!known) return false;
    for (int i = 0; i < CHAT_STRINGS; i++) {
        if (size - at < 4) return false;
        const uint32_t length = read_u32(data + at);
        at += 4;
        if (size - at < length) return false;
        c->strings[i] = (text){(const char *)data + at, length};
        at += length;
    }
    return true;
}

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
