/* filemap.h: a whole file as read-only bytes, mapped or copied. The only core file that talks to the
 * operating system's files. */
#ifndef AK42_FILEMAP_H
#define AK42_FILEMAP_H

#include "base.h"

typedef struct filemap {
    const uint8_t *data;
    uint64_t size;
    enum { FILEMAP_NONE = 0, FILEMAP_MAPPED, FILEMAP_COPIED, FILEMAP_BORROWED } kind;
} filemap;

/* use_mmap: else the bytes are read into private pages. IO where the system refuses, FORMAT where it is
 * not a regular file. */
ak42_status filemap_open(filemap *map, const char *path, bool use_mmap, ak42_error *err);
/* Bytes that somebody else owns. */
void filemap_borrow(filemap *map, const void *data, uint64_t size);
/* Gives back the memory of a range that nobody reads again: a mapping would fetch it anew, a copy would
 * then read as zeros, bytes that are borrowed stay. Only whole pages inside the range go. */
void filemap_forget(const filemap *map, uint64_t offset, uint64_t size);
void filemap_close(filemap *map);      /* NULL-safe, leaves *map empty */

#endif
