/* json.c: a scanner that follows strings and nesting depth, no more: it neither builds a tree nor checks
 * grammar, so depth costs nothing. Called by ak42.c to read the architecture's name in CONF. */
#include "json.h"

typedef struct span {
    const char *data;
    size_t size;
} span;

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

static size_t skip_space(span text, size_t at) {
    while (at < text.size && is_space(text.data[at])) at++;
    return at;
}

/* at is behind the opening quote; returns where the closing one is, or text.size. */
static size_t string_end(span text, size_t at) {
    while (at < text.size && text.data[at] != '"') at += text.data[at] == '\\' ? 2 : 1;
    return at < text.size ? at : text.size;
}

json_found json_find_string(const char **value, size_t *value_size, const char *data, size_t size,
                            const char *key) {
    const span text = {data, size};
    const size_t key_size = strlen(key);
    json_found found = JSON_ABSENT;
    size_t depth = 0, at = skip_space(text, 0);
    if (at == size || data[at] != '{') return JSON_BROKEN;
    for (; at < size; at++) {
        const char c = data[at];
        if (c == '{' || c == '[') depth++;
        if ((c == '}' || c == ']') && --depth == 0)
            return skip_space(text, at + 1) == size ? found : JSON_BROKEN;
        if (c != '"') continue;
        const size_t begin = at + 1;
        at = string_end(text, begin);
        if (at == size) return JSON_BROKEN;
        if (depth != 1 || at - begin != key_size || memcmp(data + begin, key, key_size)) continue;
        size_t next = skip_space(text, at + 1);
        if (next == size || data[next] != ':') continue;          /* a value that reads like the key */
        next = skip_space(text, next + 1);
        if (found || next == size || data[next] != '"') return JSON_BROKEN;
        const size_t end = string_end(text, next + 1);
        if (end == size) return JSON_BROKEN;
        *value = data + next + 1;
        *value_size = end - next - 1;
        found = JSON_FOUND;
        at = end;
    }
    return JSON_BROKEN;
}
