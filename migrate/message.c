/* Encoding and decoding of messages, one pair of functions each, in the order of PROTOCOL.md. */
#include "migrate/message.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file.h"

static void put_id(struct writer *w, const struct move_id *id)
{
    writer_copy(w, id->vm_id, MOVE_ID_BYTES);
    writer_u64(w, id->epoch);
    writer_copy(w, id->host, MOVE_ID_BYTES);
}

static void get_id(struct reader *r, struct move_id *id)
{
    reader_copy(r, id->vm_id, MOVE_ID_BYTES);
    id->epoch = reader_u64(r);
    reader_copy(r, id->host, MOVE_ID_BYTES);
}

static void put_text(struct writer *w, const char *text)
{
    writer_copy(w, text, strnlen(text, LIMIT_REASON_BYTES));
}

/* The rest of the message; what could disturb a terminal becomes '?'. */
static void get_text(struct reader *r, char text[LIMIT_REASON_BYTES + 1])
{
    size_t size = reader_left(r);

    if (size > LIMIT_REASON_BYTES) {
        r->error = -EBADMSG;
        size = 0;
    }
    reader_copy(r, text, size);
    text[size] = 0;
    for (size_t i = 0; i < size; i++)
        if (((uint8_t)text[i] < 32 && text[i] != '\n') || text[i] == 127)
            text[i] = '?';
}

static int done(const struct reader *r)
{
    return r->error || reader_left(r) ? -EBADMSG : 0;
}

void hello_encode(struct writer *w, const struct hello *m)
{
    writer_u32(w, m->version);
    writer_u32(w, m->page_bytes);
    writer_u64(w, m->features);
    writer_copy(w, m->vm_id, MOVE_ID_BYTES);
    writer_u64(w, m->epoch);
    writer_copy(w, m->host, MOVE_ID_BYTES);
    writer_copy(w, m->json, m->json_size);
}

int hello_decode(const struct frame *f, struct hello *m)
{
    struct reader r = reader_init(f->data, f->size);

    m->version = reader_u32(&r);
    m->page_bytes = reader_u32(&r);
    m->features = reader_u64(&r);
    reader_copy(&r, m->vm_id, MOVE_ID_BYTES);
    m->epoch = reader_u64(&r);
    reader_copy(&r, m->host, MOVE_ID_BYTES);
    m->json_size = reader_left(&r);
    m->json = (const char *)reader_take(&r, m->json_size);
    return m->json_size > LIMIT_MANIFEST_BYTES ? -EBADMSG : done(&r);
}

void accept_encode(struct writer *w, const struct accept *m)
{
    writer_u32(w, m->version);
    writer_u32(w, 0);
    writer_u64(w, m->features);
    put_id(w, &m->id);
}

int accept_decode(const struct frame *f, struct accept *m)
{
    struct reader r = reader_init(f->data, f->size);

    m->version = reader_u32(&r);
    uint32_t zero = reader_u32(&r);
    m->features = reader_u64(&r);
    get_id(&r, &m->id);
    return zero ? -EBADMSG : done(&r);
}

void refuse_encode(struct writer *w, uint64_t epoch, const char *text)
{
    writer_u64(w, epoch);
    put_text(w, text);
}

int refuse_decode(const struct frame *f, struct refuse *m)
{
    struct reader r = reader_init(f->data, f->size);

    m->epoch = reader_u64(&r);
    get_text(&r, m->text);
    return done(&r);
}

void round_encode(struct writer *w, const struct round_end *m)
{
    writer_u32(w, m->round);
    writer_u32(w, 0);
    writer_u64(w, m->bytes);
}

int round_decode(const struct frame *f, struct round_end *m)
{
    struct reader r = reader_init(f->data, f->size);

    m->round = reader_u32(&r);
    uint32_t zero = reader_u32(&r);
    m->bytes = reader_u64(&r);
    return zero ? -EBADMSG : done(&r);
}

void round_done_encode(struct writer *w, uint32_t round)
{
    writer_u32(w, round);
    writer_u32(w, 0);
}

