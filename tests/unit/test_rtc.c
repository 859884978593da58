/* The CMOS clock: its arithmetic against the C library's calendar, then the device. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/clock.h"
#include "tests/support/fake_platform.h"
#include "vmm/device/rtc.h"
#include "vmm/device/rtc_time.h"
#include "vmm/layout.h"

#define NS_PER_S UINT64_C(1000000000)

static unsigned bcd(unsigned value)
{
    return value / 10 << 4 | value % 10;
}

static void test_dates_agree_with_the_c_library(void **state)
{
    uint8_t cmos[RTC_CMOS_BYTES] = {[RTC_REG_B] = RTC_B_24H};
    uint64_t seed = 42;

    (void)state;
    for (int i = 0; i < 20000; i++) {
        time_t t = (time_t)(fake_random(&seed) % 315000000000) - 62100000000; /* years 2..9983 */
        struct tm tm;

        assert_non_null(gmtime_r(&t, &tm));
        rtc_encode(cmos, t);
        assert_int_equal(cmos[RTC_SECONDS], bcd((unsigned)tm.tm_sec));
        assert_int_equal(cmos[RTC_MINUTES], bcd((unsigned)tm.tm_min));
        assert_int_equal(cmos[RTC_HOURS], bcd((unsigned)tm.tm_hour));
        assert_int_equal(cmos[RTC_WEEKDAY], tm.tm_wday + 1);
        assert_int_equal(cmos[RTC_DAY], bcd((unsigned)tm.tm_mday));
        assert_int_equal(cmos[RTC_MONTH], bcd((unsigned)tm.tm_mon + 1));
        assert_int_equal(cmos[RTC_YEAR], bcd((unsigned)(tm.tm_year + 1900) % 100));
        assert_int_equal(cmos[RTC_CENTURY], bcd((unsigned)(tm.tm_year + 1900) / 100));
        assert_true(rtc_decode(cmos) == t);
    }
}

static void test_every_format_reads_back(void **state)
{
    static const uint8_t formats[] = {0, RTC_B_24H, RTC_B_BINARY, RTC_B_24H | RTC_B_BINARY};

    (void)state;
    for (size_t f = 0; f < sizeof(formats); f++)
        for (int64_t t = 1700000000; t < 1700000000 + INT64_C(2) * 86400; t += 599) {
            uint8_t cmos[RTC_CMOS_BYTES] = {[RTC_REG_B] = formats[f]};

            rtc_encode(cmos, t);
            assert_true(rtc_decode(cmos) == t);
        }
}

static void test_twelve_hour_clock(void **state)
{
    static const struct {
        unsigned hour;
        uint8_t reg;
    } known[] = {{0, 0x12}, {1, 0x01}, {11, 0x11}, {12, 0x92}, {13, 0x81}, {23, 0x91}};

    (void)state;
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        uint8_t cmos[RTC_CMOS_BYTES] = {0};

        rtc_encode(cmos, INT64_C(3600) * known[i].hour);
        assert_int_equal(cmos[RTC_HOURS], known[i].reg);
    }
}

/* Nonsense from a guest gives some date: nothing to assert but that it comes back. */
static void test_nonsense_dates_do_no_harm(void **state)
{
    uint64_t seed = 7;

    (void)state;
    for (int i = 0; i < 20000; i++) {
        uint8_t cmos[RTC_CMOS_BYTES];
        int64_t t;

        for (size_t k = 0; k < sizeof(cmos); k++)
            cmos[k] = (uint8_t)fake_random(&seed);
        t = rtc_decode(cmos);
        assert_true(t > -100000000000 && t < 900000000000);
        rtc_encode(cmos, t);
        assert_true(rtc_alarm_distance(cmos, t) <= 86400);
    }
}

