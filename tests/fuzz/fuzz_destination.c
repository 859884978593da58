/*
 * Fuzz target: what comes over a stream to a destination.  The first byte chooses:
 *   0  the rest are bytes on the wire, as they are
 *   1  the rest are records (u8 type, u16 length, payload), put into frames with right sums, and
 *      each is decoded as what it says it is; pages go into real RAM
 *   2  such records to migrate_in, on a host that answers questions and refuses machines
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "migrate/message.h"
#include "migrate/migrate.h"
#include "migrate/pages.h"
#include "migrate/ticket.h"

#define RAM_BYTES (8 * MIB)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- a stream that reads given bytes and swallows what is written ---- */

struct byte_stream {
    struct stream stream;
    struct reader input;
};

static ssize_t bytes_read(struct stream *stream, void *data, size_t size, int timeout_ms)
{
    struct byte_stream *s = (struct byte_stream *)stream;
    size_t left = reader_left(&s->input);

    (void)timeout_ms;
    size = size < left ? size : left;
    reader_copy(&s->input, data, size);
    return (ssize_t)size;
}

static ssize_t bytes_writev(struct stream *stream, const struct iovec *iov, int count,
                            int timeout_ms)
{
    size_t sum = 0;

    (void)stream;
    (void)timeout_ms;
    for (int i = 0; i < count; i++)
        sum += iov[i].iov_len;
    return (ssize_t)sum;
}

static int bytes_poll_fd(struct stream *stream)
{
    (void)stream;
    return -1;
}

static const char *bytes_peer(struct stream *stream)
{
    (void)stream;
    return "fuzzer";
}

static void bytes_nothing(struct stream *stream)
{
    (void)stream;
}

static const struct stream_ops bytes_ops = {bytes_read, bytes_writev,  bytes_poll_fd,
                                            bytes_peer, bytes_nothing, bytes_nothing};

/* ---- records into frames ---- */

static void put_frame(struct writer *w, uint64_t sequence, uint8_t type, const uint8_t *data,
                      size_t size)
{
    size_t start = w->size;

    writer_u32(w, FRAME_MAGIC);
    writer_u16(w, type);
    writer_u16(w, 0);
    writer_u32(w, (uint32_t)size);
    writer_u32(w, 0);
    writer_u64(w, sequence);
    writer_u64(w, xxh3(data, size));
    if (!w->error)
        writer_u64(w, xxh3(w->data + start, 32));
    writer_copy(w, data, size);
}

static void frame_records(struct writer *w, const uint8_t *data, size_t size)
{
    struct reader r = reader_init(data, size);
    uint64_t sequence = 0;

    while (reader_left(&r) >= 3) {
        uint8_t type = reader_u8(&r);
        size_t length = reader_u16(&r);
        if (length > reader_left(&r))
            length = reader_left(&r);
        put_frame(w, sequence++, type, reader_take(&r, length), length);
    }
}

/* ---- decoding ---- */

union any_message {
    struct hello hello;
    struct accept accept;
    struct refuse refuse;
    struct round_end round;
    struct state_end state;
    struct ready ready;
    struct running running;
    struct word word;
    char name[LIMIT_NAME_BYTES + 1];
};

static void decode(struct memory *memory, const struct frame *f)
{
    static union any_message m;
    struct machine_section section;
    uint64_t bytes;

    switch (f->type) {
    case MESSAGE_HELLO:
        (void)hello_decode(f, &m.hello);
        break;
    case MESSAGE_ACCEPT:
        (void)accept_decode(f, &m.accept);
        break;
    case MESSAGE_REFUSE:
        (void)refuse_decode(f, &m.refuse);
        break;
    case MESSAGE_PAGES:
        (void)pages_install(memory, f, &bytes, NULL);
        break;
    case MESSAGE_ROUND:
        (void)round_decode(f, &m.round);
        break;
    case MESSAGE_ROUND_DONE:
        (void)round_done_decode(f, &m.round);
        break;
    case MESSAGE_SECTION:
        (void)section_decode(f, &section, m.name);
        break;
    case MESSAGE_STATE:
        (void)state_decode(f, &m.state);
        break;
    case MESSAGE_READY:
        (void)ready_decode(f, &m.ready);
        break;
    case MESSAGE_RUNNING:
        (void)running_decode(f, &m.running);
        break;
    default:
        (void)word_decode(f, &m.word);
        break;
    }
}

static void decode_all(struct byte_stream *s)
{
    struct channel *channel;
    struct memory *memory;
    struct frame f;

    if (memory_create(RAM_BYTES, &memory, NULL))
        return;
    if (!channel_create(&s->stream, UINT64_C(1000000000), &channel, NULL)) {
        while (!channel_receive(channel, 0, &f, NULL))
            decode(memory, &f);
        channel_destroy(channel);
    }
    memory_destroy(memory);
}

/* ---- a host ---- */

static int refuse_machine(void *opaque, struct machine_config *config, struct machine **out,
                          struct ferry_error *err)
{
    (void)opaque;
    (void)config;
    (void)out;
    return ferry_refuse(err, -1, NULL, "no machine is taken here");
}

static void remove_tickets(const char *folder)
{
    char path[128];
    struct dirent *entry;

    snprintf(path, sizeof(path), "%s/.tickets", folder);
    DIR *dir = opendir(path);
    while (dir && (entry = readdir(dir)))
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
            unlinkat(dirfd(dir), entry->d_name, 0);
    if (dir)
        closedir(dir);
    rmdir(path);
    rmdir(folder);
}

static void receive(struct byte_stream *s)
{
    char folder[] = "/tmp/ferry-fuzz-XXXXXX";
    struct receive_host host = {.create = refuse_machine, .timeout_ns = UINT64_C(1000000000)};
    struct progress progress = {0};
    struct receive_result result;
    struct machine *machine = NULL;
    struct ferry_error err = {0};

    if (!mkdtemp(folder))
        return;
    if (!ticket_store_open(folder, &host.tickets, NULL)) {
        (void)migrate_in(&s->stream, &host, &progress, &machine, &result, &err);
        if (machine)
            abort(); /* nobody made one */
        ticket_store_close(host.tickets);
    }
    remove_tickets(folder);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(writer_free) struct writer w = writer_init(16 * MIB);
    struct byte_stream s = {.stream.ops = &bytes_ops};

    if (!size)
        return 0;
    if (data[0] % 3 == 0) {
        s.input = reader_init(data + 1, size - 1);
    } else {
        frame_records(&w, data + 1, size - 1);
        s.input = reader_init(w.data, w.error ? 0 : w.size);
    }
    if (data[0] % 3 == 2)
        receive(&s);
    else
        decode_all(&s);
    return 0;
}
