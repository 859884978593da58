/*
 * Frames over a stream: what the two sides of a move say to each other.
 *
 *     offset size
 *     0      4    magic 0x59525246 ("FRRY")
 *     4      2    type
 *     6      2    flags, 0
 *     8      4    length of the payload, at most LIMIT_FRAME_BYTES
 *     12     4    zero
 *     16     8    sequence: 0, 1, 2, ... in each direction
 *     24     8    XXH3-64 of the payload
 *     32     8    XXH3-64 of bytes 0 to 31
 *     40          payload
 *
 * All little-endian.  The header's sum is checked before its length is believed, the payload's
 * before anybody sees it.  A frame out of sequence, too long, cut short or changed is refused and
 * the channel is then good for nothing.
 *
 * A wait is bounded by progress: LIMIT_FRAME_STEP_BYTES (or the rest of the frame) must move
 * within each timeout.  A channel belongs to one thread.
 */
#ifndef FERRY_TRANSPORT_FRAME_H
#define FERRY_TRANSPORT_FRAME_H

#include <stdatomic.h>
#include <stdint.h>
#include <sys/uio.h>

#include "common/error.h"
#include "common/hash.h"
#include "transport/stream.h"

#define FRAME_MAGIC        0x59525246u
#define FRAME_HEADER_BYTES 40u
#define FRAME_IOV_MAX      8 /* pieces of one payload */

struct frame {
    uint16_t type;
    const uint8_t *data; /* valid until the next receive */
    uint32_t size;
};

struct channel;

/* The stream stays the caller's.  timeout_ns: of silence, and of a peer that takes nothing. */
int channel_create(struct stream *stream, uint64_t timeout_ns, struct channel **out,
                   struct ferry_error *err);
void channel_destroy(struct channel *c); /* NULL is fine; what is queued is dropped */
/* Waits end with -ECANCELED once *cancelled is true.  NULL: never. */
void channel_watch(struct channel *c, const atomic_bool *cancelled);
/* At most this many bytes a second are sent; 0: no limit. */
void channel_limit(struct channel *c, uint64_t bytes_per_s);

/* Put a small frame behind those waiting; sent with the next flush or send. */
int channel_queue(struct channel *c, uint16_t type, const void *data, size_t size,
                  struct ferry_error *err);
int channel_flush(struct channel *c, struct ferry_error *err);
/* Send what is queued and then one frame of these pieces, from where they are.  They must not
 * change meanwhile (no guest memory here: copy it first). */
int channel_send(struct channel *c, uint16_t type, const struct iovec *pieces, int count,
                 struct ferry_error *err);
/*
 * The next frame.  -ENODATA: the peer closed between two frames; -ETIMEDOUT; -ECANCELED; -EBADMSG
 * (kind FERRY_REFUSED): damaged.  timeout_ns: until its first byte; 0: that of the channel.
 */
int channel_receive(struct channel *c, uint64_t timeout_ns, struct frame *frame,
                    struct ferry_error *err);
/* True if a frame (or the end) can be received without waiting long. */
bool channel_readable(struct channel *c);

uint64_t channel_bytes_sent(const struct channel *c);
uint64_t channel_bytes_received(const struct channel *c);
uint64_t channel_timeout_ns(const struct channel *c);
/*
 * SHA-256 over the headers (bytes 0 to 39) of all frames sent (or received) so far: equal on both
 * sides exactly if they have seen the same frames.  Once for each direction.
 */
int channel_digest_sent(struct channel *c, uint8_t out[SHA256_BYTES]);
int channel_digest_received(struct channel *c, uint8_t out[SHA256_BYTES]);

#endif