/* Against the definition, second by second. */
static uint32_t slow_distance(const uint8_t cmos[RTC_CMOS_BYTES], int64_t t)
{
    static const uint8_t pairs[][2] = {{RTC_HOURS, RTC_HOURS_ALARM},
                                       {RTC_MINUTES, RTC_MINUTES_ALARM},
                                       {RTC_SECONDS, RTC_SECONDS_ALARM}};

    for (uint32_t d = 1; d <= 86400; d++) {
        uint8_t then[RTC_CMOS_BYTES];
        unsigned matches = 0;

        memcpy(then, cmos, sizeof(then));
        rtc_encode(then, t + d);
        for (int i = 0; i < 3; i++)
            matches += cmos[pairs[i][1]] >= 0xc0 || cmos[pairs[i][1]] == then[pairs[i][0]];
        if (matches == 3)
            return d;
    }
    return 0;
}

static void test_alarm_distance(void **state)
{
    uint64_t seed = 3;

    (void)state;
    for (int i = 0; i < 40; i++) {
        int64_t t = 1700000000 + (int64_t)(fake_random(&seed) % 86400);
        uint8_t cmos[RTC_CMOS_BYTES] = {[RTC_REG_B] = RTC_B_24H};

        cmos[RTC_HOURS_ALARM] = (uint8_t)bcd(fake_random(&seed) % 25);
        cmos[RTC_MINUTES_ALARM] = i % 3 ? 0xff : (uint8_t)bcd(fake_random(&seed) % 60);
        cmos[RTC_SECONDS_ALARM] = i % 2 ? 0xc0 : (uint8_t)bcd(fake_random(&seed) % 60);
        if (i % 5 == 0)
            cmos[RTC_HOURS_ALARM] = 0xff;
        assert_int_equal(rtc_alarm_distance(cmos, t), slow_distance(cmos, t));
    }
}

static void test_periods(void **state)
{
    (void)state;
    assert_int_equal(rtc_period_ticks(0x20), 0);
    assert_int_equal(rtc_period_ticks(0x21), 128); /* 256 Hz */
    assert_int_equal(rtc_period_ticks(0x22), 256);
    assert_int_equal(rtc_period_ticks(0x23), 4); /* 8192 Hz */
    assert_int_equal(rtc_period_ticks(0x26), 32);
    assert_int_equal(rtc_period_ticks(0x2f), 16384); /* 2 Hz */
}

struct bench {
    struct fake_platform *fake;
    struct device *rtc;
};

static int setup(void **state)
{
    struct bench *b = calloc(1, sizeof(*b));

    b->fake = fake_platform_create(0);
    *state = b;
    return rtc_create(&b->fake->platform, &b->rtc, NULL);
}

static int teardown(void **state)
{
    struct bench *b = *state;

    b->rtc->ops->destroy(b->rtc);
    fake_platform_destroy(b->fake);
    free(b);
    return 0;
}

static uint8_t get(struct bench *b, uint8_t reg)
{
    fake_out(b->fake, PORT_RTC, reg, 1);
    return (uint8_t)fake_in(b->fake, PORT_RTC + 1, 1);
}

static void put(struct bench *b, uint8_t reg, uint8_t value)
{
    fake_out(b->fake, PORT_RTC, reg, 1);
    fake_out(b->fake, PORT_RTC + 1, value, 1);
}

/* What the guest takes the time to be: registers read until they hold still. */
static int64_t guest_time(struct bench *b)
{
    uint8_t cmos[RTC_CMOS_BYTES] = {0};

    do {
        for (unsigned i = 0; i < RTC_REG_C; i++)
            cmos[i] = get(b, (uint8_t)i);
        cmos[RTC_CENTURY] = get(b, RTC_CENTURY);
    } while (cmos[RTC_SECONDS] != get(b, RTC_SECONDS));
    cmos[RTC_REG_B] = get(b, RTC_REG_B);
    return rtc_decode(cmos);
}

