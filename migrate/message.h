/* The messages of PROTOCOL.md: bytes to structs and back.  Decoders take hostile bytes. */
#ifndef FERRY_MIGRATE_MESSAGE_H
#define FERRY_MIGRATE_MESSAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/bytes.h"
#include "common/error.h"
#include "common/hash.h"
#include "common/limits.h"
#include "transport/frame.h"
#include "vmm/machine.h"

#define PROTOCOL_VERSION 1u
#define MOVE_ID_BYTES    16

enum message_type {
    MESSAGE_HELLO = 1,
    MESSAGE_ACCEPT,
    MESSAGE_REFUSE,
    MESSAGE_PAGES,
    MESSAGE_ROUND,
    MESSAGE_ROUND_DONE,
    MESSAGE_SECTION,
    MESSAGE_STATE,
    MESSAGE_READY,
    MESSAGE_COMMIT,
    MESSAGE_RUNNING,
    MESSAGE_ABORTED,
    MESSAGE_UNKNOWN,
    MESSAGE_ABORT,
    MESSAGE_GONE,
    MESSAGE_STATUS,
};

/* Which move a message belongs to. */
struct move_id {
    uint8_t vm_id[MOVE_ID_BYTES];
    uint64_t epoch;
    uint8_t host[MOVE_ID_BYTES]; /* of the destination */
};

struct hello {
    uint32_t version, page_bytes;
    uint64_t features;
    uint8_t vm_id[MOVE_ID_BYTES];
    uint64_t epoch;
    uint8_t host[MOVE_ID_BYTES]; /* of the source */
    const char *json;            /* within the frame when decoded, not terminated */
    size_t json_size;
};

struct accept {
    uint32_t version;
    uint64_t features;
    struct move_id id;
};

struct refuse {
    uint64_t epoch; /* the latest logged there, 0: that is not the reason */
    char text[LIMIT_REASON_BYTES + 1];
};

struct round_end {
    uint32_t round;
    uint64_t bytes; /* of pages; not in ROUND_DONE */
};

struct state_end {
    struct move_id id;
    uint32_t sections;
    bool run;
};

struct ready {
    struct move_id id;
    uint8_t digest[SHA256_BYTES];
};

struct running {
    struct move_id id;
    uint8_t boot_id[MOVE_ID_BYTES];
    uint64_t entered_at_ns; /* CLOCK_MONOTONIC there, 0: not yet, or only asked */
    uint64_t entered_after_ns, sent_after_ns;
};

/* COMMIT, ABORTED, UNKNOWN, ABORT, GONE, STATUS; text is "" where there is none. */
struct word {
    struct move_id id;
    char text[LIMIT_REASON_BYTES + 1];
};

/* Encoders append to an empty writer; look at w->error afterwards. */
void hello_encode(struct writer *w, const struct hello *m);
void accept_encode(struct writer *w, const struct accept *m);
void refuse_encode(struct writer *w, uint64_t epoch, const char *text);
void round_encode(struct writer *w, const struct round_end *m);
void round_done_encode(struct writer *w, uint32_t round);
void section_encode(struct writer *w, const struct machine_section *section);
void state_encode(struct writer *w, const struct state_end *m);
void ready_encode(struct writer *w, const struct ready *m);
void running_encode(struct writer *w, const struct running *m);
void word_encode(struct writer *w, const struct move_id *id, const char *text);

/* 0, or -EBADMSG: not exactly such a message. */
int hello_decode(const struct frame *f, struct hello *m);
int accept_decode(const struct frame *f, struct accept *m);
int refuse_decode(const struct frame *f, struct refuse *m);
int round_decode(const struct frame *f, struct round_end *m);
int round_done_decode(const struct frame *f, struct round_end *m);
/* name: LIMIT_NAME_BYTES + 1; section->data lies within the frame. */
int section_decode(const struct frame *f, struct machine_section *section, char *name);
int state_decode(const struct frame *f, struct state_end *m);
int ready_decode(const struct frame *f, struct ready *m);
int running_decode(const struct frame *f, struct running *m);
int word_decode(const struct frame *f, struct word *m);

bool move_id_equal(const struct move_id *a, const struct move_id *b);
/* This boot of this host: two processes that agree on it share CLOCK_MONOTONIC.  Zero: unknown. */
void read_boot_id(uint8_t boot_id[MOVE_ID_BYTES]);

#endif
