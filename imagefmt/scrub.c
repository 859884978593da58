/* Sums and places need no key: a host that only keeps a sealed image can still find damage. */
#include "imagefmt/scrub.h"

#include <errno.h>
#include <inttypes.h>

static bool may_follow(uint32_t tag, uint32_t before)
{
    if (before == RECORD_FOOTER || before == RECORD_SIGNATURE)
        return tag == RECORD_SIGNATURE;
    if (tag == RECORD_SEAL)
        return before == RECORD_CHUNK;
    return tag != RECORD_HEADER && tag != RECORD_CRYPT && tag != RECORD_SIGNATURE;
}

int scrub_rest(struct input *in, void (*progress)(void *opaque, uint64_t bytes), void *opaque,
               struct ferry_error *err)
{
    struct record record = {.tag = RECORD_CRYPT};
    unsigned signatures = 0;

    for (;;) {
        uint32_t before = record.tag;
        bool complete = before == RECORD_FOOTER || before == RECORD_SIGNATURE;
        int end = complete ? input_at_end(in, err) : 0;
        if (end)
            return end < 0 ? end : 0;
        int error = input_record(in, &record, err);
        if (error)
            return error;
        signatures += record.tag == RECORD_SIGNATURE;
        if (!may_follow(record.tag, before) || signatures > LIMIT_SIGNERS)
            return ferry_refuse(err, -EBADMSG, in->about,
                                "is damaged: a record at byte %" PRIu64 " is out of place",
                                record.offset);
        if (progress)
            progress(opaque, in->position);
    }
}
