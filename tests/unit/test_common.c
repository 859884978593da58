/* common/: reader and writer, errors, units, sums, zero scan and the worker pool. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/hash.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/pool.h"
#include "common/units.h"
#include "common/zero.h"

static void test_reader_reads_little_endian(void **unused)
{
    (void)unused;
    static const uint8_t bytes[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    struct reader r = reader_init(bytes, sizeof(bytes));
    assert_int_equal(reader_u8(&r), 1);
    assert_int_equal(reader_u16(&r), 0x0302);
    assert_int_equal(reader_u32(&r), 0x07060504);
    assert_true(reader_u64(&r) == 0x0f0e0d0c0b0a0908);
    assert_int_equal(reader_left(&r), 0);
    assert_int_equal(r.error, 0);
}

static void test_big_endian_numbers(void **state)
{
    static const uint8_t bytes[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14};
    struct reader r = reader_init(bytes, sizeof(bytes));
    CLEANUP(writer_free) struct writer w = writer_init(64);

    (void)state;
    assert_int_equal(reader_u16be(&r), 0x0102);
    assert_int_equal(reader_u32be(&r), 0x03040506);
    assert_true(reader_u64be(&r) == 0x0708090a0b0c0d0e);
    assert_int_equal(r.error, 0);
    assert_int_equal(reader_u16be(&r), 0);
    assert_int_equal(r.error, -EBADMSG);
    writer_u16be(&w, 0x0102);
    writer_u32be(&w, 0x03040506);
    writer_u64be(&w, 0x0708090a0b0c0d0e);
    assert_int_equal(w.size, sizeof(bytes));
    assert_memory_equal(w.data, bytes, sizeof(bytes));
}

static void test_reader_error_sticks(void **unused)
{
    (void)unused;
    static const uint8_t bytes[] = {1, 2, 3};
    struct reader r = reader_init(bytes, sizeof(bytes));
    uint8_t out[4] = {9, 9, 9, 9};
    reader_copy(&r, out, 4);
    assert_int_equal(r.error, -EBADMSG);
    assert_memory_equal(out, "\0\0\0\0", 4);
    assert_int_equal(reader_u8(&r), 0); /* there would be bytes, but the error sticks */
    assert_int_equal(reader_left(&r), 0);
    assert_null(reader_take(&r, 0));
    r = reader_init(bytes, sizeof(bytes));
    struct reader sub = reader_sub(&r, SIZE_MAX);
    assert_int_equal(sub.error, -EBADMSG);
    assert_int_equal(reader_left(&sub), 0);
    r = reader_init(NULL, 0);
    assert_int_equal(reader_u8(&r), 0);
    assert_int_equal(r.error, -EBADMSG);
}

static void test_writer_meets_its_limit(void **unused)
{
    (void)unused;
    CLEANUP(writer_free) struct writer w = writer_init(10);
    writer_u64(&w, 0x1122334455667788);
    writer_u16(&w, 0x99aa);
    assert_int_equal(w.error, 0);
    assert_memory_equal(w.data, "\x88\x77\x66\x55\x44\x33\x22\x11\xaa\x99", 10);
    writer_u8(&w, 1);
    assert_int_equal(w.error, -EFBIG);
    assert_int_equal(w.size, 10);
    writer_reset(&w);
    assert_int_equal(w.error, 0);
    writer_u32(&w, 1);
    writer_put_u32_at(&w, 0, 0xdeadbeef);
    assert_memory_equal(w.data, "\xef\xbe\xad\xde", 4);
    writer_put_u32_at(&w, 1, 0);
    assert_int_equal(w.error, -EINVAL);
}

static void test_writer_grows_zeroed(void **unused)
{
    (void)unused;
    CLEANUP(writer_free) struct writer w = writer_init(1 * MIB);
    for (int i = 0; i < 1000; i++) {
        uint8_t *at = writer_grow(&w, 100);
        assert_non_null(at);
        assert_true(is_zero(at, 100));
        memset(at, 0xff, 100);
    }
    assert_int_equal(w.size, 100000);
    assert_null(writer_grow(&w, 2 * MIB));
}

