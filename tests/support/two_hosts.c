/* Two hosts in one process. */
#include "tests/support/two_hosts.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"

void two_hosts_open(struct two_hosts *t)
{
    *t = (struct two_hosts){0};
    for (int i = 0; i < 2; i++) {
        struct host *h = &t->host[i];
        snprintf(h->dir, sizeof(h->dir), "/tmp/ferry-host%d-XXXXXX", i);
        assert_non_null(mkdtemp(h->dir));
        snprintf(h->uri, sizeof(h->uri), "unix:%s/receive", h->dir);
        assert_int_equal(ticket_store_open(h->dir, &h->tickets, NULL), 0);
        payload_init(&h->payload, "moving");
    }
}

static void remove_folder(const char *path)
{
    DIR *dir = opendir(path);
    struct dirent *entry;

    while (dir && (entry = readdir(dir)))
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
            unlinkat(dirfd(dir), entry->d_name, 0);
    if (dir)
        closedir(dir);
    rmdir(path);
}

void two_hosts_close(struct two_hosts *t)
{
    for (int i = 0; i < 2; i++) {
        char tickets[96];
        if (!t->host[i].tickets)
            continue;
        payload_destroy(&t->host[i].payload);
        ticket_store_close(t->host[i].tickets);
        snprintf(tickets, sizeof(tickets), "%s/.tickets", t->host[i].dir);
        remove_folder(tickets);
        remove_folder(t->host[i].dir);
    }
    if (t->reference.machine)
        payload_destroy(&t->reference);
    free(t->said);
    *t = (struct two_hosts){0};
}

void must(int error, const struct ferry_error *err)
{
    char text[768];

    if (error)
        fail_msg("error %d: %s", error, ferry_error_text(err, text, sizeof(text)));
}

struct payload *two_hosts_guest(struct two_hosts *t)
{
    return &t->host[t->here].payload;
}

void two_hosts_start(struct two_hosts *t, unsigned cpus, const char *options)
{
    struct ferry_error err = {0};
    const char *why = payload_impossible();

    if (why) {
        print_message("SKIPPED: %s\n", why);
        skip();
    }
    two_hosts_open(t);
    t->cpus = cpus;
    t->options = options;
    two_hosts_guest(t)->config.cpus = cpus;
    must(payload_start(two_hosts_guest(t), options, &err), &err);
    assert_true(payload_wait(two_hosts_guest(t), "tick 2 "));
}

bool two_hosts_runs(const struct two_hosts *t, unsigned host)
{
    struct machine *machine = t->host[host].payload.machine;
    return machine && machine_is_running(machine);
}

void two_hosts_leave(struct two_hosts *t, unsigned host)
{
    struct payload *p = &t->host[host].payload;

    machine_destroy(p->machine);
    p->machine = NULL;
    char *more = realloc(t->said, t->said_size + p->size + 1);
    assert_non_null(more);
    t->said = more;
    memcpy(t->said + t->said_size, p->text ? p->text : "", p->size);
    t->said_size += p->size;
    t->said[t->said_size] = 0;
    p->size = 0;
    if (p->text)
        p->text[0] = 0;
}

/* The highest tick printed so far. */
static unsigned last_tick(struct two_hosts *t)
{
    struct payload *p = two_hosts_guest(t);
    LOCK_SCOPE(&p->lock);
    const char *texts[2] = {t->said, p->text};
    unsigned last = 0;

    for (int i = 0; i < 2; i++)
        for (const char *at = texts[i]; at && (at = strstr(at, "tick ")); at++) {
            unsigned tick = (unsigned)strtoul(at + 5, NULL, 10);
            last = tick > last ? tick : last;
        }
    return last;
}

void two_hosts_go_on(struct two_hosts *t)
{
    char text[32];

    snprintf(text, sizeof(text), "tick %u ", last_tick(t) + 2);
    assert_true(payload_wait(two_hosts_guest(t), text));
}