static void assert_host_time_plus(struct bench *b, int64_t offset)
{
    int64_t before = (int64_t)(realtime_ns() / NS_PER_S);
    int64_t t = guest_time(b) - offset;

    assert_in_range(t, before - 1, (int64_t)(realtime_ns() / NS_PER_S) + 1);
}

/* As Linux does it: SET, divider reset, write, undo. */
static void set_time(struct bench *b, int64_t t)
{
    uint8_t cmos[RTC_CMOS_BYTES] = {[RTC_REG_B] = get(b, RTC_REG_B)};
    uint8_t a = get(b, RTC_REG_A) & 0x7f;

    rtc_encode(cmos, t);
    put(b, RTC_REG_B, cmos[RTC_REG_B] | RTC_B_SET);
    put(b, RTC_REG_A, a | 0x70);
    for (unsigned i = 0; i < RTC_REG_A; i++)
        if (rtc_is_time_register((uint8_t)i))
            put(b, (uint8_t)i, cmos[i]);
    put(b, RTC_CENTURY, cmos[RTC_CENTURY]);
    put(b, RTC_REG_B, cmos[RTC_REG_B]);
    put(b, RTC_REG_A, a);
}

static void test_shows_the_hosts_time(void **state)
{
    struct bench *b = *state;

    assert_int_equal(get(b, RTC_REG_A) & 0x7f, 0x26);
    assert_int_equal(get(b, RTC_REG_B), RTC_B_24H);
    assert_int_equal(get(b, RTC_REG_D), RTC_D_VALID);
    assert_host_time_plus(b, 0);
    put(b, RTC_REG_B, RTC_B_24H | RTC_B_BINARY);
    assert_host_time_plus(b, 0);
    put(b, RTC_REG_B, 0);
    assert_host_time_plus(b, 0);
}

static void test_guest_sets_the_time(void **state)
{
    static const int64_t offsets[] = {-1261440000, 3600, 3153600000}; /* -40 to 100 years */
    struct bench *b = *state;

    for (size_t i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++) {
        set_time(b, (int64_t)(realtime_ns() / NS_PER_S) + offsets[i]);
        assert_host_time_plus(b, offsets[i]);
    }
    put(b, RTC_YEAR, 0x99); /* without SET: at once */
    assert_int_equal(get(b, RTC_YEAR), 0x99);
}

/* Behind a divider reset the first second takes half as long (data sheet). */
static void test_divider_reset_sets_the_fraction(void **state)
{
    struct bench *b = *state;
    uint64_t before = realtime_ns(), fraction;
    void *s;

    set_time(b, 1000000000);
    s = fake_state_capture(b->rtc);
    fraction = (before + fake_state_get(b->rtc, s, "offset_ns", 0)) % NS_PER_S;
    /* It was half a second at some moment between then and now. */
    assert_in_range((NS_PER_S + NS_PER_S / 2 - fraction) % NS_PER_S, 0, realtime_ns() - before);
    free(s);
}

static void test_set_without_writes_changes_nothing(void **state)
{
    struct bench *b = *state;
    void *before = fake_state_capture(b->rtc), *after;

    put(b, RTC_REG_B, RTC_B_24H | RTC_B_SET);
    assert_int_equal(get(b, RTC_REG_A) & RTC_A_UIP, 0);
    put(b, RTC_REG_B, RTC_B_24H);
    after = fake_state_capture(b->rtc);
    assert_int_equal(fake_state_get(b->rtc, after, "offset_s", 0),
                     fake_state_get(b->rtc, before, "offset_s", 0));
    assert_int_equal(fake_state_get(b->rtc, after, "offset_ns", 0),
                     fake_state_get(b->rtc, before, "offset_ns", 0));
    free(before);
    free(after);
}

