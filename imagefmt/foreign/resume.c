/*
 * Taking up.  Three stretches of the disk: what lies before `start` is put from the journal, with
 * other content; from there to the journal's end the disk is read again, and must give the very
 * units of the journal, of which the writer may keep some back; behind it the sink is a file again.
 * What was written behind the journal's end before the interruption is cut off.
 */
#include "imagefmt/foreign/resume.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "imagefmt/content.h"
#include "imagefmt/foreign/resume_files.h"
#include "imagefmt/foreign/sink.h"

#define EVERY_BYTES (64 * MIB)
#define EVERY_NS    (5 * UINT64_C(1000000000))

/* Ignores all while it is deaf, but for the places. */
struct resume_sink {
    struct sink sink;
    struct fd_sink file;
    bool deaf;
    uint64_t end; /* of what was written, or would have been */
};

struct resume {
    struct resume_files files;
    struct resume_sink sink;
    struct disk_writer *writer;
    uint64_t size_bytes;
    bool any;             /* the journal has a batch */
    uint64_t every_bytes; /* between batches */
    bool opened, committed;
    uint64_t done;            /* as in its last one, or since */
    uint64_t unwritten;       /* the same */
    uint64_t journalled;      /* done of its last one, as it was found */
    uint64_t written;         /* and as it is now */
    unsigned node_level;      /* of its nodes, all the same */
    uint64_t start;           /* where reading begins */
    uint64_t content_bytes;   /* before start */
    struct content_tree tree; /* the same */
    struct disk_unit *again;  /* units between start and the journal's end */
    size_t again_count, again_next;
    uint32_t safe_units;          /* remembered, and before done */
    uint64_t put_bytes, batch_ns; /* since the last batch, and when that was */
    bool broken;                  /* nothing more may be written down */
};

/* ---- The sink ---- */

static void note_end(struct resume_sink *s, uint64_t end)
{
    s->end = end > s->end ? end : s->end;
}

static int pwrite_resume(struct sink *sink, uint64_t offset, const void *data, size_t size,
                         struct ferry_error *err)
{
    struct resume_sink *s = (struct resume_sink *)sink;

    note_end(s, offset + size);
    return s->deaf ? 0 : s->file.sink.pwrite(&s->file.sink, offset, data, size, err);
}

static int write_resume(struct sink *sink, const void *data, size_t size, struct ferry_error *err)
{
    int error = pwrite_resume(sink, sink->position, data, size, err);

    if (!error)
        sink->position += size;
    return error;
}

static int extend_resume(struct sink *sink, uint64_t size, struct ferry_error *err)
{
    struct resume_sink *s = (struct resume_sink *)sink;

    return s->deaf ? 0 : s->file.sink.extend(&s->file.sink, size, err);
}

static void open_sink(struct resume *r)
{
    struct resume_sink *s = &r->sink;

    *s = (struct resume_sink){.sink = {.write = write_resume,
                                       .pwrite = pwrite_resume,
                                       .extend = extend_resume,
                                       .about = r->files.partial},
                              .deaf = r->any};
    sink_of_fd(&s->file, r->files.partial_fd, r->files.partial, false);
}

/* From here on what is put is new. */
static int hear_again(struct resume *r, struct ferry_error *err)
{
    struct stat st;

    r->sink.deaf = false;
    if (fstat(r->files.partial_fd, &st))
        return ferry_fail_sys(err, -errno, r->files.partial, "cannot read");
    if ((uint64_t)st.st_size < r->sink.end)
        return ferry_refuse(err, -EBADMSG, r->files.partial,
                            "is shorter than its journal says; remove both and begin anew");
    if (ftruncate(r->files.partial_fd, (off_t)r->sink.end))
        return ferry_fail_sys(err, -errno, r->files.partial, "cannot write");
    return 0;
}

/* ---- The journal ---- */

static int bad_journal(const struct resume *r, struct ferry_error *err)
{
    return ferry_refuse(err, -EBADMSG, r->files.journal_path,
                        "makes no sense; remove it and the .partial file and begin anew");
}

/* To its end: what was done when the last batch was written, and nothing torn behind it. */
static int scan(struct resume *r, struct ferry_error *err)
{
    struct journal *j = &r->files.journal;
    struct journal_batch batch;
    int more, error = 0;

    while (!error && (more = journal_next(j, &batch, err)) > 0) {
        if (batch.done < r->done || batch.done > LIMIT_DISK_BYTES)
            error = bad_journal(r, err);
        r->any = true;
        r->done = batch.done;
        r->unwritten = batch.unwritten;
        journal_batch_free(&batch);
    }
    if (error || more < 0)
        return error ? error : more;
    r->journalled = r->written = r->done;
    uint64_t from = r->unwritten < r->done ? r->unwritten : r->done;
    r->start = from / DISK_UNIT_MAX_BYTES * DISK_UNIT_MAX_BYTES;
    return ftruncate(j->fd, (off_t)j->end)
               ? ferry_fail_sys(err, -errno, r->files.journal_path, "cannot write")
               : 0;
}

