/* VMDK: there and back in both kinds, and every field of it broken in turn. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "imagefmt/foreign/formats.h"
#include "imagefmt/foreign/source.h"
#include "tests/support/disk_sample.h"

#define ODD_BYTES (40 * MIB + 512) /* two grain tables, a last grain of one sector */

static const struct disk_format *const vmdk = &disk_format_vmdk;

static void test_round_trips(void **state)
{
    (void)state;
    assert_true(disk_sample_round_trip(ODD_BYTES, vmdk, NULL, true) < 300000);
    assert_true(disk_sample_round_trip(ODD_BYTES, vmdk, "streamOptimized", false) < 300000);
    assert_true(disk_sample_round_trip(ODD_BYTES, vmdk, "monolithicSparse", false) < 600000);
    assert_true(disk_sample_round_trip(2 * TIB, vmdk, NULL, true) < 700000);
    assert_true(disk_sample_round_trip(2 * TIB, vmdk, "monolithicSparse", false) < 1300000);
}

static void test_same_bytes_to_file_and_pipe(void **state)
{
    CLEANUP_FD int raw = disk_sample_raw(ODD_BYTES);
    CLEANUP_FD int one = disk_sample_write(raw, vmdk, NULL, true);
    CLEANUP_FD int two = disk_sample_write(raw, vmdk, NULL, false);
    static uint8_t a[300000], b[300000];
    struct stat st;

    (void)state;
    assert_int_equal(fstat(one, &st), 0);
    assert_true((size_t)st.st_size <= sizeof(a));
    assert_int_equal(pread_all(one, a, (size_t)st.st_size, 0), 0);
    assert_int_equal(pread_all(two, b, (size_t)st.st_size, 0), 0);
    assert_memory_equal(a, b, (size_t)st.st_size);
}

static void refuse(int fd, uint64_t offset, const char *bytes, size_t size, const char *says)
{
    struct ferry_error err = {0};

    assert_true(disk_sample_try_forged(fd, vmdk, offset, bytes, size, &err) < 0);
    if (err.kind != FERRY_REFUSED || !strstr(err.message, says))
        fail_msg("kind %d: '%s' does not say '%s'", err.kind, err.message, says);
}

static void test_fields_of_a_stream(void **state)
{
    CLEANUP_FD int raw = disk_sample_raw(ODD_BYTES);
    CLEANUP_FD int fd = disk_sample_write(raw, vmdk, NULL, true);
    struct stat st;

    (void)state;
    assert_int_equal(fstat(fd, &st), 0);
    uint64_t end = (uint64_t)st.st_size, footer = end - 1024;
    refuse(fd, 0, "KDMX", 4, "magic");
    refuse(fd, 4, "\4", 1, "version");
    refuse(fd, 12, "\0\0\0\0\0\0\0\x80", 8, "2 TiB");
    refuse(fd, 20, "\0\0\1", 3, "grain size");
    refuse(fd, 20, "\x81", 1, "grain size");
    refuse(fd, 28, "\xff\xff\xff", 3, "cut short");
    refuse(fd, 36, "\xff\xff\xff", 3, "descriptor larger");
    refuse(fd, 44, "\xff\xff\xff\xff", 4, "512 entries");
    refuse(fd, 74, "\n\n\n", 3, "as text");
    refuse(fd, 77, "\2", 1, "compressed in a way");
    refuse(fd, 12, "\0", 1, "disagree");
    refuse(fd, footer, "X", 1, "footer");
    refuse(fd, footer + 12, "\7", 1, "differ");
    refuse(fd, footer + 56, "\xff\xff\xff\xff\xff\xff\xff", 7, "grain directory");
    refuse(fd, footer + 56, "\xff\xff\xff\xff\xff\xff\xff\xff", 8, "differ");
    refuse(fd, 65536, "\x80", 1, "cannot be inflated");              /* LBA of the first grain */
    refuse(fd, 65536 + 8, "\xff\xff\xff\xff", 4, "be inflated");     /* its size */
    refuse(fd, 65536 + 12 + 100, "\x12\x34\x56\x78", 4, "inflated"); /* its data */
    refuse(fd, end - 2048, "\1\0\0\0", 4, "table or a grain");
    refuse(fd, end - 2048, "\xff\xff\xff\xff", 4, "cut short"); /* where the first table is */
}

