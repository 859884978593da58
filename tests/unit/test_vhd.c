/* VHD: there and back, children, and its fields broken in turn, with right sums. */
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
#include "imagefmt/foreign/vhd.h"
#include "tests/support/disk_sample.h"

#define ODD_BYTES (40 * MIB + 512)

static const struct disk_format *const vhd = &disk_format_vhd;

static void test_round_trips(void **state)
{
    (void)state;
    for (int in_order = 0; in_order < 2; in_order++) {
        assert_true(disk_sample_round_trip(ODD_BYTES, vhd, NULL, in_order) < 16 * MIB);
        disk_sample_round_trip(ODD_BYTES, vhd, "fixed", in_order);
    }
    assert_true(disk_sample_round_trip(2040 * GIB, vhd, NULL, false) < 8 * MIB);
    assert_true(disk_sample_round_trip(2040 * GIB, vhd, "fixed", false) < MIB);
}

static uint64_t size_of(int fd)
{
    struct stat st;

    assert_int_equal(fstat(fd, &st), 0);
    return (uint64_t)st.st_size;
}

/* Bytes at `at` of a structure, with its sum made right: in the footer at the end, or the header.
 */
static int try_summed(int fd, bool footer, size_t at, const char *bytes, size_t size,
                      struct ferry_error *err)
{
    uint8_t data[VHD_HEADER_BYTES];
    size_t whole = footer ? VHD_FOOTER_BYTES : VHD_HEADER_BYTES, sum_at = footer ? 64 : 36;
    uint64_t start = footer ? size_of(fd) - VHD_FOOTER_BYTES : VHD_FOOTER_BYTES;

    assert_int_equal(pread_all(fd, data, whole, start), 0);
    memcpy(data + at, bytes, size);
    uint32_t sum = vhd_sum(data, whole, sum_at);
    for (unsigned i = 0; i < 4; i++)
        data[sum_at + i] = (uint8_t)(sum >> (24 - 8 * i));
    return disk_sample_try_forged(fd, vhd, start, data, whole, err);
}

static void refuse(int fd, bool footer, size_t at, const char *bytes, size_t size, const char *says)
{
    struct ferry_error err = {0};

    assert_true(try_summed(fd, footer, at, bytes, size, &err) < 0);
    if (err.kind != FERRY_REFUSED || !strstr(err.message, says))
        fail_msg("kind %d: '%s' does not say '%s'", err.kind, err.message, says);
}

static void test_fields(void **state)
{
    CLEANUP_FD int raw = disk_sample_raw(ODD_BYTES);
    CLEANUP_FD int fd = disk_sample_write(raw, vhd, NULL, false);
    CLEANUP_FD int fixed = disk_sample_write(raw, vhd, "fixed", false);
    struct ferry_error err = {0};
    uint64_t end = size_of(fd);

    (void)state;
    refuse(fd, true, 12, "\0\2", 2, "version");
    refuse(fd, true, 16, "\x80", 1, "header is not within");
    refuse(fd, true, 48, "\x80", 1, "size is out of range");
    refuse(fd, true, 48, "\0\0\0\0\0\0\0\0", 8, "size is out of range");
    refuse(fd, true, 60, "\0\0\0\4", 4, "builds on ''");
    refuse(fixed, true, 60, "\0\0\0\3", 4, "header is not within");
    refuse(fixed, true, 52, "\x7f", 1, "cut short");
    refuse(fd, false, 0, "X", 1, "dynamic header");
    refuse(fd, false, 16, "\x80", 1, "too short");
    refuse(fd, false, 28, "\0\0\0\1", 4, "too short");
    refuse(fd, false, 32, "\x80", 1, "block size");
    refuse(fd, false, 32, "\0\x30", 2, "block size");
    refuse(fd, false, 32, "\0\0\2\0", 4, "block size");
    for (char i = 0; i < 4; i++) { /* the copy of the footer, the header, the table */
        assert_int_equal(disk_sample_try_forged(fd, vhd, 1536, (char[]){0, 0, 0, i}, 4, &err),
                         -EBADMSG);
        assert_non_null(strstr(err.message, "not content"));
    }
    /* A footer that is lost has a copy. */
    assert_int_equal(disk_sample_try_forged(fd, vhd, end - 512, "lost", 4, &err), 0);
    assert_int_equal(disk_sample_try_forged(fixed, vhd, size_of(fixed) - 512, "lost", 4, &err),
                     -EBADMSG);
    assert_int_equal(disk_sample_try_forged(fd, vhd, 1536, "\xff\xff\xff\xfe", 4, &err), -EBADMSG);
    disk_sample_sweep(fd, vhd, end - 512, 96);
    disk_sample_sweep(fd, vhd, 512, 64);
    disk_sample_sweep(fd, vhd, 1536, 96);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_fields),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
