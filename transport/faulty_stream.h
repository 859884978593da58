/*
 * A stream that goes wrong by a schedule: over another stream, which it takes over.  Tests put it
 * between the two sides of a move.
 */
#ifndef FERRY_TRANSPORT_FAULTY_STREAM_H
#define FERRY_TRANSPORT_FAULTY_STREAM_H

#include "transport/stream.h"

enum fault_kind {
    FAULT_NONE,
    FAULT_CUT,      /* the connection is gone, for both sides */
    FAULT_TRUNCATE, /* what is written from here on is lost silently; reading goes on */
    FAULT_SILENCE,  /* the connection stays open, but nothing moves in either direction */
    FAULT_CORRUPT,  /* one bit of the byte there is flipped */
    FAULT_DELAY,    /* a pause of delay_ns, once */
    FAULT_CALL,     /* call(opaque), which may do worse: kill a process */
};

enum fault_direction { FAULT_WRITING, FAULT_READING };

/* Strikes when `bytes` bytes have passed since the start of frame number `frame` (from 0; frames
 * as in frame.h) in that direction. */
struct fault {
    enum fault_kind kind;
    enum fault_direction direction;
    uint64_t frame;
    uint64_t bytes;
    uint64_t delay_ns;
    void (*call)(void *opaque);
    void *opaque;
};

/* Takes inner over, on failure too. */
int faulty_stream_create(struct stream *inner, const struct fault *faults, unsigned count,
                         struct stream **out, struct ferry_error *err);
/* Frames that have begun in a direction so far. */
uint64_t faulty_stream_frames(const struct stream *s, enum fault_direction direction);
bool faulty_stream_struck(const struct stream *s); /* some fault has happened */

#endif
