/*
 * Images that are whole, with every sum right, but do not hold what a machine needs: a real
 * snapshot is read, changed, and written again.  All must be refused, and nothing may break.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "imagefmt/image.h"
#include "snapshot/snapshot.h"
#include "tests/support/image_sample.h"
#include "tests/support/payload_machine.h"

#define MOST_STATES 64

/* A snapshot taken apart.  RAM is kept as its non-zero chunks at their places. */
struct parts {
    char *manifest;
    unsigned states;
    struct image_section state[MOST_STATES];
    uint8_t *state_data[MOST_STATES];
    uint64_t ram_size;
    uint8_t *ram;
};

static struct parts parts;

static int take_manifest(void *opaque, const char *json, size_t size, struct ferry_error *err)
{
    (void)err;
    ((struct parts *)opaque)->manifest = strndup(json, size);
    return 0;
}

static int take_state(void *opaque, const struct image_section *section, const uint8_t *data,
                      struct ferry_error *err)
{
    struct parts *p = opaque;

    (void)err;
    assert_true(p->states < MOST_STATES);
    p->state[p->states] = *section;
    p->state_data[p->states] = malloc(section->size + 1);
    memcpy(p->state_data[p->states], data, section->size);
    p->states++;
    return 0;
}

static int take_begin(void *opaque, const struct image_section *section, struct ferry_error *err)
{
    struct parts *p = opaque;

    (void)err;
    p->ram_size = section->size;
    p->ram = calloc(1, section->size);
    return 0;
}

static int take_chunk(void *opaque, const struct image_section *section, uint64_t offset,
                      const uint8_t *data, size_t size, struct ferry_error *err)
{
    (void)section;
    (void)err;
    memcpy(((struct parts *)opaque)->ram + offset, data, size);
    return 0;
}

static void take_apart(int fd)
{
    static const struct image_visitor visitor = {
        .manifest = take_manifest, .state = take_state, .begin = take_begin, .chunk = take_chunk};

    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    assert_int_equal(image_read(fd, "image", NULL, 0, &visitor, &parts, NULL, NULL), 0);
}

/* What to change when putting it together; defaults (all zero): nothing. */
struct change {
    const char *from, *to; /* in the manifest, first occurrence */
    const char *manifest;  /* instead of it */
    int drop_state;        /* number of a state section, from 1 */
    int rename_state;
    bool drop_ram;
    uint64_t ram_size; /* another one */
    bool extra_disk;
};

static char *changed_manifest(const struct change *c)
{
    const char *text = c->manifest ? c->manifest : parts.manifest;
    const char *at = c->from ? strstr(text, c->from) : NULL;
    char *out = NULL;

    if (!c->from)
        return strdup(text);
    if (!at)
        fail_msg("no '%s' in %s", c->from, text);
    assert_true(asprintf(&out, "%.*s%s%s", (int)(at - text), text, c->to, at + strlen(c->from)) >
                0);
    return out;
}

static void put_states(struct image_writer *w, const struct change *c)
{
    for (unsigned i = 0; i < parts.states; i++) {
        int number = (int)i + 1;
        if (number == c->drop_state)
            continue;
        assert_int_equal(
            image_writer_state(w, number == c->rename_state ? "bogus7" : parts.state[i].name,
                               parts.state[i].version, parts.state_data[i], parts.state[i].size,
                               NULL),
            0);
    }
}

static void put_ram(struct image_writer *w, uint64_t size)
{
    assert_int_equal(image_writer_begin(w, IMAGE_RAM, "ram", size, IMAGE_RAM_CHUNK_BYTES, NULL), 0);
    for (uint64_t at = 0; at < size && at < parts.ram_size; at += IMAGE_RAM_CHUNK_BYTES)
        assert_int_equal(image_writer_chunk(w, at / IMAGE_RAM_CHUNK_BYTES, parts.ram + at, NULL),
                         0);
    assert_int_equal(image_writer_end(w, NULL), 0);
}

static int put_together(const struct change *c)
{
    int fd = memfd_create("image", MFD_CLOEXEC);
    CLEANUP_FREE char *manifest = changed_manifest(c);
    struct image_writer *w;

    assert_int_equal(image_writer_create(fd, NULL, manifest, strlen(manifest), &w, NULL), 0);
    put_states(w, c);
    if (!c->drop_ram)
        put_ram(w, c->ram_size ? c->ram_size : parts.ram_size);
    if (c->extra_disk) {
        assert_int_equal(
            image_writer_begin(w, IMAGE_DISK, "vdz", 4096, IMAGE_DISK_CHUNK_BYTES, NULL), 0);
        assert_int_equal(image_writer_end(w, NULL), 0);
    }
    assert_int_equal(image_writer_finish(w, NULL, NULL), 0);
    image_writer_destroy(w);
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    return fd;
}

static int load(const struct change *c, struct ferry_error *err)
{
    CLEANUP_FD int fd = put_together(c);
    struct payload p;
    struct restore_result result;

    *err = (struct ferry_error){0};
    payload_init(&p, "altered");
    int error = payload_restore(&p, fd, NULL, &result, err);
    if (error)
        assert_null(p.machine);
    payload_destroy(&p);
    return error;
}

