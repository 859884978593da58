/* VHDX and VDI: there and back, and their fields broken in turn, with right sums. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "imagefmt/foreign/source.h"
#include "imagefmt/foreign/vhdx.h"
#include "tests/support/disk_sample.h"

#define ODD_BYTES (40 * MIB + 512)

static const struct disk_format *const vhdx = &disk_format_vhdx;
static const struct disk_format *const vdi = &disk_format_vdi;

static void test_round_trips(void **state)
{
    (void)state;
    for (int in_order = 0; in_order < 2; in_order++) {
        assert_true(disk_sample_round_trip(ODD_BYTES, vhdx, NULL, in_order) < 16 * MIB);
        assert_true(disk_sample_round_trip(ODD_BYTES, vdi, NULL, in_order) < 8 * MIB);
        disk_sample_round_trip(ODD_BYTES, vhdx, "fixed", in_order);
        disk_sample_round_trip(ODD_BYTES, vdi, "static", in_order);
    }
    assert_true(disk_sample_round_trip(3 * TIB + 512, vhdx, NULL, false) < 2 * MIB);
    assert_true(disk_sample_round_trip(3 * TIB + 512, vdi, NULL, false) < 16 * MIB);
}

static void refuse(int fd, const struct disk_format *format, uint64_t offset, const char *bytes,
                   size_t size, const char *says)
{
    struct ferry_error err = {0};

    assert_true(disk_sample_try_forged(fd, format, offset, bytes, size, &err) < 0);
    if (err.kind != FERRY_REFUSED || !strstr(err.message, says))
        fail_msg("kind %d: '%s' does not say '%s'", err.kind, err.message, says);
}

static void test_vdi_fields(void **state)
{
    CLEANUP_FD int raw = disk_sample_raw(ODD_BYTES);
    CLEANUP_FD int fd = disk_sample_write(raw, vdi, NULL, false);

    (void)state;
    refuse(fd, vdi, 64, "\1", 1, "signature");
    refuse(fd, vdi, 70, "\2", 1, "version");
    refuse(fd, vdi, 76, "\4", 1, "differencing");
    refuse(fd, vdi, 340, "\xff\xff\xff\xff", 4, "map is not within");
    refuse(fd, vdi, 344, "\1\0\0\0", 4, "data before its map");
    refuse(fd, vdi, 344, "\0\2\0\0", 4, "data before its map");
    refuse(fd, vdi, 368, "\0\0\0\0\0\0\0\x80", 8, "disk size");
    refuse(fd, vdi, 368, "\1", 1, "disk size");
    refuse(fd, vdi, 368, "\0\0\0\0\1\0\0\0", 8, "fewer blocks");
    refuse(fd, vdi, 376, "\0\0\x30", 3, "block size");
    refuse(fd, vdi, 380, "\1", 1, "data before its blocks");
    refuse(fd, vdi, 384, "\1", 1, "fewer blocks");
    refuse(fd, vdi, 440, "\1", 1, "child");
    refuse(fd, vdi, 512, "\xfd\xff\xff\xff", 4, "cut short");
    disk_sample_sweep(fd, vdi, 64, 400);
    disk_sample_sweep(fd, vdi, 512, 200);
}

/* The same with the sum of the structure at `start` made right. */
static void refuse_summed(int fd, uint64_t start, size_t whole, size_t at, const char *bytes,
                          size_t size, const char *says)
{
    CLEANUP_FREE uint8_t *data = malloc(whole);

    assert_int_equal(pread_all(fd, data, whole, start), 0);
    memcpy(data + at, bytes, size);
    uint32_t sum = vhdx_sum(data, whole);
    for (unsigned i = 0; i < 4; i++)
        data[4 + i] = (uint8_t)(sum >> (8 * i));
    refuse(fd, vhdx, start, (const char *)data, whole, says);
}

