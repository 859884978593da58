/* Buffered input, and records out of it: length within the limit, sum, place, then meaning. */
#include "imagefmt/input.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BUFFER_BYTES (256 * KIB)
/* A chunk may refer back LIMIT_SAME_BYTES from the start of its record, which has been read. */
#define HISTORY_BYTES (LIMIT_SAME_BYTES + 4 * KIB)

int input_open(struct input *in, int fd, const char *about, struct ferry_error *err)
{
    *in = (struct input){.fd = fd, .about = about, .record = writer_init(RECORD_LIMIT_BYTES)};
    in->buffer = malloc(BUFFER_BYTES);
    return in->buffer ? 0 : ferry_fail(err, -ENOMEM, about, "out of memory");
}

int input_unread(struct input *in, const void *data, size_t size, struct ferry_error *err)
{
    if (size > BUFFER_BYTES)
        return ferry_fail(err, -EINVAL, in->about, "too much of it was read before");
    if (size)
        memcpy(in->buffer, data, size);
    in->end = size;
    return 0;
}

void input_close(struct input *in)
{
    free(in->buffer);
    free(in->history);
    writer_free(&in->record);
}

/* Read once into data: the count, 0 at the end, or a negative errno. */
static ssize_t read_some(int fd, void *data, size_t size)
{
    ssize_t got;

    do
        got = read(fd, data, size);
    while (got < 0 && errno == EINTR);
    return got < 0 ? -errno : got;
}

/* Up to size bytes at data; how many is 0 only at the end. */
static ssize_t input_some(struct input *in, uint8_t *data, size_t size)
{
    if (in->start == in->end && size >= BUFFER_BYTES)
        return read_some(in->fd, data, size);
    if (in->start == in->end) {
        ssize_t got = read_some(in->fd, in->buffer, BUFFER_BYTES);
        if (got <= 0)
            return got;
        in->start = 0;
        in->end = (size_t)got;
    }
    size_t part = in->end - in->start < size ? in->end - in->start : size;
    memcpy(data, in->buffer + in->start, part);
    in->start += part;
    return (ssize_t)part;
}

/* The history grows with the image, as long as it has not come round. */
static int grow_history(struct input *in, size_t size)
{
    uint64_t needed = in->position + size;
    size_t room = in->history_room ? in->history_room : BUFFER_BYTES;

    if (in->history_room == HISTORY_BYTES || needed <= in->history_room)
        return 0;
    while (room < needed && room < HISTORY_BYTES)
        room *= 2;
    room = room < HISTORY_BYTES ? room : HISTORY_BYTES;
    uint8_t *history = realloc(in->history, room);
    if (!history)
        return -ENOMEM;
    in->history = history;
    in->history_room = room;
    return 0;
}

static void remember(struct input *in, const uint8_t *data, size_t size)
{
    uint64_t at = in->position % HISTORY_BYTES;
    size_t first = HISTORY_BYTES - at < size ? HISTORY_BYTES - at : size;

    memcpy(in->history + at, data, first);
    memcpy(in->history, data + first, size - first);
}

bool input_recall(const struct input *in, uint64_t offset, void *data, size_t size)
{
    uint64_t at = offset % HISTORY_BYTES;
    size_t first = HISTORY_BYTES - at < size ? HISTORY_BYTES - at : size;

    if (offset > in->position || in->position - offset < size ||
        in->position - offset > HISTORY_BYTES)
        return false;
    memcpy(data, in->history + at, first);
    memcpy((uint8_t *)data + first, in->history, size - first);
    return true;
}

int input_read(struct input *in, void *data, size_t size, struct ferry_error *err)
{
    uint8_t *to = data;

    while (size) {
        ssize_t got = input_some(in, to, size);
        if (got < 0)
            return ferry_fail_sys(err, (int)got, in->about, "cannot read the image");
        if (!got)
            return ferry_refuse(err, -EBADMSG, in->about,
                                "ends early, after %" PRIu64 " bytes: the image is incomplete",
                                in->position);
        if (grow_history(in, (size_t)got))
            return ferry_fail(err, -ENOMEM, in->about, "out of memory");
        remember(in, to, (size_t)got);
        in->position += (uint64_t)got;
        to += got;
        size -= (size_t)got;
    }
    return 0;
}

int input_at_end(struct input *in, struct ferry_error *err)
{
    if (in->start < in->end)
        return 0;
    ssize_t got = read_some(in->fd, in->buffer, BUFFER_BYTES);
    if (got < 0)
        return ferry_fail_sys(err, (int)got, in->about, "cannot read the image");
    in->start = 0;
    in->end = (size_t)got;
    return !got;
}

