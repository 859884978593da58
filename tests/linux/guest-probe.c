/*
 * guest-probe: what the Linux guest under test runs where a shell would be too coarse.
 *
 *   count FILE    for ever: keep memory, a file on disk and clocks under watch, a line a tick
 *   expect N      what `count` prints for ticks 1..N, less what depends on time
 *   roundtrip FILE MiB | block DEV | discard DEV | zeroout DEV | readonly DEV | button
 *
 * Static, without any library but libc; it never reads what it just wrote from the page cache
 * where the disk is meant (O_DIRECT).
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/poll.h>
#include <time.h>
#include <unistd.h>

#include <linux/fs.h>
#include <linux/input.h>

#define PAGE           4096u
#define MEMORY_BYTES   (24u << 20)
#define TOUCHED_A_TICK 256u
#define RECORDS        64u /* of a page each: the journal is a ring */
#define TICK_NS        200000000
#define BLOCK_BYTES    (1u << 20)

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

static uint64_t sum(const void *data, size_t bytes)
{
    const uint64_t *words = data;
    uint64_t a = bytes;
    for (size_t i = 0; i < bytes / 8; i++)
        a = (a ^ words[i]) * 0x9e3779b97f4a7c15;
    return mix(a);
}

static void pattern(void *data, size_t bytes, uint64_t seed)
{
    uint64_t *words = data;
    for (size_t i = 0; i < bytes / 8; i++)
        words[i] = mix(seed + i);
}

static int failed(const char *what)
{
    printf("%s: %s\n", what, strerror(errno));
    return 1;
}

static void *pages(size_t bytes)
{
    void *data = aligned_alloc(PAGE, bytes);
    if (!data) {
        printf("out of memory\n");
        exit(1);
    }
    return data;
}

/* ---- count ---- */

struct counter {
    uint64_t *memory;
    uint8_t *journal; /* what the file must hold */
    uint64_t records; /* written so far */
};

static atomic_uint_fast64_t worst_gap_ns, steps_back;

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* A thread that only looks at the clock: the longest time between two looks is a pause. */
static void *watch_clock(void *unused)
{
    uint64_t last = now_ns();
    for (;;) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        uint64_t now = now_ns();
        if (now < last)
            atomic_fetch_add(&steps_back, 1);
        else if (now - last > atomic_load(&worst_gap_ns))
            atomic_store(&worst_gap_ns, now - last);
        last = now;
    }
    return unused;
}

static void counter_init(struct counter *c)
{
    c->memory = pages(MEMORY_BYTES);
    c->journal = pages((size_t)RECORDS * PAGE);
    c->records = 0;
    pattern(c->memory, MEMORY_BYTES, 1);
    memset(c->journal, 0, (size_t)RECORDS * PAGE);
}

static void touch_memory(struct counter *c, uint64_t tick)
{
    for (uint64_t i = 0; i < TOUCHED_A_TICK; i++) {
        uint64_t random = mix(tick << 20 | i);
        uint64_t *word = &c->memory[random % (MEMORY_BYTES / 8)];
        *word = mix(*word + random);
    }
}

static void put_state(const struct counter *c, uint64_t tick, uint64_t disk)
{
    printf("guest: tick %llu mem=%016llx disk=%016llx", (unsigned long long)tick,
           (unsigned long long)sum(c->memory, MEMORY_BYTES), (unsigned long long)disk);
}

static void next_record(struct counter *c, uint64_t tick, uint8_t **record)
{
    *record = c->journal + tick % RECORDS * PAGE;
    pattern(*record, PAGE, tick * 1000003);
    c->records++;
}

static int expect(uint64_t ticks)
{
    struct counter c;
    uint8_t *record;
    counter_init(&c);
    for (uint64_t tick = 1; tick <= ticks; tick++) {
        touch_memory(&c, tick);
        next_record(&c, tick, &record);
        put_state(&c, tick, sum(c.journal, (size_t)RECORDS * PAGE));
        printf("\n");
    }
    return 0;
}

/* Both descriptors stay open for ever: they must survive what happens to the machine. */
static int count(const char *path)
{
    struct counter c;
    pthread_t thread;
    uint8_t *record, *seen = pages((size_t)RECORDS * PAGE);
    int writer = open(path, O_CREAT | O_TRUNC | O_RDWR, 0600);
    int reader = open(path, O_RDONLY | O_DIRECT);

    if (writer < 0 || reader < 0)
        return failed(path);
    counter_init(&c);
    if (write(writer, c.journal, (size_t)RECORDS * PAGE) != (ssize_t)(RECORDS * PAGE))
        return failed(path);
    if (pthread_create(&thread, NULL, watch_clock, NULL))
        return failed("thread");
    uint64_t start = now_ns();
    for (uint64_t tick = 1;; tick++) {
        touch_memory(&c, tick);
        next_record(&c, tick, &record);
        if (pwrite(writer, record, PAGE, record - c.journal) != PAGE || fdatasync(writer))
            return failed("guest: journal");
        if (pread(reader, seen, (size_t)RECORDS * PAGE, 0) != (ssize_t)(RECORDS * PAGE))
            return failed("guest: journal, reading");
        put_state(&c, tick, sum(seen, (size_t)RECORDS * PAGE));
        uint64_t gap = atomic_exchange(&worst_gap_ns, 0);
        printf(" | up_ms=%llu gap_us=%llu back=%llu%s\n",
               (unsigned long long)(now_ns() - start) / 1000000, (unsigned long long)gap / 1000,
               (unsigned long long)atomic_load(&steps_back),
               memcmp(seen, c.journal, (size_t)RECORDS * PAGE) ? " DISK DAMAGED" : "");
        fflush(stdout);
        nanosleep(&(struct timespec){.tv_nsec = TICK_NS}, NULL);
    }
}

