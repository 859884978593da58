/*
 * Disks of a machine that runs: the payload guest writes to its disk all the time, in a way that
 * shows of any copy whether it is of one instant, while the disk is read, slowly or not at all.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "imagefmt/image.h"
#include "snapshot/live_disks.h"
#include "snapshot/unpack.h"
#include "tests/support/image_sample.h"
#include "tests/support/payload_machine.h"

/* As tests/guest/disk.c has it. */
#define SLOT_BYTES 4096u
#define SLOT_WORDS 512u
#define SLOTS      4096u
#define WRITES     50u /* a tick */
#define OPTIONS    "ticks=0 fill=1 ws=1 period=10 disk=4096 writes=50"

#define DISK_BYTES (24 * MIB + 512)

struct bench {
    char folder[64], disk[96], image[96];
    uint8_t *first; /* content before the guest */
    struct payload payload;
};

static void succeeds(int error, const struct ferry_error *err)
{
    char text[768];

    if (error)
        fail_msg("error %d: %s", error, ferry_error_text(err, text, sizeof(text)));
}

/* A guest at work on a disk of random bytes with some holes in it. */
static void begin(struct bench *b)
{
    struct payload *p = &b->payload;
    struct ferry_error err = {0};
    uint64_t seed = 9;
    const char *why = payload_impossible();

    if (why) {
        print_message("SKIPPED: %s\n", why);
        skip();
    }
    snprintf(b->folder, sizeof(b->folder), "/tmp/ferry-live-XXXXXX");
    assert_non_null(mkdtemp(b->folder));
    snprintf(b->disk, sizeof(b->disk), "%s/disk.raw", b->folder);
    snprintf(b->image, sizeof(b->image), "%s/image", b->folder);
    CLEANUP_FD int fd = open(b->disk, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)DISK_BYTES), 0);
    assert_non_null(b->first = calloc(1, DISK_BYTES));
    for (size_t at = 0; at + MIB <= DISK_BYTES; at += MIB) {
        if (at / MIB % 5 == 4)
            continue;
        for (size_t i = at; i < at + MIB; i += 8) {
            uint64_t word = sample_random(&seed);
            memcpy(b->first + i, &word, 8);
        }
        assert_int_equal(pwrite_all(fd, b->first + at, MIB, at), 0);
    }
    payload_init(p, "busy");
    p->disks[0] = b->disk;
    p->config.disk_count = 1;
    p->config.disks[0] = (struct disk_config){.device = "vda", .size_bytes = DISK_BYTES};
    snprintf(p->config.disks[0].file_name, sizeof(p->config.disks[0].file_name), "disk.raw");
    succeeds(payload_start(p, OPTIONS, &err), &err);
    assert_true(payload_wait(p, "tick 5 "));
}

static void end(struct bench *b)
{
    unlink(b->disk);
    unlink(b->image);
    assert_int_equal(rmdir(b->folder), 0);
    free(b->first);
}

static unsigned last_tick(struct payload *p)
{
    LOCK_SCOPE(&p->lock);
    unsigned tick = 0;

    for (const char *line = p->text; (line = strstr(line, "\ntick ")); line++)
        if (sscanf(line, "\ntick %u ", &tick) != 1)
            break;
    return tick;
}

/* Wait for so many more ticks: the guest is at work. */
static unsigned goes_on(struct payload *p, unsigned ticks)
{
    unsigned tick = last_tick(p) + ticks;
    char text[32];

    snprintf(text, sizeof(text), "tick %u ", tick);
    assert_true(payload_wait(p, text));
    return tick;
}

/* Every tick is there, once, and its sums are good. */
static void loses_no_tick(struct payload *p)
{
    LOCK_SCOPE(&p->lock);
    unsigned expected = 1, tick;

    for (const char *line = p->text; (line = strstr(line, "\ntick ")); line++)
        if (sscanf(line, "\ntick %u ", &tick) == 1)
            assert_int_equal(tick, expected++);
    assert_null(strstr(p->text, "DAMAGED"));
    assert_null(strstr(p->text, "BACKWARDS"));
    assert_null(strstr(p->text, "DISK WRITE LOST"));
}

/* ---- What the guest wrote ---- */

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

static bool is_write(const uint64_t *slot, uint64_t n)
{
    for (unsigned i = 1; i < SLOT_WORDS; i++)
        if (slot[i] != mix(n * SLOT_WORDS + i))
            return false;
    return slot[0] == n;
}

