/* filemap.c: a file as read-only bytes: mapped, read into private pages, or borrowed from the caller. The
 * only core file that calls the operating system's file functions; it never looks at what the bytes say.
 * Used by model.c and api.c. */
#include "filemap.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"

static ak42_status fail_system(ak42_error *err, const char *path, const char *doing) {
    const int code = errno;
    return error_set(err, code == ENOMEM ? AK42_STATUS_NOMEM : AK42_STATUS_IO, "%s: cannot %s: %s", path,
                     doing, strerror(code));
}

static ak42_status fail_changed(ak42_error *err, const char *path, uint64_t expected, uint64_t found) {
    return error_set(err, AK42_STATUS_IO, "%s: changed while it was being opened: expected %llu bytes, "
                     "found %llu; try again", path, (unsigned long long)expected, (unsigned long long)found);
}

/* Reads size bytes from the start into pages of our own. */
static ak42_status read_whole(filemap *map, int fd, const char *path, uint64_t size, ak42_error *err) {
    enum { PIECE = 1 << 30 };            /* Linux reads at most 2 GiB - 4 KiB at once */
    uint8_t *memory = page_alloc(size);
    if (!memory)
        return error_set(err, AK42_STATUS_NOMEM, "%s: no memory for a copy of its %llu bytes", path,
                         (unsigned long long)size);
    for (uint64_t done = 0; done < size;) {
        const uint64_t left = size - done;
        const ssize_t n = pread(fd, memory + done, left < PIECE ? (size_t)left : (size_t)PIECE, (off_t)done);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            const ak42_status status = n < 0 ? fail_system(err, path, "read") : fail_changed(err, path, size,
                                                                                             done);
            page_free(memory, size);
            return status;
        }
        done += (uint64_t)n;
    }
    *map = (filemap){memory, size, FILEMAP_COPIED};
    return AK42_STATUS_OK;
}

static ak42_status open_descriptor(filemap *map, int fd, const char *path, bool use_mmap, ak42_error *err) {
    struct stat info;
    if (fstat(fd, &info)) return fail_system(err, path, "read its size");
    if (!S_ISREG(info.st_mode))
        return error_set(err, AK42_STATUS_FORMAT, "%s: expected a regular file, found a %s", path,
                         S_ISDIR(info.st_mode) ? "folder" : "device or pipe");
    const uint64_t size = (uint64_t)info.st_size;
    if (size > SIZE_MAX / 2)
        return error_set(err, AK42_STATUS_NOMEM, "%s: too large for this machine's addresses", path);
    if (size == 0) {                     /* mmap refuses an empty range; the parser will complain */
        filemap_borrow(map, "", 0);
        return AK42_STATUS_OK;
    }
    ak42_status status = AK42_STATUS_OK;
    if (use_mmap) {
        void *memory = mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (memory == MAP_FAILED) return fail_system(err, path, "map");
        page_wish_huge(memory, (size_t)size);
        *map = (filemap){memory, size, FILEMAP_MAPPED};
    } else {
        status = read_whole(map, fd, path, size, err);
    }
    /* A file that somebody is still writing would be read past its end later: look again. */
    if (!status && fstat(fd, &info)) status = fail_system(err, path, "read its size");
    if (!status && (uint64_t)info.st_size != size)
        status = fail_changed(err, path, size, (uint64_t)info.st_size);
    return status;
}

ak42_status filemap_open(filemap *map, const char *path, bool use_mmap, ak42_error *err) {
    *map = (filemap){0};
    /* NONBLOCK: a pipe must not stop us here */
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return fail_system(err, path, "open");
    const ak42_status status = open_descriptor(map, fd, path, use_mmap, err);
    close(fd);                           /* a mapping lives on without it */
    if (status) filemap_close(map);
    return status;
}

void filemap_borrow(filemap *map, const void *data, uint64_t size) {
    *map = (filemap){data, size, FILEMAP_BORROWED};
}

void filemap_forget(const filemap *map, uint64_t offset, uint64_t size) {
    if (map->kind != FILEMAP_MAPPED && map->kind != FILEMAP_COPIED) return;
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    const uint64_t begin = round_up(offset, page), end = (offset + size) & ~(page - 1);
    if (begin < end) madvise((void *)(uintptr_t)(map->data + begin), (size_t)(end - begin), MADV_DONTNEED);
}

void filemap_close(filemap *map) {
    if (!map) return;
    if (map->kind == FILEMAP_MAPPED) munmap((void *)(uintptr_t)map->data, (size_t)map->size);
    if (map->kind == FILEMAP_COPIED) page_free((void *)(uintptr_t)map->data, map->size);
    *map = (filemap){0};
}
