/*
 * The reader's lower half: bytes from a pipe or file, and whole records whose sum and place have
 * been checked.  Private to imagefmt/.
 */
#ifndef FERRY_IMAGEFMT_INPUT_H
#define FERRY_IMAGEFMT_INPUT_H

#include <stdbool.h>

#include "common/bytes.h"
#include "common/error.h"
#include "imagefmt/record.h"

struct input {
    int fd;
    const char *about; /* the image, for messages */
    uint64_t position; /* bytes handed out */
    uint8_t *buffer;
    size_t start, end; /* of what is read but not handed out */
    struct writer record;
    const struct seal *seal; /* what records are sealed with from here on; NULL: nothing */
    uint8_t *history; /* the last bytes handed out, in a ring: LIMIT_SAME_BYTES and a record */
    size_t history_room;
};

int input_open(struct input *in, int fd, const char *about, struct ferry_error *err);
/* Before the first read: these bytes, at most IMAGE_HEAD_MAX_BYTES, come before those of fd. */
int input_unread(struct input *in, const void *data, size_t size, struct ferry_error *err);
void input_close(struct input *in); /* not the fd */
/* Exactly size bytes; an image that ends before is refused. */
int input_read(struct input *in, void *data, size_t size, struct ferry_error *err);
/* Bytes that were handed out before, of the last LIMIT_SAME_BYTES and a record; false: they are not
 * among them.
 */
bool input_recall(const struct input *in, uint64_t offset, void *data, size_t size);
/* Whether nothing follows: 1 or 0, or a negative errno. */
int input_at_end(struct input *in, struct ferry_error *err);
/*
 * The next record; the body is valid until the next call.  A sum or place that does not match is
 * refused; as the tag and the names in it cannot be trusted then, they only name the damage.
 */
int input_record(struct input *in, struct record *record, struct ferry_error *err);

#endif