/* The number of writes after which the disk was like this; fails if there is no such number. */
static uint64_t instant_of(const struct bench *b, const uint8_t *content)
{
    CLEANUP_FREE uint64_t *last = calloc(SLOTS, sizeof(*last));
    uint64_t n = 0;

    assert_non_null(last);
    for (unsigned slot = 0; slot < SLOTS; slot++) {
        uint64_t number;
        memcpy(&number, content + (size_t)slot * SLOT_BYTES, sizeof(number));
        if (number < 1 << 24 && mix(number) % SLOTS == slot && number > n)
            n = number;
    }
    for (uint64_t i = 1; i <= n; i++)
        last[mix(i) % SLOTS] = i;
    for (unsigned slot = 0; slot < SLOTS; slot++) {
        uint64_t words[SLOT_WORDS];
        memcpy(words, content + (size_t)slot * SLOT_BYTES, sizeof(words));
        if (last[slot] ? !is_write(words, last[slot])
                       : memcmp(words, b->first + (size_t)slot * SLOT_BYTES, SLOT_BYTES) != 0)
            fail_msg("of %llu writes, slot %u has not the last: %llu", (unsigned long long)n, slot,
                     (unsigned long long)last[slot]);
    }
    size_t rest = (size_t)SLOTS * SLOT_BYTES;
    assert_memory_equal(content + rest, b->first + rest, DISK_BYTES - rest);
    return n;
}

static uint64_t instant_of_image(struct bench *b)
{
    CLEANUP(image_cleanup) struct image *image = NULL;
    CLEANUP_FREE uint8_t *content = malloc(DISK_BYTES);
    CLEANUP_FREE struct machine_config *config = calloc(1, sizeof(*config));
    struct image_summary summary;
    struct ferry_error err = {0};
    CLEANUP_FD int fd = open(b->image, O_RDONLY | O_CLOEXEC);

    succeeds(image_read(fd, "image", NULL, 0, &(struct image_visitor){0}, NULL, &summary, &err),
             &err);
    succeeds(image_open(fd, "image", NULL, &image, &err), &err);
    succeeds(unpack_machine(image, "image", config, &err), &err);
    assert_string_equal(config->name, "busy");
    int64_t section = image_find(image, IMAGE_DISK, "vda");
    assert_true(section >= 0);
    assert_int_equal(image_find(image, IMAGE_RAM, "ram"), -1);
    succeeds(image_pread(image, (uint32_t)section, 0, content, DISK_BYTES, &err), &err);
    return instant_of(b, content);
}

static uint64_t instant_of_disk(const struct bench *b)
{
    CLEANUP_FREE uint8_t *content = NULL;
    size_t size;

    assert_int_equal(file_read(b->disk, GIB, &content, &size, NULL), 0);
    assert_int_equal(size, DISK_BYTES);
    return instant_of(b, content);
}

/* ---- A snapshot into a pipe, on a thread of its own ---- */

struct saving {
    struct machine *machine;
    struct snapshot_options options;
    struct progress progress;
    int fds[2];
    struct snapshot_result result;
    int error;
    struct ferry_error err;
    pthread_t thread;
};

static void *save(void *opaque)
{
    struct saving *s = opaque;

    s->error = snapshot_save_disks_fd(s->machine, s->fds[1], &s->options, &s->progress, &s->result,
                                      &s->err);
    close(s->fds[1]);
    return NULL;
}

/* Returns when the instant has passed: the image has begun to come. */
static void start_saving(struct saving *s, struct bench *b, uint64_t store_bytes, char *byte)
{
    *s = (struct saving){.machine = b->payload.machine, .options.store_bytes = store_bytes};
    assert_int_equal(pipe2(s->fds, O_CLOEXEC), 0);
    assert_int_equal(pthread_create(&s->thread, NULL, save, s), 0);
    assert_int_equal(read(s->fds[0], byte, 1), 1);
}