static void test_vhdx_fields(void **state)
{
    CLEANUP_FD int raw = disk_sample_raw(ODD_BYTES);
    CLEANUP_FD int fd = disk_sample_write(raw, vhdx, NULL, false);
    const uint64_t header = 2 * VHDX_HEADER_OFFSET, regions = VHDX_REGIONS_OFFSET, items = 2 * MIB;
    struct ferry_error err = {0};

    (void)state;
    assert_int_equal(vhdx_crc32c(0, "123456789", 9), 0xe3069283);
    refuse(fd, vhdx, 0, "X", 1, "magic");
    refuse_summed(fd, header, VHDX_HEADER_BYTES, 66, "\2", 1, "version");
    refuse_summed(fd, header, VHDX_HEADER_BYTES, 48, "\2", 1, "log");
    refuse_summed(fd, regions, VHDX_REGIONS_BYTES, 8, "\xff\xff\xff\xff", 4, "too many");
    refuse_summed(fd, regions, VHDX_REGIONS_BYTES, 8, "\1", 1, "missing");
    refuse_summed(fd, regions, VHDX_REGIONS_BYTES, 16, "X", 1, "not known");
    refuse_summed(fd, regions, VHDX_REGIONS_BYTES, 32, "\0\0\0\0\0\0\0\x80", 8, "too short");
    refuse_summed(fd, regions, VHDX_REGIONS_BYTES, 40, "\0\0\0\0", 4, "too short");
    refuse_summed(fd, regions, VHDX_REGIONS_BYTES, 32, "\1", 1, "overlap");
    refuse_summed(fd, regions, VHDX_REGIONS_BYTES, 34, "\x20", 1, "overlap");
    /* One header, one region table damaged: the other one serves. */
    assert_int_equal(disk_sample_try_forged(fd, vhdx, header + 16, "XYZ", 3, &err), 0);
    assert_int_equal(disk_sample_try_forged(fd, vhdx, regions + 16, "XYZ", 3, &err), 0);
    refuse(fd, vhdx, items, "X", 1, "metadata table");
    refuse(fd, vhdx, items + 10, "\xff\xff", 2, "metadata table");
    refuse(fd, vhdx, items + 32, "X", 1, "not known");
    refuse(fd, vhdx, items + 48, "\xff\xff\xff\xff", 4, "outside its region");
    refuse(fd, vhdx, items + 65536, "\0\0\x30\0", 4, "block size");
    refuse(fd, vhdx, items + 65536, "\0\0\0\x20", 4, "block size");
    refuse(fd, vhdx, items + 65540, "\2", 1, "differencing");
    refuse(fd, vhdx, items + 65544, "\0\0\0\0\0\0\0\x80", 8, "out of range");
    refuse(fd, vhdx, items + 65544, "\0\0\0\0\0\0\1\0", 8, "out of range");
    refuse(fd, vhdx, items + 65544, "\0\0\0\0\0\1\0\0", 8, "too short");
    refuse(fd, vhdx, items + 65568, "\0\4\0\0", 4, "sector size");
    refuse(fd, vhdx, 3 * MIB, "\7\0\0\0", 4, "entry of block 0");
    refuse(fd, vhdx, 3 * MIB, "\6\0\0\0", 4, "entry of block 0");
    refuse(fd, vhdx, 3 * MIB, "\3\0\0\0", 4, "entry of block 0");
    for (char i = 1; i < 4; i++) /* the log, the metadata, the table */
        refuse(fd, vhdx, 3 * MIB, (char[]){6, 0, (char)(i << 4), 0}, 4, "not content");
    refuse(fd, vhdx, 3 * MIB + 4, "\xff\xff\xff\xff", 4, "cut short");
    disk_sample_sweep(fd, vhdx, items, 200);
    disk_sample_sweep(fd, vhdx, items + 65536, 40);
    disk_sample_sweep(fd, vhdx, 3 * MIB, 24);
}

/* What reading an overlay must give: runs one after the other over what is below. */
static void paint(const struct vhdx_replayed *all, uint8_t *bytes)
{
    for (size_t i = 0; i < all->count; i++) {
        const struct vhdx_run *run = &all->runs[i];
        uint8_t *at = bytes + run->offset;
        if (!run->data) {
            memset(at, 0, run->size);
            continue;
        }
        memcpy(at, run->lead, 8);
        memcpy(at + 8, run->data, VHDX_LOG_SECTOR - 12);
        memcpy(at + VHDX_LOG_SECTOR - 4, run->trail, 4);
    }
}