static void refused(const struct change *c, const char *what)
{
    struct ferry_error err;
    char text[768];
    int error = load(c, &err);

    ferry_error_text(&err, text, sizeof(text));
    if (!error || err.kind != FERRY_REFUSED || !strstr(text, what))
        fail_msg("error %d, kind %d: '%s', wanted '%s'", error, (int)err.kind, text, what);
}

static int setup(void **state)
{
    struct payload p;
    struct snapshot_result result;
    struct ferry_error err = {0};
    CLEANUP_FD int fd = memfd_create("image", MFD_CLOEXEC);

    (void)state;
    if (payload_impossible())
        return 0;
    payload_init(&p, "altered");
    p.config.memory_bytes = 16 * MIB;
    if (payload_start(&p, "ticks=0 fill=1 ws=1", &err) || !payload_wait(&p, "tick 1 ") ||
        snapshot_save_fd(p.machine, fd, NULL, NULL, &result, &err))
        return -1;
    payload_destroy(&p);
    take_apart(fd);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (unsigned i = 0; i < parts.states; i++)
        free(parts.state_data[i]);
    free(parts.manifest);
    free(parts.ram);
    return 0;
}

static void need_payload(void)
{
    const char *why = payload_impossible();

    if (!why)
        return;
    print_message("SKIPPED: %s\n", why);
    skip();
}

static void test_unchanged(void **state)
{
    struct ferry_error err;

    (void)state;
    need_payload();
    assert_int_equal(load(&(struct change){0}, &err), 0);
}

static void test_states(void **state)
{
    (void)state;
    need_payload();
    for (int i = 1; i <= (int)parts.states; i++) {
        const char *name = parts.state[i - 1].name;
        refused(&(struct change){.drop_state = i}, name);
        refused(&(struct change){.rename_state = i}, "bogus7");
    }
}

static void test_ram(void **state)
{
    (void)state;
    need_payload();
    refused(&(struct change){.drop_ram = true}, "holds no RAM");
    refused(&(struct change){.ram_size = 8 * MIB}, "ram has 8388608 bytes");
    refused(&(struct change){.ram_size = 512 * GIB}, "ram has 549755813888 bytes");
    refused(&(struct change){.extra_disk = true}, "knows nothing of disk vdz");
}

static void test_manifest(void **state)
{
    CLEANUP_FREE char *deep = malloc(20001);
    static const struct change changes[] = {
        {.manifest = ""},
        {.manifest = "[]"},
        {.manifest = "{}"},
        {.manifest = "{\"format\": \"ferry machine\"}"},
        {.manifest = "{\"format\": \"ferry machine\", \"version\": 1}"},
        {.from = "\"ferry machine\"", .to = "\"ferry disk\""},
        {.from = "\"version\":1", .to = "\"version\":2"},
        {.from = "\"version\":1", .to = "\"version\":-1"},
        {.from = "\"version\":1", .to = "\"version\":\"1\""},
        {.from = "\"realtime_ns\":", .to = "\"realtime_ns\":-"},
        {.from = "\"realtime_ns\"", .to = "\"sometime_ns\""},
        {.from = "\"disks\":[]}", .to = "\"disks\":[{}]}"},
        {.from = "\"disks\":[]}", .to = "\"disks\":{}}"},
        {.from = "\"cpus\":1", .to = "\"cpus\":100000"},
        {.from = "\"cpus\":1", .to = "\"cpus\":0"},
        {.from = "\"cpus\":1", .to = "\"cpus\":2"},
        {.from = "\"memory_bytes\":16777216", .to = "\"memory_bytes\":16777217"},
        {.from = "\"memory_bytes\":16777216", .to = "\"memory_bytes\":-1"},
        {.from = "\"memory_bytes\":16777216", .to = "\"memory_bytes\":9000000000000000000"},
        {.from = "\"name\":\"altered\"", .to = "\"name\":\"../../etc\""},
        {.from = "\"name\":\"altered\"", .to = "\"name\":7"},
    };

    (void)state;
    need_payload();
    for (size_t i = 0; i < sizeof(changes) / sizeof(*changes); i++)
        refused(&changes[i], "");
    refused(&(struct change){.from = "\"version\":1", .to = "\"version\":2"},
            "version 2 is newer than this ferry");
    memset(deep, '[', 10000);
    memset(deep + 10000, ']', 10000);
    deep[20000] = 0;
    refused(&(struct change){.manifest = deep}, "too deep");
}

/* State of random damage behind right sums: refused or loaded, never worse. */
static void test_random_state(void **state)
{
    uint64_t seed = 2026;
    unsigned loaded = 0;

    (void)state;
    need_payload();
    for (unsigned round = 0; round < 60; round++) {
        unsigned i = (unsigned)(sample_random(&seed) % parts.states);
        if (!parts.state[i].size)
            continue;
        uint8_t *byte = parts.state_data[i] + sample_random(&seed) % parts.state[i].size;
        uint8_t old = *byte;
        struct ferry_error err;
        *byte ^= (uint8_t)(1u << sample_random(&seed) % 8);
        int error = load(&(struct change){0}, &err);
        loaded += !error;
        *byte = old;
    }
    print_message("%u of 60 loaded\n", loaded);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unchanged),    cmocka_unit_test(test_states),
        cmocka_unit_test(test_ram),          cmocka_unit_test(test_manifest),
        cmocka_unit_test(test_random_state),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