static void test_error_text(void **unused)
{
    (void)unused;
    struct ferry_error err;
    char text[512];
    assert_int_equal(ferry_fail_sys(&err, -ENOENT, "a.raw", "cannot open"), -ENOENT);
    assert_string_equal(ferry_error_text(&err, text, sizeof(text)),
                        "a.raw: cannot open (No such file or directory)");
    assert_int_equal(ferry_wrap(&err, "vda", "no disk"), -ENOENT);
    assert_string_equal(ferry_error_text(&err, text, sizeof(text)),
                        "vda: no disk (a.raw: cannot open (No such file or directory))");
    assert_int_equal(ferry_refuse(&err, -EBADMSG, NULL, "x %d", 5), -EBADMSG);
    assert_int_equal(err.kind, FERRY_REFUSED);
    assert_string_equal(ferry_error_text(&err, text, sizeof(text)), "x 5");
    assert_int_equal(ferry_usage(NULL, NULL, "nobody listens"), -EINVAL);
}

static void test_sizes(void **unused)
{
    (void)unused;
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {{"0", 0},
                {"4096", 4096},
                {"512M", 512 * MIB},
                {"1G", GIB},
                {"1.5G", GIB * 3 / 2},
                {"64KiB", 64 * KIB},
                {"2TB", 2 * TIB},
                {"7B", 7}};
    static const char *const bad[] = {"",     "G",         "-1",  "1X",  "1..5G", "1.G",
                                      "0x10", "1GG",       "1 G", "9e9", "inf",   "nan",
                                      "1iB",  "99999999T", ".5G", "+5",  " 5"};
    struct ferry_error err;
    uint64_t bytes;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        assert_int_equal(parse_size("--memory", good[i].text, &bytes, &err), 0);
        assert_true(bytes == good[i].bytes);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(parse_size("--memory", bad[i], &bytes, &err), -EINVAL);
        assert_int_equal(err.kind, FERRY_USAGE);
    }
}

static void test_durations(void **unused)
{
    (void)unused;
    struct ferry_error err;
    uint64_t ns;
    assert_int_equal(parse_duration("--downtime", "100ms", &ns, &err), 0);
    assert_true(ns == 100000000);
    assert_int_equal(parse_duration("--downtime", "250us", &ns, &err), 0);
    assert_true(ns == 250000);
    assert_int_equal(parse_duration("--downtime", "1.5s", &ns, &err), 0);
    assert_true(ns == 1500000000);
    assert_int_equal(parse_duration("--downtime", "0", &ns, &err), 0);
    assert_true(ns == 0);
    assert_int_equal(parse_duration("--downtime", "100", &ns, &err), -EINVAL);
    assert_int_equal(parse_duration("--downtime", "-1s", &ns, &err), -EINVAL);
    assert_int_equal(parse_duration("--downtime", "1h", &ns, &err), -EINVAL);
    assert_int_equal(parse_duration("--downtime", "99999999999s", &ns, &err), -EINVAL);
}

static void test_numbers_and_formats(void **unused)
{
    (void)unused;
    struct ferry_error err;
    uint64_t value;
    char text[32];
    assert_int_equal(parse_number("--cpus", "16", 1, 64, &value, &err), 0);
    assert_int_equal(value, 16);
    assert_int_equal(parse_number("--cpus", "0", 1, 64, &value, &err), -EINVAL);
    assert_int_equal(parse_number("--cpus", "65", 1, 64, &value, &err), -EINVAL);
    assert_int_equal(parse_number("--cpus", "1x", 1, 64, &value, &err), -EINVAL);
    assert_int_equal(parse_number("--cpus", "", 0, 64, &value, &err), -EINVAL);
    assert_int_equal(parse_number("--cpus", "99999999999999999999", 0, 64, &value, &err), -EINVAL);
    assert_string_equal(format_size(17, text, sizeof(text)), "17 B");
    assert_string_equal(format_size(340 * MIB, text, sizeof(text)), "340.0 MiB");
    assert_string_equal(format_duration(37200000, text, sizeof(text)), "37.2 ms");
    assert_string_equal(format_duration(180000, text, sizeof(text)), "180 us");
    assert_string_equal(format_duration(1240000000, text, sizeof(text)), "1.24 s");
}