static void make_runs(struct vhdx_replayed *all, size_t sectors)
{
    all->bytes = malloc((size_t)2 * VHDX_LOG_SECTOR);
    assert_non_null(all->bytes);
    for (size_t i = 0; i < (size_t)2 * VHDX_LOG_SECTOR; i++)
        all->bytes[i] = (uint8_t)(i * 31 + i / 251);
    all->count = (size_t)(rand() % 40);
    all->runs = calloc(all->count + 1, sizeof(*all->runs));
    assert_non_null(all->runs);
    for (size_t i = 0; i < all->count; i++) {
        const uint8_t *sector = all->bytes + rand() % VHDX_LOG_SECTOR;
        size_t from = (size_t)rand() % sectors, most = sectors - from;
        struct vhdx_run run = {.offset = from * VHDX_LOG_SECTOR,
                               .size = (size_t)rand() % (most + 1) * VHDX_LOG_SECTOR};
        if (rand() % 3)
            run = (struct vhdx_run){.offset = run.offset,
                                    .size = VHDX_LOG_SECTOR,
                                    .lead = sector,
                                    .data = sector + 8,
                                    .trail = sector + 20};
        all->runs[i] = run;
    }
}

static void test_overlay(void **state)
{
    enum { SECTORS = 24, BYTES = SECTORS * VHDX_LOG_SECTOR, BELOW = BYTES - 3 * 1000 };
    static uint8_t below[BELOW], want[BYTES], got[BYTES];

    (void)state;
    srand(1);
    memset(below, 0x5a, sizeof(below));
    for (int round = 0; round < 200; round++) {
        CLEANUP(vhdx_replayed_free) struct vhdx_replayed all = {.size_bytes = BYTES};
        CLEANUP(source_cleanup) struct source *source = NULL, *overlay = NULL;
        assert_int_equal(source_of_memory(below, sizeof(below), "below", &source, NULL), 0);
        make_runs(&all, SECTORS);
        memset(want, 0, sizeof(want));
        memcpy(want, below, sizeof(below));
        paint(&all, want);
        assert_int_equal(vhdx_overlay(source, &all, &overlay, NULL), 0);
        for (int i = 0; i < 50; i++) {
            size_t from = (size_t)rand() % BYTES, size = (size_t)rand() % (BYTES - from);
            assert_int_equal(overlay->pread(overlay, from, got, size, NULL), 0);
            assert_memory_equal(got, want + from, size);
        }
        assert_int_equal(overlay->pread(overlay, BYTES - 1, got, 2, NULL), -EBADMSG);
    }
}

/* As many runs as a log has room for, each over all of the file: read as fast as one. */
static void test_overlay_of_many(void **state)
{
    enum { RUNS = VHDX_LOG_MAX_BYTES / 32 };
    struct vhdx_replayed all = {.size_bytes = 64 * MIB, .count = RUNS};
    CLEANUP(source_cleanup) struct source *source = NULL, *overlay = NULL;
    CLEANUP_FREE uint8_t *bytes = malloc(MIB);

    (void)state;
    assert_int_equal(source_of_memory("", 0, "nothing", &source, NULL), 0);
    all.runs = calloc(RUNS, sizeof(*all.runs));
    assert_true(bytes && all.runs);
    for (size_t i = 0; i < RUNS; i++)
        all.runs[i] = (struct vhdx_run){.offset = i % 7 * VHDX_LOG_SECTOR,
                                        .size = 64 * MIB - i % 13 * VHDX_LOG_SECTOR};
    assert_int_equal(vhdx_overlay(source, &all, &overlay, NULL), 0);
    for (uint64_t at = 0; at < 64 * MIB; at += MIB)
        assert_int_equal(overlay->pread(overlay, at, bytes, MIB, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trips),     cmocka_unit_test(test_vdi_fields),
        cmocka_unit_test(test_vhdx_fields),     cmocka_unit_test(test_overlay),
        cmocka_unit_test(test_overlay_of_many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