/* Could the pipeline have put this unit after what ended at `after`? */
static bool is_possible(const struct resume *r, const struct disk_unit *u, uint64_t after)
{
    const struct disk_writer *w = r->writer;
    bool encoded = w->format->encode && w->stored_room;
    uint32_t most = !encoded && w->run_bytes ? w->run_bytes : w->unit_bytes;
    bool whole =
        u->content_bytes % w->unit_bytes == 0 || u->offset + u->content_bytes == r->size_bytes;

    return u->offset % w->unit_bytes == 0 && u->offset >= after && u->content_bytes &&
           u->content_bytes <= most && u->offset <= r->size_bytes &&
           u->content_bytes <= r->size_bytes - u->offset && whole &&
           u->offset / DISK_UNIT_MAX_BYTES ==
               (u->offset + u->content_bytes - 1) / DISK_UNIT_MAX_BYTES &&
           u->stored_bytes <= w->stored_room && (!encoded || u->raw || u->stored_bytes);
}

static int keep_again(struct resume *r, const struct disk_unit *unit, struct ferry_error *err)
{
    if (r->again_count == LIMIT_RESUME_AGAIN)
        return bad_journal(r, err);
    if (!(r->again_count & (r->again_count - 1))) {
        size_t room = r->again_count ? 2 * r->again_count : 1;
        struct disk_unit *more = realloc(r->again, room * sizeof(*more));
        if (!more)
            return ferry_fail(err, -ENOMEM, r->files.dest, "out of memory");
        r->again = more;
    }
    r->again[r->again_count++] = *unit;
    return 0;
}

static int replay_units(struct resume *r, struct journal_batch *batch, uint64_t *after,
                        uint8_t *nothing, struct ferry_error *err)
{
    int error = 0;

    for (uint32_t i = 0; !error && i < batch->units; i++) {
        struct disk_unit unit;
        journal_next_unit(batch, &unit);
        if (!is_possible(r, &unit, *after) || unit.offset + unit.content_bytes > batch->done)
            return bad_journal(r, err);
        *after = unit.offset + unit.content_bytes;
        if (unit.offset >= r->start) {
            error = keep_again(r, &unit, err);
            continue;
        }
        unit.content = nothing;
        unit.stored = nothing;
        unit.stored_room = r->writer->stored_room;
        r->content_bytes += unit.content_bytes;
        error = r->writer->format->put(r->writer, &unit, err);
    }
    return error;
}

static int replay_nodes(struct resume *r, struct journal_batch *batch, uint64_t *after,
                        struct ferry_error *err)
{
    for (uint32_t i = 0; i < batch->nodes; i++) {
        struct journal_node n;
        journal_next_node(batch, &n);
        r->node_level = *after ? r->node_level : n.level;
        if (n.level != r->node_level || n.level > content_level(DISK_UNIT_MAX_BYTES) ||
            n.offset < *after || n.offset >= batch->done ||
            n.offset % (CONTENT_LEAF_BYTES << n.level))
            return bad_journal(r, err);
        *after = n.offset + (CONTENT_LEAF_BYTES << n.level);
        if (n.offset < r->start)
            content_add(&r->tree, n.offset / (CONTENT_LEAF_BYTES << n.level), n.level, n.node);
    }
    return 0;
}

/* All batches into the writer, as far as they go. */
static int replay(struct resume *r, struct ferry_error *err)
{
    size_t room = r->writer->stored_room;
    CLEANUP_FREE uint8_t *nothing =
        calloc(1, room > DISK_UNIT_MAX_BYTES ? room : DISK_UNIT_MAX_BYTES);
    uint64_t after_unit = 0, after_node = 0;
    struct journal_batch batch;
    int more = 0, error = nothing ? 0 : ferry_fail(err, -ENOMEM, r->files.dest, "out of memory");

    journal_rewind(&r->files.journal);
    while (!error && (more = journal_next(&r->files.journal, &batch, err)) > 0) {
        error = replay_units(r, &batch, &after_unit, nothing, err);
        if (!error)
            error = replay_nodes(r, &batch, &after_node, err);
        journal_batch_free(&batch);
    }
    if (error || more < 0)
        return error ? error : more;
    return r->sink.deaf && !r->again_count ? hear_again(r, err) : 0;
}

/* What is done becomes durable, then is written down. */
static int write_batch(struct resume *r, struct ferry_error *err)
{
    r->broken = true; /* an fsync that failed is never tried again */
    if (fdatasync(r->files.partial_fd))
        return ferry_fail_sys(err, -errno, r->files.partial, "cannot make the file durable");
    int error = journal_write(&r->files.journal, r->done, r->unwritten, err);
    if (error)
        return error;
    r->broken = false;
    r->any = true;
    r->written = r->done;
    r->safe_units = 0;
    r->put_bytes = 0;
    r->batch_ns = monotonic_ns();
    return 0;
}

/* ---- Watching the pipeline ---- */

static int reads_otherwise(const struct resume *r, struct ferry_error *err)
{
    return ferry_refuse(err, -ESTALE, r->files.dest,
                        "the disk reads or compresses otherwise than when this was begun; to begin "
                        "anew, remove the .partial and .resume files beside it");
}