int round_done_decode(const struct frame *f, struct round_end *m)
{
    struct reader r = reader_init(f->data, f->size);

    m->round = reader_u32(&r);
    uint32_t zero = reader_u32(&r);
    m->bytes = 0;
    return zero ? -EBADMSG : done(&r);
}

void section_encode(struct writer *w, const struct machine_section *section)
{
    size_t length = strlen(section->name);

    writer_u16(w, section->version);
    writer_u16(w, (uint16_t)length);
    writer_u32(w, (uint32_t)section->size);
    writer_copy(w, section->name, length);
    writer_copy(w, section->data, section->size);
}

int section_decode(const struct frame *f, struct machine_section *section, char *name)
{
    struct reader r = reader_init(f->data, f->size);

    section->version = reader_u16(&r);
    size_t length = reader_u16(&r);
    section->size = reader_u32(&r);
    if (length < 1 || length > LIMIT_NAME_BYTES || section->size > LIMIT_SECTION_BYTES)
        return -EBADMSG;
    reader_copy(&r, name, length);
    name[length] = 0;
    section->name = name;
    section->data = reader_take(&r, section->size);
    for (size_t i = 0; i < length; i++)
        if (name[i] < '!' || name[i] > '~')
            return -EBADMSG;
    return done(&r);
}

void state_encode(struct writer *w, const struct state_end *m)
{
    put_id(w, &m->id);
    writer_u32(w, m->sections);
    writer_u32(w, m->run);
}

int state_decode(const struct frame *f, struct state_end *m)
{
    struct reader r = reader_init(f->data, f->size);

    get_id(&r, &m->id);
    m->sections = reader_u32(&r);
    uint32_t run = reader_u32(&r);
    m->run = run == 1;
    return run > 1 ? -EBADMSG : done(&r);
}

void ready_encode(struct writer *w, const struct ready *m)
{
    put_id(w, &m->id);
    writer_copy(w, m->digest, SHA256_BYTES);
}

int ready_decode(const struct frame *f, struct ready *m)
{
    struct reader r = reader_init(f->data, f->size);

    get_id(&r, &m->id);
    reader_copy(&r, m->digest, SHA256_BYTES);
    return done(&r);
}

void running_encode(struct writer *w, const struct running *m)
{
    put_id(w, &m->id);
    writer_copy(w, m->boot_id, MOVE_ID_BYTES);
    writer_u64(w, m->entered_at_ns);
    writer_u64(w, m->entered_after_ns);
    writer_u64(w, m->sent_after_ns);
}

int running_decode(const struct frame *f, struct running *m)
{
    struct reader r = reader_init(f->data, f->size);

    get_id(&r, &m->id);
    reader_copy(&r, m->boot_id, MOVE_ID_BYTES);
    m->entered_at_ns = reader_u64(&r);
    m->entered_after_ns = reader_u64(&r);
    m->sent_after_ns = reader_u64(&r);
    return done(&r);
}

void word_encode(struct writer *w, const struct move_id *id, const char *text)
{
    put_id(w, id);
    put_text(w, text);
}

int word_decode(const struct frame *f, struct word *m)
{
    struct reader r = reader_init(f->data, f->size);

    get_id(&r, &m->id);
    get_text(&r, m->text);
    return done(&r);
}

bool move_id_equal(const struct move_id *a, const struct move_id *b)
{
    return a->epoch == b->epoch && !memcmp(a->vm_id, b->vm_id, MOVE_ID_BYTES) &&
           !memcmp(a->host, b->host, MOVE_ID_BYTES);
}

void read_boot_id(uint8_t boot_id[MOVE_ID_BYTES])
{
    char text[37], digits[33];
    size_t count = 0;

    memset(boot_id, 0, MOVE_ID_BYTES);
    CLEANUP_FD int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read_all(fd, text, 36))
        return;
    for (size_t i = 0; i < 36 && count < 32; i++)
        if (text[i] != '-')
            digits[count++] = text[i];
    digits[count] = 0;
    if (hex_decode(digits, boot_id, MOVE_ID_BYTES))
        memset(boot_id, 0, MOVE_ID_BYTES);
}