/* The printable name at the end of a damaged record's fixed part, or "". */
static void damaged_name(struct reader *r, size_t size, char name[LIMIT_NAME_BYTES + 1])
{
    const uint8_t *text = size <= LIMIT_NAME_BYTES ? reader_take(r, size) : NULL;

    for (size_t i = 0; text && i < size; i++)
        name[i] = text[i] > ' ' && text[i] < 0x7f ? (char)text[i] : '?';
    name[text ? size : 0] = 0;
}

/* What a record with a wrong sum was about, as far as it still says so. */
static void describe_damaged(uint32_t tag, struct reader *body, char *text, size_t size)
{
    char name[LIMIT_NAME_BYTES + 1];

    switch ((enum record_tag)tag) {
    case RECORD_HEADER:
        snprintf(text, size, "the header");
        return;
    case RECORD_CRYPT:
        snprintf(text, size, "what says how the image is sealed");
        return;
    case RECORD_SEAL:
        snprintf(text, size, "a sealed chunk");
        return;
    case RECORD_SIGNATURE:
        snprintf(text, size, "a signature");
        return;
    case RECORD_BASE:
        snprintf(text, size, "the name of its base");
        return;
    case RECORD_MANIFEST:
        snprintf(text, size, "the manifest");
        return;
    case RECORD_STATE:
        reader_take(body, 7);
        damaged_name(body, reader_u8(body), name);
        snprintf(text, size, "section %s", name);
        return;
    case RECORD_DATA:
        reader_take(body, 7);
        uint8_t name_bytes = reader_u8(body);
        reader_take(body, 12);
        damaged_name(body, name_bytes, name);
        snprintf(text, size, "the head of section %s", name);
        return;
    case RECORD_CHUNK:
        reader_take(body, 8);
        snprintf(text, size, "the head of chunk %" PRIu64, reader_u64(body));
        return;
    case RECORD_PAGE:
    case RECORD_INDEX:
        snprintf(text, size, "the index");
        return;
    case RECORD_END:
        snprintf(text, size, "the end of a section");
        return;
    case RECORD_ROOT:
        snprintf(text, size, "the section table");
        return;
    case RECORD_FOOTER:
        snprintf(text, size, "the footer");
        return;
    }
    snprintf(text, size, "a record");
}

static int refuse_damaged(struct input *in, const struct record *record, const char *why,
                          struct ferry_error *err)
{
    char text[128];
    struct reader body = record->body;

    if (in->seal) /* what the body says of itself is sealed */
        body = reader_init(NULL, 0);
    describe_damaged(record->tag, &body, text, sizeof(text));
    return ferry_refuse(err, -EBADMSG, in->about, "%s is damaged: %s (at byte %" PRIu64 ")", text,
                        why, record->offset);
}

/* Magic and length, which are all that is believed before the sum has been checked. */
static int read_frame_head(struct input *in, uint64_t offset, uint64_t *size,
                           struct ferry_error *err)
{
    uint8_t head[RECORD_FRAME_BYTES];

    int error = input_read(in, head, sizeof(head), err);
    if (error)
        return error;
    if (!record_has_magic(head))
        return offset ? ferry_refuse(err, -EBADMSG, in->about,
                                     "is damaged: no record where one belongs, at byte %" PRIu64,
                                     offset)
                      : ferry_refuse(err, -EBADMSG, in->about, "is not a ferry image");
    if (!record_size(head, size))
        return ferry_refuse(err, -EBADMSG, in->about,
                            "is damaged: a record of impossible length at byte %" PRIu64, offset);
    writer_reset(&in->record);
    writer_copy(&in->record, head, sizeof(head));
    return 0;
}

int input_record(struct input *in, struct record *record, struct ferry_error *err)
{
    uint64_t offset = in->position, size = 0;

    int error = read_frame_head(in, offset, &size, err);
    if (error)
        return error;
    size_t rest_bytes = size - RECORD_FRAME_BYTES;
    uint8_t *rest = writer_grow(&in->record, rest_bytes);
    if (!rest)
        return ferry_fail(err, -ENOMEM, in->about, "out of memory");
    error = input_read(in, rest, rest_bytes, err);
    if (error)
        return error;
    const char *wrong = record_check(in->record.data, in->record.size, offset, in->seal, record);
    return wrong ? refuse_damaged(in, record, wrong, err) : 0;
}
