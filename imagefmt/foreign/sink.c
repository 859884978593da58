/*
 * Sinks.  A file is written at offsets only, so that writing in order and at random go together;
 * `position` is where the next bytes in order belong.
 */
#include "imagefmt/foreign/sink.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file.h"

static int cannot_write(const struct sink *sink, int error, struct ferry_error *err)
{
    return ferry_fail_sys(err, error, sink->about, "cannot write");
}

static int write_fd(struct sink *sink, const void *data, size_t size, struct ferry_error *err)
{
    int fd = ((struct fd_sink *)sink)->fd;
    int error =
        sink->pwrite ? pwrite_all(fd, data, size, sink->position) : write_all(fd, data, size);

    if (error)
        return cannot_write(sink, error, err);
    sink->position += size;
    return 0;
}

static int pwrite_fd(struct sink *sink, uint64_t offset, const void *data, size_t size,
                     struct ferry_error *err)
{
    int error = pwrite_all(((struct fd_sink *)sink)->fd, data, size, offset);

    return error ? cannot_write(sink, error, err) : 0;
}

static int extend_fd(struct sink *sink, uint64_t size, struct ferry_error *err)
{
    int fd = ((struct fd_sink *)sink)->fd;
    struct stat st;

    if (fstat(fd, &st) || ((uint64_t)st.st_size < size && ftruncate(fd, (off_t)size)))
        return cannot_write(sink, -errno, err);
    return 0;
}

void sink_of_fd(struct fd_sink *sink, int fd, const char *about, bool in_order)
{
    struct stat st;

    *sink = (struct fd_sink){.sink = {.write = write_fd, .about = about}, .fd = fd};
    if (in_order || fstat(fd, &st) || !S_ISREG(st.st_mode))
        return;
    sink->sink.pwrite = pwrite_fd;
    sink->sink.extend = extend_fd;
}

int sink_zeroes(struct sink *sink, uint64_t size, struct ferry_error *err)
{
    static const uint8_t zeroes[64 * KIB];
    int error = 0;

    if (sink->zeroes)
        return sink->zeroes(sink, size, err);
    while (!error && size) {
        size_t part = size < sizeof(zeroes) ? (size_t)size : sizeof(zeroes);
        error = sink->write(sink, zeroes, part, err);
        size -= part;
    }
    return error;
}
