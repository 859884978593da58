/* Sinks of bytes (disk.h): a file, or a pipe. */
#ifndef FERRY_IMAGEFMT_FOREIGN_SINK_H
#define FERRY_IMAGEFMT_FOREIGN_SINK_H

#include "imagefmt/foreign/disk.h"

struct fd_sink {
    struct sink sink;
    int fd;
};

/*
 * Into fd, which stays the caller's.  A regular file, which must be empty, gets pwrite and extend;
 * anything else is written in order.  in_order: also a file, which then gets the very bytes that a
 * pipe would.  about must outlive it.
 */
void sink_of_fd(struct fd_sink *sink, int fd, const char *about, bool in_order);
/* size zeroes in order. */
int sink_zeroes(struct sink *sink, uint64_t size, struct ferry_error *err);

#endif
