/* ak42_trailer.c: the list of tagged sections at the end of an ak42 file. It checks their extents and the
 * checksum over all of them and looks into none. Called by ak42.c. */
#include "ak42_file.h"
#include "error.h"

static const char tags[SECTION_COUNT][4] = {
    [SECTION_TOKN] = {'T', 'O', 'K', 'N'}, [SECTION_CONF] = {'C', 'O', 'N', 'F'},
    [SECTION_GENC] = {'G', 'E', 'N', 'C'}, [SECTION_TMPL] = {'T', 'M', 'P', 'L'},
    [SECTION_CHAT] = {'C', 'H', 'A', 'T'}, [SECTION_LAYR] = {'L', 'A', 'Y', 'R'},
    [SECTION_MANI] = {'M', 'A', 'N', 'I'},
};

enum { SECTION_HEADER = 16 };      /* char tag[4], u32 0, u64 nbytes */

/* A section of a tag that we do not know is passed over: a later version's note is no reason to refuse. */
static ak42_status keep_section(container *c, const uint8_t *tag, blob content, ak42_error *err) {
    for (int i = 0; i < SECTION_COUNT; i++) {
        if (memcmp(tag, tags[i], 4)) continue;
        if (c->sections[i].data)
            return error_set(err, AK42_STATUS_FORMAT, "%s: trailer section %.4s: expected once, found twice",
                             c->name, tags[i]);
        c->sections[i] = content;
    }
    return AK42_STATUS_OK;
}

ak42_status trailer_read(container *c, const ak42_header *header, ak42_error *err) {
    if (!header->trailer_offset) return AK42_STATUS_OK;
    /* inside the file: the caller has checked */
    const uint64_t end = header->trailer_offset + header->trailer_bytes;
    const uint32_t found = crc32c(0, c->map.data + header->trailer_offset, (size_t)header->trailer_bytes);
    if (found != header->trailer_crc)
        return error_set(err, AK42_STATUS_FORMAT, "%s: trailer checksum: expected 0x%08x, found 0x%08x: the "
                         "file is damaged", c->name, header->trailer_crc, found);
    for (uint64_t at = header->trailer_offset; at < end;) {
        const uint8_t *p = c->map.data + at;
        if (end - at < SECTION_HEADER)
            return error_set(err, AK42_STATUS_FORMAT, "%s: trailer: expected a section at byte %llu, found "
                             "%llu bytes", c->name, (unsigned long long)at, (unsigned long long)(end - at));
        const uint64_t nbytes = load_u64(p + 8), left = end - at - SECTION_HEADER;
        if (load_u32(p + 4))
            return error_set(err, AK42_STATUS_FORMAT, "%s: trailer section %.4s: expected 0 at byte %llu, "
                             "found %u", c->name, (const char *)p, (unsigned long long)(at + 4),
                             load_u32(p + 4));
        if (nbytes > left || round_up(nbytes, 8) > left)
            return error_set(err, AK42_STATUS_FORMAT, "%s: trailer section %.4s: expected at most %llu "
                             "bytes, found %llu", c->name, (const char *)p, (unsigned long long)left,
                             (unsigned long long)nbytes);
        for (uint64_t i = nbytes; i < round_up(nbytes, 8); i++)
            if (p[SECTION_HEADER + i])
                return error_set(err, AK42_STATUS_FORMAT, "%s: trailer section %.4s: expected zero padding "
                                 "at byte %llu, found %u", c->name, (const char *)p,
                                 (unsigned long long)(at + SECTION_HEADER + i), p[SECTION_HEADER + i]);
        const ak42_status status = keep_section(c, p, (blob){p + SECTION_HEADER, nbytes}, err);
        if (status) return status;
        at += SECTION_HEADER + round_up(nbytes, 8);
    }
    return AK42_STATUS_OK;
}
