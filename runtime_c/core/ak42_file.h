/* ak42_file.h: what the three files of the ak42 reader share: the header's fields that say where things
 * lie. Private to ak42.c, ak42_payload.c and ak42_trailer.c. */
#ifndef AK42_AK42_FILE_H
#define AK42_AK42_FILE_H

#include "container.h"

enum { AK42_HEADER_BYTES = 256, AK42_EXTENSION_AT = 64, AK42_V0_HEADER_BYTES = 28 };

typedef struct ak42_header {
    int32_t version;
    bool extended;                 /* bytes 64 to 255 are the extension */
    uint32_t incompat_flags;
    uint64_t directory_offset;
    uint32_t n_tensors, directory_crc;
    uint64_t data_offset, data_bytes;
    uint64_t trailer_offset, trailer_bytes, file_bytes;
    uint32_t trailer_crc;
} ak42_header;

/* v0 to v2: the tensors follow from the config. *end is the payload's end, checked against the file's size
 * by the caller through payload_bytes. */
ak42_status payload_bytes(uint64_t *end, const container *c, int32_t version, ak42_error *err);
ak42_status payload_read(container *c, int32_t version, ak42_error *err);

/* v3: the tensors stand in the directory. */
ak42_status directory_read(container *c, const ak42_header *header, ak42_error *err);

/* Fills c->sections from the trailer. */
ak42_status trailer_read(container *c, const ak42_header *header, ak42_error *err);

#endif