static void end_saving(struct saving *s, struct bench *b, char byte)
{
    char data[65536];
    ssize_t got;
    CLEANUP_FD int fd = open(b->image, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_int_equal(write_all(fd, &byte, 1), 0);
    while ((got = read(s->fds[0], data, sizeof(data))) > 0)
        assert_int_equal(write_all(fd, data, (size_t)got), 0);
    pthread_join(s->thread, NULL);
    close(s->fds[0]);
}

/* ---- Tests ---- */

static void test_one_instant(void **state)
{
    struct bench b;
    struct saving s;
    struct ferry_error err = {0};
    char byte;

    (void)state;
    begin(&b);
    start_saving(&s, &b, 0, &byte);
    uint64_t passed = last_tick(&b.payload);
    unsigned tick = goes_on(&b.payload, 60); /* nobody reads meanwhile */
    end_saving(&s, &b, byte);
    succeeds(s.error, &s.err);
    assert_true(machine_is_running(b.payload.machine));
    assert_true(s.result.pause_ns > 0 && s.result.pause_ns < s.result.total_ns);
    assert_true(s.result.copied_bytes > MIB);
    uint64_t then = instant_of_image(&b);
    print_message("paused for %llu us, %llu KiB copied, %llu of %u writes in the image\n",
                  (unsigned long long)s.result.pause_ns / 1000,
                  (unsigned long long)s.result.copied_bytes / 1024, (unsigned long long)then,
                  tick * WRITES);
    assert_true(then >= UINT64_C(5) * WRITES && then <= (passed + UINT64_C(2)) * WRITES);
    goes_on(&b.payload, 5);
    succeeds(machine_pause(b.payload.machine, &err), &err);
    loses_no_tick(&b.payload);
    payload_destroy(&b.payload);
    assert_true(instant_of_disk(&b) >= (uint64_t)tick * WRITES);
    end(&b);
}

/* At full speed, in small chunks and without any room to speak of: the guest may wait. */
static void test_one_after_another(void **state)
{
    struct bench b;
    struct snapshot_options options = {.store_bytes = 2 * MIB, .level = -5};
    struct snapshot_result result;
    struct ferry_error err = {0};
    uint64_t before = 0;

    (void)state;
    begin(&b);
    for (unsigned round = 0; round < 4; round++) {
        options.disk_chunk_bytes = round % 2 ? 16 * KIB : 0;
        succeeds(snapshot_save_disks(b.payload.machine, b.image, &options, NULL, &result, &err),
                 &err);
        uint64_t then = instant_of_image(&b);
        assert_true(then >= before);
        before = then;
    }
    goes_on(&b.payload, 5);
    succeeds(machine_pause(b.payload.machine, &err), &err);
    loses_no_tick(&b.payload);
    /* of a machine that stands still: it is left so */
    succeeds(snapshot_save_disks(b.payload.machine, b.image, &options, NULL, &result, &err), &err);
    assert_false(machine_is_running(b.payload.machine));
    assert_int_equal(result.pause_ns, 0);
    assert_int_equal(result.copied_bytes, 0);
    uint64_t still = instant_of_image(&b);
    payload_destroy(&b.payload);
    assert_int_equal(instant_of_disk(&b), still);
    end(&b);
}

/* Nobody takes the image: it is given up, not the guest. */
static void test_stuck_pipe(void **state)
{
    struct bench b;
    struct saving s;
    char byte;

    (void)state;
    begin(&b);
    start_saving(&s, &b, MIB, &byte);
    goes_on(&b.payload, 40); /* more than there is room for: it has waited and goes on */
    end_saving(&s, &b, byte);
    assert_int_equal(s.error, -ETIMEDOUT);
    assert_non_null(strstr(s.err.message, "the guest had waited"));
    goes_on(&b.payload, 5);
    loses_no_tick(&b.payload);
    payload_destroy(&b.payload);
    instant_of_disk(&b);
    end(&b);
}

static void test_cancelled(void **state)
{
    struct bench b;
    struct saving s;
    struct ferry_error err = {0};
    char byte;

    (void)state;
    begin(&b);
    start_saving(&s, &b, 0, &byte);
    atomic_store(&s.progress.cancelled, true);
    end_saving(&s, &b, byte);
    assert_int_equal(s.error, -ECANCELED);
    goes_on(&b.payload, 5);
    struct snapshot_options options = {.disk_chunk_bytes = 3000};
    struct snapshot_result result;
    assert_int_equal(snapshot_save_disks(b.payload.machine, b.image, &options, NULL, &result, &err),
                     -EINVAL);
    assert_int_equal(err.kind, FERRY_USAGE);
    assert_int_equal(snapshot_save_disks(b.payload.machine, b.disk, &options, NULL, &result, &err),
                     -EBUSY);
    options = (struct snapshot_options){.store_bytes = 1};
    assert_int_equal(snapshot_save_disks(b.payload.machine, b.image, &options, NULL, &result, &err),
                     -EINVAL);
    goes_on(&b.payload, 5);
    loses_no_tick(&b.payload);
    payload_destroy(&b.payload);
    instant_of_disk(&b);
    end(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_instant),
        cmocka_unit_test(test_one_after_another),
        cmocka_unit_test(test_stuck_pipe),
        cmocka_unit_test(test_cancelled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
