/*
 * The rounds.  Tracking starts before the first byte is read, so what is written behind the
 * reader's back is dirty in the next round.  Each round ends with ROUND, which the destination
 * answers when all of it is in place: nothing is under way then, so that the measured rate is the
 * destination's too, and the pause does not begin with a full pipe.
 */
#include "migrate/precopy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "migrate/message.h"
#include "vmm/dirty.h"

#define DOWNTIME_NS_DEFAULT (100 * UINT64_C(1000000))
#define ROUNDS_DEFAULT      30
#define PREDICT_AFTER_BYTES (64 * MIB)
#define REPORT_EVERY_NS     (100 * UINT64_C(1000000))
#define FRAMES_A_SECOND     20 /* at least, under a limited rate: signs of life */
#define HANDOVER_NS         (2 * UINT64_C(1000000)) /* logs, state and load, by experience */

struct precopy {
    struct machine *machine;
    struct memory *memory;
    struct channel *channel;
    struct progress *progress;
    struct migrate_result *result;
    const struct log *log;
    struct dirty *dirty;
    struct page_batch *batch;
    struct plan plan;
    uint64_t words; /* of the bitmaps */
    uint64_t *bitmap;
    uint64_t *fresh_bits;  /* of the collect after the pause */
    uint64_t bitmap_bytes; /* RAM that bitmap names */
    unsigned round;
    uint64_t started_ns, round_started_ns;
    uint64_t rate;   /* bytes a second, of RAM through the whole pipe */
    uint64_t rtt_ns; /* least time from ROUND to ROUND_DONE */
    uint64_t collect_ns;
    uint64_t reported_ns;
    uint64_t round_done, round_total; /* bytes of RAM in this round */
};

static size_t content_bytes(uint64_t bandwidth)
{
    size_t bytes = PAGES_CONTENT_BYTES;

    if (bandwidth && bandwidth / FRAMES_A_SECOND < bytes)
        bytes = bandwidth / FRAMES_A_SECOND / MEMORY_PAGE_BYTES * MEMORY_PAGE_BYTES;
    return bytes ? bytes : MEMORY_PAGE_BYTES;
}

int precopy_create(struct machine *machine, struct channel *channel,
                   const struct migrate_options *options, struct progress *progress,
                   struct migrate_result *result, struct precopy **out, struct ferry_error *err)
{
    struct precopy *p = calloc(1, sizeof(*p));

    if (!p)
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    p->machine = machine;
    p->memory = machine_memory(machine);
    p->channel = channel;
    p->progress = progress;
    p->result = result;
    p->log = options->log;
    p->rtt_ns = UINT64_MAX;
    p->started_ns = monotonic_ns();
    unsigned rounds = options->rounds_max ? options->rounds_max : ROUNDS_DEFAULT;
    if (rounds >= LIMIT_MOVE_ROUNDS)
        rounds = LIMIT_MOVE_ROUNDS - 1; /* the last one is after the pause */
    p->plan = plan_init(options->downtime_ns ? options->downtime_ns : DOWNTIME_NS_DEFAULT, rounds);
    int error =
        page_batch_create(channel, p->memory, content_bytes(options->bandwidth), &p->batch, err);
    if (!error)
        error = dirty_start(machine, &p->dirty, err);
    if (!error) {
        p->words = dirty_words(p->dirty);
        p->bitmap = calloc(p->words, sizeof(*p->bitmap));
        p->fresh_bits = calloc(p->words, sizeof(*p->fresh_bits));
        if (!p->bitmap || !p->fresh_bits)
            error = ferry_fail(err, -ENOMEM, NULL, "out of memory");
    }
    if (error) {
        precopy_destroy(p);
        return error;
    }
    *out = p;
    return 0;
}

void precopy_destroy(struct precopy *p)
{
    if (!p)
        return;
    dirty_stop(p->dirty);
    page_batch_destroy(p->batch);
    free(p->bitmap);
    free(p->fresh_bits);
    free(p);
}