/* The machine was away for a while: the guest sees the time that it is now. */
static void test_restored_clock_shows_the_hosts_time(void **state)
{
    struct bench *b = *state, *other;
    void *saved;

    set_time(b, (int64_t)(realtime_ns() / NS_PER_S) + 7200);
    assert_int_equal(b->rtc->ops->quiesce(b->rtc, NULL), 0);
    saved = fake_state_capture(b->rtc);
    /* Saved on Monday, restored on Wednesday. */
    fake_state_set(b->rtc, saved, "checked_s", 0,
                   fake_state_get(b->rtc, saved, "checked_s", 0) - 172800);
    setup((void **)&other);
    assert_int_equal(other->rtc->ops->commit(other->rtc, saved, NULL), 0);
    assert_int_equal(other->rtc->ops->resume(other->rtc, NULL), 0);
    assert_host_time_plus(other, 7200);
    free(saved);
    teardown((void **)&other);
}

static void test_nvram_holds_bytes(void **state)
{
    struct bench *b = *state;

    for (unsigned i = 0x0e; i < RTC_CMOS_BYTES; i++)
        if (i != RTC_CENTURY)
            put(b, (uint8_t)(i | 0x80), (uint8_t)(i ^ 0x5a)); /* bit 7 is the NMI mask */
    for (unsigned i = 0x0e; i < RTC_CMOS_BYTES; i++)
        if (i != RTC_CENTURY)
            assert_int_equal(get(b, (uint8_t)i), i ^ 0x5a);
    put(b, RTC_REG_C, 0xff);
    put(b, RTC_REG_D, 0x00);
    assert_int_equal(get(b, RTC_REG_C) & 0x0f, 0);
    assert_int_equal(get(b, RTC_REG_D), RTC_D_VALID);
    fake_out(b->fake, PORT_RTC, 0x7740, 2); /* index and data in one access */
    assert_int_equal(get(b, 0x40), 0x77);
}

static void wait_for(struct bench *b, uint8_t flag)
{
    if (b->fake->has_kvm)
        while (!fake_platform_line(b->fake, GSI_RTC)) /* by itself, without an access */
            usleep(1000);
    else
        while (!(get(b, RTC_REG_C) & flag))
            usleep(1000);
    if (b->fake->has_kvm)
        assert_int_equal(get(b, RTC_REG_C) & (flag | RTC_C_IRQF), flag | RTC_C_IRQF);
}

static void test_periodic_interrupt(void **state)
{
    struct bench *b = *state;

    put(b, RTC_REG_B, RTC_B_24H | RTC_B_PIE);
    for (int i = 0; i < 3; i++)
        wait_for(b, RTC_C_PF);
    put(b, RTC_REG_B, RTC_B_24H);
    get(b, RTC_REG_C);
    if (b->fake->has_kvm)
        assert_false(fake_platform_line(b->fake, GSI_RTC));
}

static void test_update_and_alarm_interrupts(void **state)
{
    struct bench *b = *state;

    put(b, RTC_HOURS_ALARM, 0xff);
    put(b, RTC_MINUTES_ALARM, 0xff);
    put(b, RTC_SECONDS_ALARM, 0xff);
    get(b, RTC_REG_C);
    put(b, RTC_REG_B, RTC_B_24H | RTC_B_UIE);
    wait_for(b, RTC_C_UF);
    put(b, RTC_REG_B, RTC_B_24H | RTC_B_AIE);
    get(b, RTC_REG_C);
    wait_for(b, RTC_C_AF);
}

/* An alarm that was due while nobody ran is told as soon as the guest is back. */
static void test_alarm_missed_while_away(void **state)
{
    struct bench *b = *state;
    void *s;

    assert_int_equal(b->rtc->ops->quiesce(b->rtc, NULL), 0);
    s = fake_state_capture(b->rtc);
    fake_state_set(b->rtc, s, "cmos", RTC_REG_B, RTC_B_24H | RTC_B_AIE);
    fake_state_set(b->rtc, s, "cmos", RTC_REG_C, 0);
    fake_state_set(b->rtc, s, "cmos", RTC_HOURS_ALARM, 0x03);
    fake_state_set(b->rtc, s, "checked_s", 0, fake_state_get(b->rtc, s, "checked_s", 0) - 86400);
    assert_int_equal(b->rtc->ops->commit(b->rtc, s, NULL), 0);
    free(s);
    assert_int_equal(b->rtc->ops->resume(b->rtc, NULL), 0);
    if (b->fake->has_kvm)
        assert_true(fake_platform_line(b->fake, GSI_RTC));
    assert_int_equal(get(b, RTC_REG_C) & (RTC_C_IRQF | RTC_C_AF), RTC_C_IRQF | RTC_C_AF);
    assert_int_equal(get(b, RTC_REG_C) & RTC_C_AF, 0);
}

