/*
 * raw+zstd: the content of a disk as frames of zstd (RFC 8878), one behind the other, which is what
 * any zstd tool makes a raw disk of again.  Data is in frames of 1 MiB, made on all cores; zeroes
 * are in frames of nothing but RLE blocks, 4 bytes for 128 KiB, that are neither compressed nor,
 * on the way back, decompressed.  The layers of OCI artifacts are such.
 */
#ifndef FERRY_IMAGEFMT_FOREIGN_RAW_ZSTD_H
#define FERRY_IMAGEFMT_FOREIGN_RAW_ZSTD_H

#include "imagefmt/foreign/disk.h"

#define RAW_ZSTD_UNIT_BYTES (1 * MIB)

/* Not in disk_formats: it is found in bundles only.  Written in order, read in order (open_stream,
 * which must be told the size; drain: the content ends where the disk does). */
extern const struct disk_format disk_format_raw_zstd;

/*
 * Of a writer: from here on into another sink.  What was put before goes to the old one, zeroes up
 * to `offset` included, which is at or behind the end of what was put.
 */
int raw_zstd_cut(struct disk_writer *writer, uint64_t offset, struct sink *sink,
                 struct ferry_error *err);

/*
 * Does a frame that is all zeroes begin at data, whole within data[0..size)?  Returns the zeroes in
 * it, and in *used the bytes of the frame; 0: no, or not to be seen at a glance.
 */
uint64_t raw_zstd_zeroes(const uint8_t *data, size_t size, size_t *used);

/* How much content there is: the stream is read to its end.  FERRY_REFUSED beyond
 * LIMIT_DISK_BYTES. */
int raw_zstd_measure(struct stream *stream, uint64_t *size, struct ferry_error *err);

#endif