static void test_zero_scan(void **unused)
{
    (void)unused;
    uint8_t bytes[1100] = {0};
    for (size_t start = 0; start < 70; start += 7) {
        for (size_t size = 0; size < 1000; size += 13) {
            assert_true(is_zero(bytes + start, size));
            if (!size)
                continue;
            bytes[start + size - 1] = 1;
            assert_false(is_zero(bytes + start, size));
            assert_true(is_zero(bytes + start, size - 1));
            bytes[start + size - 1] = 0;
        }
    }
}

static void test_sums(void **unused)
{
    (void)unused;
    uint8_t once[SHA256_BYTES], parts[SHA256_BYTES], back[SHA256_BYTES];
    char text[2 * SHA256_BYTES + 1];
    sha256("abc", 3, once); /* FIPS 180-4, example */
    assert_string_equal(hex_encode(once, sizeof(once), text),
                        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    struct sha256 *s = sha256_new();
    assert_non_null(s);
    sha256_update(s, "a", 1);
    sha256_update(s, "bc", 2);
    sha256_final(s, parts);
    assert_memory_equal(once, parts, sizeof(once));
    assert_int_equal(hex_decode(text, back, sizeof(back)), 0);
    assert_memory_equal(once, back, sizeof(once));
    assert_int_equal(hex_decode("zz", back, 1), -EINVAL);
    assert_int_equal(hex_decode("abc", back, 1), -EINVAL);
    struct digest *d = digest_new(DIGEST_SHA1);
    assert_non_null(d);
    digest_update(d, "abc", 3);
    digest_final(d, once);
    assert_int_equal(digest_bytes(DIGEST_SHA1), 20);
    assert_string_equal(hex_encode(once, 20, text), "a9993e364706816aba3e25717850c26c9cd0d89d");
    assert_true(xxh3("", 0) == 0x2d06800538d394c2); /* xxHash's own test vector */
}

struct adder {
    struct pool_task task;
    int value;
};

static void add_one(struct pool_task *task)
{
    struct adder *adder = (struct adder *)task;
    adder->value++;
}

static void test_pool(void **unused)
{
    (void)unused;
    enum { COUNT = 500 };
    CLEANUP(pool_cleanup) struct pool *pool = NULL;
    static struct adder adders[COUNT];
    struct ferry_error err;
    assert_int_equal(pool_create(LIMIT_WORKERS + 1, &pool, &err), -EINVAL);
    assert_int_equal(pool_create(3, &pool, &err), 0);
    assert_int_equal(pool_workers(pool), 3);
    for (int round = 1; round < 4; round++) {
        for (int i = 0; i < COUNT; i++) {
            adders[i].task.run = add_one;
            pool_submit(pool, &adders[i].task);
        }
        pool_wait(pool, &adders[COUNT - 1].task);
        assert_int_equal(adders[COUNT - 1].value, round);
        pool_wait_all(pool);
        for (int i = 0; i < COUNT; i++)
            assert_int_equal(adders[i].value, round);
    }
}

static void remember(void *context, enum log_level level, const char *text)
{
    (void)level;
    snprintf(context, 1100, "%s", text);
}

static void test_log(void **unused)
{
    (void)unused;
    char last[1100] = "";
    const struct log log = {LOG_LEVEL_INFO, remember, last};
    log_info(&log, "%s %d", "seen", 1);
    assert_string_equal(last, "seen 1");
    log_debug(&log, "not seen");
    assert_string_equal(last, "seen 1");
    log_error(NULL, "nobody");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reader_reads_little_endian),
        cmocka_unit_test(test_big_endian_numbers),
        cmocka_unit_test(test_reader_error_sticks),
        cmocka_unit_test(test_writer_meets_its_limit),
        cmocka_unit_test(test_writer_grows_zeroed),
        cmocka_unit_test(test_error_text),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_durations),
        cmocka_unit_test(test_numbers_and_formats),
        cmocka_unit_test(test_zero_scan),
        cmocka_unit_test(test_sums),
        cmocka_unit_test(test_pool),
        cmocka_unit_test(test_log),
    };
    return cmocka_run_group_tests_name("common", tests, NULL, NULL);
}
