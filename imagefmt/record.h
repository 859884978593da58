/*
 * One record as bytes: made here, and checked here before anybody looks at what it says.  Private
 * to imagefmt/.
 */
#ifndef FERRY_IMAGEFMT_RECORD_H
#define FERRY_IMAGEFMT_RECORD_H

#include <stdbool.h>

#include "common/bytes.h"
#include "imagefmt/format.h"
#include "imagefmt/seal.h"

struct record {
    uint32_t tag;
    uint64_t offset; /* where it starts in the image */
    struct reader body;
};

/* Begin the record that will lie at offset; its body is appended to `record` then. */
void record_begin(struct writer *record, enum record_tag tag, uint64_t offset);
/* Seal its body (seal: NULL for none), then its length and sum; what went wrong meanwhile is in
 * record->error. */
void record_end(struct writer *record, const struct seal *seal);
/* The same around a body of size bytes that lies at data + RECORD_HEAD_BYTES already. */
void record_wrap(uint8_t *data, size_t size, enum record_tag tag, uint64_t offset);

/*
 * What is believed before the sum has been checked: false if the first RECORD_FRAME_BYTES are not
 * those of a record, or say an impossible length; else *size is that of the whole record.
 */
bool record_size(const uint8_t *frame, uint64_t *size);
bool record_has_magic(const uint8_t *frame);
/*
 * The whole record in data, which must lie at offset: NULL, or what is wrong with it.  *record is
 * filled in any case, but what it says of a damaged one can only serve to name it.  seal: NULL, or
 * what the body is sealed with; it is opened in place.
 */
const char *record_check(uint8_t *data, size_t size, uint64_t offset, const struct seal *seal,
                         struct record *record);

#endif
