/* Foreign disks for tests: a sample of content, there and back through a format, and hostile ones.
 */
#ifndef FERRY_TESTS_SUPPORT_DISK_SAMPLE_H
#define FERRY_TESTS_SUPPORT_DISK_SAMPLE_H

#include "common/hash.h"
#include "imagefmt/foreign/disk.h"

/* A memfd of this size (at least 4 MiB) with data at its start, over the bounds of blocks, and in
 * its last sector; the rest is a hole. */
int disk_sample_raw(uint64_t size);
/* One with noise and text that shrinks, in runs that cross blocks, with holes between. */
int disk_sample_noise(uint64_t size);
/* Into a new memfd, by disk_copy; the bytes in order only, as a pipe would get them, if so said. */
int disk_sample_write(int raw, const struct disk_format *format, const char *subformat,
                      bool in_order);
/* The digest of what is in fd, which must be read without fault. */
void disk_sample_digest(int fd, const struct disk_format *format, uint64_t *size,
                        uint8_t digest[SHA256_BYTES]);
/* raw -> format -> the same content; returns the bytes that it took. */
uint64_t disk_sample_round_trip(uint64_t size, const struct disk_format *format,
                                const char *subformat, bool in_order);
/*
 * Open what may be anything, look at its extents and read here and there, both within bounds.
 * Returns what open returned, or the first error behind it, with a message in err.
 */
int disk_sample_try(struct source *source, const struct disk_format *format,
                    struct ferry_error *err);
/* The same for a file with size bytes at offset replaced; size 0: as it is. */
int disk_sample_try_forged(int fd, const struct disk_format *format, uint64_t offset,
                           const void *bytes, size_t size, struct ferry_error *err);
/* Each byte of [offset, offset + size) in turn set to some other values: nothing may break. */
void disk_sample_sweep(int fd, const struct disk_format *format, uint64_t offset, size_t size);
/*
 * A source over runs, for files with large holes: u64 size of the whole, then runs of u64 offset,
 * u32 size, bytes; all little-endian, what makes no sense is left out (tests/fuzz/runs makes them).
 */
int disk_sample_runs(const uint8_t *data, size_t size, struct source **out);

#endif