static void report(struct precopy *p, bool force)
{
    uint64_t now = monotonic_ns();

    if (!p->progress->report || (!force && now - p->reported_ns < REPORT_EVERY_NS))
        return;
    p->reported_ns = now;
    const struct progress_report r = {.phase = "ram",
                                      .round = p->round,
                                      .done_bytes = p->round_done,
                                      .total_bytes = p->round_total,
                                      .sent_bytes = channel_bytes_sent(p->channel),
                                      .rate_bytes_per_s = p->rate};
    p->progress->report(p->progress->opaque, &r);
}

/* Once enough has gone through to know the line: what will the whole take? */
static void predict(struct precopy *p)
{
    uint64_t now = monotonic_ns(), elapsed = now - p->round_started_ns;

    if (p->result->predicted_total_ns || p->round_done < PREDICT_AFTER_BYTES || !elapsed)
        return;
    p->rate = (uint64_t)((double)p->round_done * 1e9 / (double)elapsed);
    p->result->predicted_total_ns =
        now - p->started_ns +
        plan_downtime_ns(p->round_total - p->round_done, p->rate, HANDOVER_NS);
    p->result->predicted_downtime_ns = plan_downtime_ns(0, p->rate, HANDOVER_NS);
}

/* RAM [offset, +size) in steps, between which the rest of the world is looked at. */
static int send_range(struct precopy *p, uint64_t offset, uint64_t size, bool fresh,
                      struct ferry_error *err)
{
    while (size) {
        struct page_counts counts = {0};
        uint64_t step = size < MIB ? size : MIB;
        if (atomic_load(&p->progress->cancelled))
            return ferry_fail(err, -ECANCELED, NULL, "the move was cancelled");
        int error = page_batch_add(p->batch, offset, step, fresh, &counts, err);
        if (error)
            return error;
        p->result->bytes_raw += counts.raw_bytes;
        p->result->bytes_zero += counts.zero_bytes;
        p->round_done += step;
        offset += step;
        size -= step;
        predict(p);
        report(p, false);
    }
    return 0;
}

/* All RAM that has content.  What lies in holes was never touched and is not even read. */
static int send_everything(struct precopy *p, struct ferry_error *err)
{
    uint64_t start = 0, end = 0, covered = 0;
    int more;

    p->round_total = 0;
    while ((more = memory_next_data(p->memory, &start, &end)) > 0) {
        p->round_total += end - start;
        start = end;
    }
    for (start = 0; !more && (more = memory_next_data(p->memory, &start, &end)) > 0; more = 0) {
        int error = send_range(p, start, end - start, true, err);
        if (error)
            return error;
        covered += end - start;
        start = end;
    }
    if (more < 0)
        return ferry_fail_sys(err, more, NULL, "cannot find the guest's used RAM");
    p->result->bytes_absent = memory_size(p->memory) - covered;
    return 0;
}

/* The pages of the bitmap, neighbours together. */
static int send_bitmap(struct precopy *p, struct ferry_error *err)
{
    uint64_t pages = memory_size(p->memory) / MEMORY_PAGE_BYTES, first = 0;

    p->round_total = p->bitmap_bytes;
    while (first < pages) {
        uint64_t word = p->bitmap[first / 64] >> first % 64;
        if (!word) {
            first = (first / 64 + 1) * 64;
            continue;
        }
        first += (uint64_t)__builtin_ctzll(word);
        uint64_t end = first;
        while (end < pages && p->bitmap[end / 64] >> end % 64 & 1)
            end++;
        int error =
            send_range(p, first * MEMORY_PAGE_BYTES, (end - first) * MEMORY_PAGE_BYTES, false, err);
        if (error)
            return error;
        first = end;
    }
    return 0;
}

