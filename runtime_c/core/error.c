/* error.c: one line of printable ASCII in the caller's ak42_error. Called by every fallible function;
 * keeps nothing. */
#include "error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void error_clear(ak42_error *err) {
    if (!err) return;
    err->code = AK42_STATUS_OK;
    err->text[0] = 0;
}

/* Copies from to text as printable ASCII; what does not fit is cut between characters and marked. */
static void copy_escaped(char *text, size_t text_size, const char *from) {
    static const char hex[] = "0123456789abcdef";
    size_t n = 0, n_marked = 0;          /* n_marked: the longest prefix that leaves room for the mark */
    for (; *from; from++) {
        const unsigned char byte = (unsigned char)*from;
        const int printable = byte >= 0x20 && byte < 0x7f;
        const size_t width = printable ? 1 : 4;
        if (n + width >= text_size) {
            memcpy(text + n_marked, "...", 4);
            return;
        }
        if (printable) {
            text[n] = *from;
        } else {
            text[n] = '\\';
            text[n + 1] = 'x';
            text[n + 2] = hex[byte >> 4];
            text[n + 3] = hex[byte & 15];
        }
        n += width;
        if (n + 4 <= text_size) n_marked = n;
    }
    text[n] = 0;
}

ak42_status error_set(ak42_error *err, ak42_status code, const char *format, ...) {
    if (!err) return code;
    char raw[1024];
    va_list args;
    va_start(args, format);
    if (vsnprintf(raw, sizeof raw, format, args) < 0) raw[0] = 0;
    va_end(args);
    err->code = code;
    copy_escaped(err->text, sizeof err->text, raw);
    return code;
}