static void test_sweep(void **state)
{
    CLEANUP_FD int raw = disk_sample_raw(ODD_BYTES);
    struct stat st;

    (void)state;
    for (int sparse = 0; sparse < 2; sparse++) {
        CLEANUP_FD int fd = disk_sample_write(raw, vmdk, sparse ? "monolithicSparse" : NULL, false);
        assert_int_equal(fstat(fd, &st), 0);
        disk_sample_sweep(fd, vmdk, 0, 80);
        disk_sample_sweep(fd, vmdk, 512, 400);
        if (!sparse)
            disk_sample_sweep(fd, vmdk, (uint64_t)st.st_size - 2048, 2048);
    }
}

static int text_file(const char *text)
{
    int fd = memfd_create("text", MFD_CLOEXEC);

    assert_int_equal(pwrite_all(fd, text, strlen(text), 0), 0);
    return fd;
}

static void refuse_text(const char *text, const char *says)
{
    CLEANUP_FD int fd = text_file(text);

    refuse(fd, 0, "", 0, says);
}

#define HEAD "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n"

static void test_flat(void **state)
{
    CLEANUP_FD int flat = disk_sample_raw(4 * MIB);
    CLEANUP_FD int text = text_file(HEAD "createType=\"monolithicFlat\"\n"
                                         "RW 8192 FLAT \"../../etc/passwd\" 0\n");
    CLEANUP(source_cleanup) struct source *source = NULL;
    CLEANUP(source_cleanup) struct source *external = NULL;
    struct disk *disk = NULL;
    uint8_t one[1000], two[1000];

    (void)state;
    refuse(text, 0, "", 0, "'../../etc/passwd'");
    refuse_text(HEAD "RW 8192 SPARSE \"x\"\n", "kind SPARSE in 'x'");
    refuse_text(HEAD "RW 1 FLAT \"x\" 0\nRW 1 FLAT \"y\" 0\n", "2 extents");
    refuse_text(HEAD "RW 0 FLAT \"x\" 0\n", "no sense");
    refuse_text(HEAD "RW 99999999999999999999 FLAT \"x\" 0\n", "no sense");
    refuse_text(HEAD
                "parentCID=12345678\nparentFileNameHint=\"p\x1b\x9b.vmdk\"\nRW 1 SPARSE \"x\"\n",
                "'p??.vmdk'");
    refuse_text(HEAD, "0 extents");
    assert_int_equal(source_of_fd(text, "text", &source, NULL), 0);
    assert_int_equal(source_of_fd(flat, "flat", &external, NULL), 0);
    const struct disk_open_options options = {.external = external};
    assert_int_equal(vmdk->open(source, &options, &disk, NULL), 0);
    assert_int_equal(disk->size_bytes, 4 * MIB);
    assert_int_equal(vmdk->read(disk, 2 * MIB, one, sizeof(one), NULL), 0);
    assert_int_equal(pread_all(flat, two, sizeof(two), 2 * MIB), 0);
    assert_memory_equal(one, two, sizeof(one));
    struct disk_extent extent;
    assert_int_equal(vmdk->extent(disk, 3 * MIB, &extent, NULL), 0);
    assert_int_equal(extent.kind, DISK_ZERO);
    assert_true(extent.size_bytes < MIB);
    vmdk->close(disk);
    struct ferry_error err = {0};
    assert_int_equal(ftruncate(flat, 4 * MIB - 1), 0);
    CLEANUP(source_cleanup) struct source *shorter = NULL;
    assert_int_equal(source_of_fd(flat, "flat", &shorter, NULL), 0);
    const struct disk_open_options with_shorter = {.external = shorter};
    assert_int_equal(vmdk->open(source, &with_shorter, &disk, &err), -EBADMSG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_same_bytes_to_file_and_pipe),
        cmocka_unit_test(test_fields_of_a_stream),
        cmocka_unit_test(test_sweep),
        cmocka_unit_test(test_flat),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