/* ---- single checks of a disk ---- */

static int roundtrip(const char *path, size_t mib)
{
    size_t bytes = mib << 20;
    uint8_t *data = pages(bytes), *back = pages(bytes);
    int fd = open(path, O_CREAT | O_TRUNC | O_RDWR, 0600);
    int direct = open(path, O_RDONLY | O_DIRECT);
    pattern(data, bytes, 77);
    if (fd < 0 || direct < 0 || write(fd, data, bytes) != (ssize_t)bytes || fsync(fd))
        return failed(path);
    if (pread(direct, back, bytes, 0) != (ssize_t)bytes)
        return failed("reading back");
    if (memcmp(data, back, bytes)) {
        printf("what was written is not what was read\n");
        return 1;
    }
    return 0;
}

static int open_block(const char *path, uint64_t *bytes)
{
    int fd = open(path, O_RDWR | O_DIRECT);
    if (fd < 0 || ioctl(fd, BLKGETSIZE64, bytes))
        return -1;
    return fd;
}

/* Different sizes at different offsets, the last one at the disk's end. */
static int block(const char *path)
{
    static const size_t sizes[] = {512, 4096, 65536, BLOCK_BYTES};
    uint8_t *data = pages(BLOCK_BYTES), *back = pages(BLOCK_BYTES);
    uint64_t total;
    int fd = open_block(path, &total);
    if (fd < 0)
        return failed(path);
    for (unsigned i = 0; i < 4; i++) {
        uint64_t where[] = {UINT64_C(512) * (i + 1), total / 2, total - sizes[i]};
        for (unsigned j = 0; j < 3; j++) {
            pattern(data, sizes[i], i * 10 + j);
            if (pwrite(fd, data, sizes[i], (off_t)where[j]) != (ssize_t)sizes[i] || fsync(fd))
                return failed("write");
            memset(back, 0, sizes[i]);
            if (pread(fd, back, sizes[i], (off_t)where[j]) != (ssize_t)sizes[i])
                return failed("read");
            if (memcmp(data, back, sizes[i])) {
                printf("%zu bytes at %llu differ\n", sizes[i], (unsigned long long)where[j]);
                return 1;
            }
        }
    }
    return 0;
}

/* Discard or zero a range in the middle of data: the range must read as zero (a discard need not,
 * but ferry's does), its neighbours must stay. */
static int clear_range(const char *path, unsigned long request)
{
    uint8_t *data = pages(BLOCK_BYTES), *back = pages(BLOCK_BYTES);
    uint64_t total, range[2] = {BLOCK_BYTES + BLOCK_BYTES / 4, BLOCK_BYTES / 2};
    int fd = open_block(path, &total);
    if (fd < 0)
        return failed(path);
    pattern(data, BLOCK_BYTES, 5);
    if (pwrite(fd, data, BLOCK_BYTES, BLOCK_BYTES) != BLOCK_BYTES)
        return failed("write");
    if (ioctl(fd, request, range))
        return failed("ioctl");
    memset(data + BLOCK_BYTES / 4, 0, BLOCK_BYTES / 2);
    if (pread(fd, back, BLOCK_BYTES, BLOCK_BYTES) != BLOCK_BYTES)
        return failed("read");
    if (memcmp(data, back, BLOCK_BYTES)) {
        printf("the range is not zero, or its neighbours changed\n");
        return 1;
    }
    return 0;
}

static int readonly(const char *path)
{
    uint8_t *data = pages(PAGE);
    int fd = open(path, O_RDWR | O_DIRECT);
    if (fd >= 0 && pwrite(fd, data, PAGE, 0) == PAGE) {
        printf("a write went through\n");
        return 1;
    }
    return 0;
}

/* Returns when KEY_POWER was pressed on any input device. */
static int button(void)
{
    struct pollfd fds[16];
    nfds_t count = 0;
    for (int i = 0; i < 16; i++) {
        char path[32];
        snprintf(path, sizeof(path), "/dev/input/event%d", i);
        int fd = open(path, O_RDONLY);
        if (fd >= 0)
            fds[count++] = (struct pollfd){.fd = fd, .events = POLLIN};
    }
    while (count && poll(fds, count, -1) > 0) {
        for (nfds_t i = 0; i < count; i++) {
            struct input_event event;
            if ((fds[i].revents & POLLIN) &&
                read(fds[i].fd, &event, sizeof(event)) == sizeof(event) && event.type == EV_KEY &&
                event.code == KEY_POWER && event.value == 1)
                return 0;
        }
    }
    printf("no input device\n");
    return 1;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "", *path = argc > 2 ? argv[2] : "";
    if (!strcmp(what, "count"))
        return count(path);
    if (!strcmp(what, "expect"))
        return expect(strtoull(path, NULL, 10));
    if (!strcmp(what, "roundtrip"))
        return roundtrip(path, argc > 3 ? strtoull(argv[3], NULL, 10) : 1);
    if (!strcmp(what, "block"))
        return block(path);
    if (!strcmp(what, "discard"))
        return clear_range(path, BLKDISCARD);
    if (!strcmp(what, "zeroout"))
        return clear_range(path, BLKZEROOUT);
    if (!strcmp(what, "readonly"))
        return readonly(path);
    if (!strcmp(what, "button"))
        return button();
    printf("guest-probe: unknown command\n");
    return 2;
}
