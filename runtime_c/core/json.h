/* json.h: one question to a JSON text that travels in a model file: which string stands under a key of the
 * outermost object. */
#ifndef AK42_JSON_H
#define AK42_JSON_H

#include "base.h"

typedef enum json_found { JSON_ABSENT, JSON_FOUND, JSON_BROKEN } json_found;

/* *value and *value_size are the string's bytes inside the text, escapes not resolved. BROKEN: no object,
 * unbalanced, or the key stands there twice or with something other than a string. */
json_found json_find_string(const char **value, size_t *value_size, const char *text, size_t size,
                            const char *key);

#endif