/* ROUND, and wait until all of it is in place over there. */
static int end_round(struct precopy *p, struct frame *said, struct ferry_error *err)
{
    struct writer w = writer_init(64);
    struct round_end done;

    int error = page_batch_flush(p->batch, err);
    if (error)
        return error;
    round_encode(&w, &(struct round_end){.round = p->round, .bytes = p->round_done});
    error = w.error ? w.error : channel_queue(p->channel, MESSAGE_ROUND, w.data, w.size, err);
    writer_free(&w);
    uint64_t asked = monotonic_ns();
    if (!error)
        error = channel_flush(p->channel, err);
    if (!error)
        error = channel_receive(p->channel, 0, said, err);
    if (error)
        return error;
    uint64_t rtt = monotonic_ns() - asked;
    if (rtt < p->rtt_ns)
        p->rtt_ns = rtt;
    if (said->type != MESSAGE_ROUND_DONE)
        return -ESHUTDOWN;
    if (round_done_decode(said, &done) || done.round != p->round)
        return ferry_refuse(err, -EBADMSG, NULL, "the destination lost count of the rounds");
    return 0;
}

static int one_round(struct precopy *p, struct frame *said, struct ferry_error *err)
{
    uint64_t began = p->round_started_ns = monotonic_ns();

    p->round++;
    p->round_done = 0;
    p->result->rounds = p->round;
    int error = p->round == 1 ? send_everything(p, err) : send_bitmap(p, err);
    if (!error)
        error = end_round(p, said, err);
    if (error)
        return error;
    uint64_t took = monotonic_ns() - began;
    /* A short round says little about the line. */
    if (p->round_done >= MIB && took)
        p->rate = (uint64_t)((double)p->round_done * 1e9 / (double)took);
    log_debug(p->log, "round %u: %llu KiB of RAM in %llu us, round trip %llu us", p->round,
              (unsigned long long)p->round_done / 1024, (unsigned long long)took / 1000,
              (unsigned long long)p->rtt_ns / 1000);
    report(p, true);
    return 0;
}

static int collect(struct precopy *p, struct ferry_error *err)
{
    uint64_t began = monotonic_ns();
    int64_t pages = dirty_collect(p->dirty, p->bitmap, err);

    if (pages < 0)
        return (int)pages;
    p->collect_ns = monotonic_ns() - began;
    p->bitmap_bytes = (uint64_t)pages * MEMORY_PAGE_BYTES;
    log_debug(p->log, "%llu KiB of RAM have been written meanwhile (asking took %llu us)",
              (unsigned long long)p->bitmap_bytes / 1024, (unsigned long long)p->collect_ns / 1000);
    return 0;
}

int precopy_run(struct precopy *p, struct frame *said, struct ferry_error *err)
{
    for (;;) {
        int error = one_round(p, said, err);
        if (!error)
            error = collect(p, err);
        if (error)
            return error;
        uint64_t rate = p->rate ? p->rate : GIB;
        uint64_t fixed = HANDOVER_NS + 2 * p->rtt_ns + p->collect_ns;
        if (plan_next(&p->plan, p->round, p->bitmap_bytes, rate, fixed) == PLAN_GO_ON)
            continue;
        p->result->predicted_downtime_ns = plan_downtime_ns(p->bitmap_bytes, rate, fixed);
        if (!p->result->predicted_total_ns)
            p->result->predicted_total_ns =
                monotonic_ns() - p->started_ns + p->result->predicted_downtime_ns;
        return 0;
    }
}

int precopy_finish(struct precopy *p, struct ferry_error *err)
{
    int64_t more = dirty_collect(p->dirty, p->fresh_bits, err);

    if (more < 0)
        return (int)more;
    p->bitmap_bytes = 0;
    for (uint64_t i = 0; i < p->words; i++) {
        p->bitmap[i] |= p->fresh_bits[i];
        p->bitmap_bytes += (uint64_t)__builtin_popcountll(p->bitmap[i]) * MEMORY_PAGE_BYTES;
    }
    p->round++;
    p->round_done = 0;
    p->result->rounds = p->round;
    int error = send_bitmap(p, err);
    return error ? error : page_batch_flush(p->batch, err);
}
