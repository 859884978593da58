/* VHDX and VDI: there and back, and their fields broken in turn, with right sums. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/file.h"
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
    refuse(fd, vhdx, 3 * MIB + 4, "\xff\xff\xff\xff", 4, "cut short");
    disk_sample_sweep(fd, vhdx, items, 200);
    disk_sample_sweep(fd, vhdx, items + 65536, 40);
    disk_sample_sweep(fd, vhdx, 3 * MIB, 24);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_vdi_fields),
        cmocka_unit_test(test_vhdx_fields),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
