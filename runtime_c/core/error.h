/* error.h: filling the caller's one-line error. No state, no allocation. */
#ifndef AK42_ERROR_H
#define AK42_ERROR_H

#include "../include/ak42.h"

/* Formats like printf into err (NULL is fine) and returns code, so that callers write
 *     return error_set(err, AK42_STATUS_FORMAT, "%s: ...", name);
 * Bytes outside printable ASCII are written as \xNN; a text that is too long is cut and ends in "...". */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
ak42_status error_set(ak42_error *err, ak42_status code, const char *format, ...);

/* Clears err to OK. */
void error_clear(ak42_error *err);

#endif