static int on_put(void *opaque, const struct disk_unit *unit, struct ferry_error *err)
{
    struct resume *r = opaque;

    r->put_bytes += unit->content_bytes;
    if (!r->sink.deaf)
        return journal_add_unit(&r->files.journal, unit, err);
    const struct disk_unit *was = &r->again[r->again_next];
    if (unit->offset != was->offset || unit->content_bytes != was->content_bytes ||
        unit->stored_bytes != was->stored_bytes || unit->raw != was->raw)
        return reads_otherwise(r, err);
    return ++r->again_next == r->again_count ? hear_again(r, err) : 0;
}

static int on_done(void *opaque, uint64_t offset, uint64_t end, unsigned level, const uint8_t *node,
                   struct ferry_error *err)
{
    struct resume *r = opaque;
    const struct disk_format *format = r->writer->format;
    struct journal_node n = {.offset = offset, .level = level};

    if (end <= r->journalled)
        return 0;
    if (r->sink.deaf)
        return reads_otherwise(r, err);
    if (node && offset >= r->journalled) {
        memcpy(n.node, node, sizeof(n.node));
        int error = journal_add_node(&r->files.journal, &n, err);
        if (error)
            return error;
    }
    r->done = end;
    r->unwritten = format->unwritten ? format->unwritten(r->writer) : UINT64_MAX;
    r->safe_units = r->files.journal.unit_count;
    if (r->put_bytes < r->every_bytes && !journal_is_full(&r->files.journal) &&
        monotonic_ns() - r->batch_ns < EVERY_NS)
        return 0;
    return write_batch(r, err);
}

/* Something went wrong, with the disk that is read or the one that is written to: what was put is
 * worth keeping all the same. */
static void keep_what_is_there(struct resume *r)
{
    if (r->broken || r->sink.deaf || r->done <= r->written)
        return;
    journal_drop_units(&r->files.journal, r->safe_units);
    (void)write_batch(r, NULL);
}

static int copy_rest(struct resume *r, struct disk *disk, const struct disk_copy_options *copy,
                     struct disk_copy_result *result, struct ferry_error *err)
{
    struct disk_copy_options options = *copy;
    const struct disk_copy_watch watch = {
        .start = r->start, .tree = &r->tree, .put = on_put, .done = on_done, .opaque = r};

    options.watch = &watch;
    r->batch_ns = monotonic_ns();
    int error = disk_copy(disk, r->writer, r->size_bytes, &options, result, err);
    if (error) {
        keep_what_is_there(r);
        return error;
    }
    result->content_bytes += r->content_bytes;
    return r->sink.deaf ? reads_otherwise(r, err) : 0;
}

int resume_copy(struct resume *r, struct disk *disk, const struct disk_format *to,
                const struct disk_write_options *write, const struct disk_copy_options *copy,
                struct disk_copy_result *result, struct ferry_error *err)
{
    r->size_bytes = write->size_bytes;
    open_sink(r);
    if (!r->any && ftruncate(r->files.partial_fd, 0))
        return ferry_fail_sys(err, -errno, r->files.partial, "cannot write");
    int error = to->create(&r->sink.sink, write, &r->writer, err);
    if (error)
        return error;
    error = r->done > r->size_bytes ? bad_journal(r, err) : replay(r, err);
    if (!error)
        error = copy_rest(r, disk, copy, result, err);
    to->destroy(r->writer);
    r->writer = NULL;
    return error;
}

/* ---- Beginning and end ---- */

int resume_open(const char *dest, json_t *what, struct resume **out, struct ferry_error *err)
{
    CLEANUP(resume_cleanup) struct resume *r = calloc(1, sizeof(*r));

    if (!r)
        return ferry_fail(err, -ENOMEM, dest, "out of memory");
    int error = resume_files_open(&r->files, dest, what, err);
    if (!error)
        error = scan(r, err);
    if (error)
        return error;
    r->opened = true;
    r->every_bytes = EVERY_BYTES;
    *out = take_ptr(&r);
    return 0;
}

bool resume_goes_on(const struct resume *r, uint64_t *done_bytes)
{
    *done_bytes = r->start;
    return r->any;
}

void resume_every(struct resume *r, uint64_t bytes)
{
    r->every_bytes = bytes;
}

int resume_fd(const struct resume *r)
{
    return r->files.partial_fd;
}

int resume_commit(struct resume *r, struct ferry_error *err)
{
    int error = resume_files_commit(&r->files, err);

    r->committed = !error;
    return error;
}

bool resume_is_kept(const struct resume *r)
{
    return r->any && !r->committed;
}

void resume_discard(struct resume *r)
{
    r->any = false;
}

void resume_close(struct resume *r)
{
    if (!r)
        return;
    if (r->opened && !r->any && !r->committed)
        resume_files_discard(&r->files);
    resume_files_close(&r->files);
    free(r->again);
    free(r);
}

void resume_cleanup(struct resume **r)
{
    resume_close(*r);
}