void two_hosts_match_undisturbed(struct two_hosts *t)
{
    struct ferry_error err = {0};
    unsigned last = last_tick(t) - 1;
    char text[32];

    two_hosts_leave(t, t->here);
    payload_init(&t->reference, "reference");
    t->reference.config.cpus = t->cpus;
    must(payload_start(&t->reference, t->options, &err), &err);
    snprintf(text, sizeof(text), "tick %u ", last + 1);
    assert_true(payload_wait(&t->reference, text));
    const char *at = t->said;
    for (unsigned tick = 1; tick <= last; tick++) {
        char *expected = payload_tick(&t->reference, tick);
        assert_non_null(expected);
        snprintf(text, sizeof(text), "tick %u ", tick);
        at = strstr(at, text);
        assert_non_null(at);
        if (strncmp(at, expected, strlen(expected)))
            fail_msg("expected %s, the moved guest said %.100s", expected, at);
        free(expected);
    }
    assert_null(strstr(t->said, "DAMAGED"));
    assert_null(strstr(t->said, "BACKWARDS"));
    print_message("%u ticks are those of an undisturbed guest\n", last);
}

static int create(void *opaque, struct machine_config *config, struct machine **out,
                  struct ferry_error *err)
{
    struct host *h = opaque;
    struct machine_host host;

    if (h->refuse)
        return ferry_refuse(err, -EPERM, NULL, "%s", h->refuse);
    h->payload.config = *config;
    int error = payload_host(&h->payload, config, &host, err);
    return error ? error : machine_create(config, &host, out, err);
}

static int serve_one(struct arrival *a, bool faulty)
{
    CLEANUP(stream_cleanup) struct stream *plain = NULL, *stream = NULL;
    const struct receive_host host = {.opaque = a->host,
                                      .create = create,
                                      .tickets = a->host->tickets,
                                      .timeout_ns = a->timeout_ns};
    struct machine *machine = NULL;

    int error = listener_accept(a->listener, &plain, &a->err);
    if (!error)
        error = faulty_stream_create(take_ptr(&plain), a->faults, faulty ? a->fault_count : 0,
                                     &stream, &a->err);
    if (error)
        return error;
    error = migrate_in(stream, &host, &a->progress, &machine, &a->result, &a->err);
    if (machine)
        a->host->payload.machine = machine;
    a->frames[FAULT_WRITING] = faulty_stream_frames(stream, FAULT_WRITING);
    a->frames[FAULT_READING] = faulty_stream_frames(stream, FAULT_READING);
    return error;
}

static void *serve(void *opaque)
{
    struct arrival *a = opaque;

    for (unsigned i = 0; i < a->connections; i++)
        a->error = serve_one(a, i == 0);
    return NULL;
}

void arrival_start(struct arrival *a, struct host *host, const struct fault *faults,
                   unsigned fault_count, unsigned connections, uint64_t timeout_ns)
{
    struct ferry_error err = {0};

    *a = (struct arrival){.host = host,
                          .faults = faults,
                          .fault_count = fault_count,
                          .connections = connections,
                          .timeout_ns = timeout_ns};
    if (listener_open(host->uri, false, &a->listener, &err))
        fail_msg("%s", err.message);
    /* The port that the kernel has chosen. */
    snprintf(host->uri, sizeof(host->uri), "%s", listener_uri(a->listener));
    assert_int_equal(pthread_create(&a->thread, NULL, serve, a), 0);
}

void arrival_join(struct arrival *a)
{
    pthread_join(a->thread, NULL);
    listener_close(a->listener);
}

struct migrate_options move_options(struct two_hosts *t, uint64_t timeout_ns)
{
    return (struct migrate_options){.uri = t->host[!t->here].uri,
                                    .timeout_ns = timeout_ns,
                                    .tickets = t->host[t->here].tickets};
}

int move_once(struct two_hosts *t, struct arrival *a, const struct fault *faults,
              unsigned fault_count, struct migrate_options *options, struct progress *progress,
              struct migrate_result *result, struct ferry_error *err)
{
    arrival_start(a, &t->host[!t->here], faults, fault_count, 1, options->timeout_ns);
    int error = migrate_out(t->host[t->here].payload.machine, options, progress, result, err);
    arrival_join(a);
    return error;
}