static void test_reset_keeps_time_and_memory(void **state)
{
    struct bench *b = *state;

    set_time(b, (int64_t)(realtime_ns() / NS_PER_S) + 86400);
    put(b, 0x20, 0x12);
    put(b, RTC_REG_B, RTC_B_24H | RTC_B_PIE | RTC_B_AIE);
    b->rtc->ops->reset(b->rtc);
    assert_int_equal(get(b, RTC_REG_B), RTC_B_24H);
    assert_int_equal(get(b, 0x20), 0x12);
    assert_host_time_plus(b, 86400);
}

static void fix(const struct device *device, void *s, uint64_t *seed)
{
    fake_state_set(device, s, "cmos", RTC_REG_A, fake_random(seed) & 0x7f);
    fake_state_set(device, s, "cmos", RTC_REG_C, fake_random(seed) & RTC_C_FLAGS);
    fake_state_set(device, s, "offset_s", 0, fake_random(seed) % 2000000000000 - 1000000000000);
    fake_state_set(device, s, "checked_s", 0, fake_random(seed) % 1000000000000);
}

static void test_state(void **state)
{
    static const struct {
        const char *field;
        uint32_t index;
        uint64_t value;
    } bad[] = {{"index", 0, 128},           {"offset_ns", 0, NS_PER_S},
               {"offset_s", 0, INT64_MAX},  {"offset_s", 0, (uint64_t)INT64_MIN},
               {"checked_s", 0, INT64_MAX}, {"cmos", RTC_REG_A, 0x80},
               {"cmos", RTC_REG_C, 0x01}};
    struct bench *b = *state;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        void *s = fake_state_capture(b->rtc);

        fake_state_set(b->rtc, s, bad[i].field, bad[i].index, bad[i].value);
        fake_check_refused(b->rtc, s, NULL);
        free(s);
    }
    fake_check_round_trip(b->rtc, fix, NULL, 300);
}

/* A guest that writes at random, in any valid state, does no harm (for the sanitizers). */
static void test_random_accesses(void **state)
{
    struct bench *b = *state;
    uint64_t seed = 11;

    for (int i = 0; i < 50000; i++) {
        uint64_t r = fake_random(&seed);

        if (r & 1)
            put(b, (uint8_t)(r >> 8), (uint8_t)(r >> 16));
        else
            get(b, (uint8_t)(r >> 8 & 0x0f));
    }
    assert_int_equal(b->rtc->ops->quiesce(b->rtc, NULL), 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dates_agree_with_the_c_library),
        cmocka_unit_test(test_every_format_reads_back),
        cmocka_unit_test(test_twelve_hour_clock),
        cmocka_unit_test(test_nonsense_dates_do_no_harm),
        cmocka_unit_test(test_alarm_distance),
        cmocka_unit_test(test_periods),
        T(test_shows_the_hosts_time),
        T(test_guest_sets_the_time),
        T(test_divider_reset_sets_the_fraction),
        T(test_set_without_writes_changes_nothing),
        T(test_restored_clock_shows_the_hosts_time),
        T(test_nvram_holds_bytes),
        T(test_periodic_interrupt),
        T(test_update_and_alarm_interrupts),
        T(test_alarm_missed_while_away),
        T(test_reset_keeps_time_and_memory),
        T(test_state),
        T(test_random_accesses),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
