/*
 * The CMOS clock.  Nothing ticks here: the guest's time is the host's CLOCK_REALTIME plus an
 * offset, put into registers when the guest reads them.  When the guest sets the time, the offset
 * changes.  Flags of register C are worked out at each access from what the clock has passed since
 * the last one; only while an interrupt is enabled, and its flag not yet set, an alarm is armed for
 * the moment at which the flag is due.
 *
 * While register B has SET, the time registers are plain memory; the clock goes on below, and
 * takes over what was written when SET is cleared.
 */
#include "vmm/device/rtc.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "vmm/deadline.h"
#include "vmm/device/rtc_time.h"
#include "vmm/layout.h"

#define NS_PER_S   UINT64_C(1000000000)
#define TICK_HZ    32768
#define UIP_NS     2228000 /* data sheet: 244 us of warning and 1984 us of update */
#define HALF_S_NS  500000000u
#define REG_A_INIT 0x26 /* 32768 Hz crystal, 1024 Hz rate */
/* Offsets that lead from any host's clock to any year of four digits. */
#define OFFSET_MOST INT64_C(1000000000000)

struct rtc_state {
    uint8_t index; /* of the register behind the data port */
    uint8_t cmos[RTC_CMOS_BYTES];
    uint64_t offset_s; /* two's complement; guest = host's CLOCK_REALTIME + offset */
    uint32_t offset_ns;
    bool time_written;  /* since SET */
    uint64_t checked_s; /* two's complement; guest time up to which flags are worked out */
    uint64_t checked_tick;
};

static bool in_offset_range(uint64_t value)
{
    int64_t s = (int64_t)value;

    return s >= -OFFSET_MOST && s <= OFFSET_MOST;
}

static int check_state(const void *state, const struct state_context *context,
                       struct ferry_error *err)
{
    const struct rtc_state *s = state;

    (void)context;
    if (!in_offset_range(s->offset_s) || !in_offset_range(s->checked_s))
        return ferry_refuse(err, -EBADMSG, "rtc", "the clock is set to no date that exists");
    if (s->cmos[RTC_REG_A] & RTC_A_UIP || s->cmos[RTC_REG_C] & ~RTC_C_FLAGS)
        return ferry_refuse(err, -EBADMSG, "rtc", "a register has bits set that cannot be");
    return 0;
}

static const struct state_field rtc_fields[] = {
    STATE_RANGE(STATE_U8, struct rtc_state, index, 1, 1, 0, RTC_CMOS_BYTES - 1),
    STATE_ARRAY(STATE_U8, struct rtc_state, cmos, 2, 1),
    STATE_SCALAR(STATE_U64, struct rtc_state, offset_s, 3, 1),
    STATE_RANGE(STATE_U32, struct rtc_state, offset_ns, 4, 1, 0, NS_PER_S - 1),
    STATE_SCALAR(STATE_BOOL, struct rtc_state, time_written, 5, 1),
    STATE_SCALAR(STATE_U64, struct rtc_state, checked_s, 6, 1),
    STATE_SCALAR(STATE_U64, struct rtc_state, checked_tick, 7, 1),
};

const struct state_table rtc_table = {
    .name = "rtc",
    .version = 1,
    .size = sizeof(struct rtc_state),
    .fields = rtc_fields,
    .field_count = sizeof(rtc_fields) / sizeof(rtc_fields[0]),
    .check = check_state,
};

struct rtc {
    struct device device;
    struct platform platform;
    struct bus_region region;
    struct deadline *alarm;
    pthread_mutex_t lock; /* guards all below */
    struct rtc_state regs;
    bool runs;      /* between resume and quiesce */
    bool line_high; /* as last driven */
};

/* A moment of the guest's clock. */
struct moment {
    int64_t s;
    uint32_t ns;
};

static struct rtc *rtc_of(struct device *device)
{
    return (struct rtc *)device;
}

static struct moment guest_now(const struct rtc *rtc)
{
    uint64_t host = realtime_ns();
    uint64_t ns = host % NS_PER_S + rtc->regs.offset_ns;

    return (struct moment){
        .s = (int64_t)(host / NS_PER_S) + (int64_t)rtc->regs.offset_s + (ns >= NS_PER_S ? 1 : 0),
        .ns = (uint32_t)(ns % NS_PER_S),
    };
}

static uint64_t tick_of(struct moment m)
{
    return (uint64_t)m.s * TICK_HZ + (uint64_t)m.ns * TICK_HZ / NS_PER_S;
}

/* Choose the offset that makes it `wanted` now. */
static void set_guest_now(struct rtc *rtc, struct moment wanted)
{
    uint64_t host = realtime_ns();
    int64_t ns = (int64_t)wanted.ns - (int64_t)(host % NS_PER_S);
    int64_t s = wanted.s - (int64_t)(host / NS_PER_S);

    if (ns < 0) {
        ns += (int64_t)NS_PER_S;
        s--;
    }
    rtc->regs.offset_s = (uint64_t)s;
    rtc->regs.offset_ns = (uint32_t)ns;
    rtc->regs.checked_s = (uint64_t)wanted.s;
    rtc->regs.checked_tick = tick_of(wanted);
}

/* Set what the clock has passed since the last look.  A clock set back has passed nothing. */
static void update_flags(struct rtc *rtc, struct moment now)
{
    struct rtc_state *s = &rtc->regs;
    int64_t checked = (int64_t)s->checked_s;
    uint32_t period = rtc_period_ticks(s->cmos[RTC_REG_A]);
    uint64_t tick = tick_of(now);

    if (now.s > checked && !(s->cmos[RTC_REG_B] & RTC_B_SET)) {
        uint32_t distance = rtc_alarm_distance(s->cmos, checked);

        s->cmos[RTC_REG_C] |= RTC_C_UF;
        if (distance != 0 && now.s - checked >= distance)
            s->cmos[RTC_REG_C] |= RTC_C_AF;
    }
    if (period != 0 && tick / period != s->checked_tick / period)
        s->cmos[RTC_REG_C] |= RTC_C_PF;
    s->checked_s = (uint64_t)now.s;
    s->checked_tick = tick;
}

/* Nanoseconds until the first flag that is still to come and whose interrupt is enabled. */
static uint64_t next_event_ns(const struct rtc *rtc, struct moment now)
{
    const struct rtc_state *s = &rtc->regs;
    uint8_t wanted = s->cmos[RTC_REG_B] & ~s->cmos[RTC_REG_C];
    bool updates = !(s->cmos[RTC_REG_B] & RTC_B_SET);
    uint32_t period = rtc_period_ticks(s->cmos[RTC_REG_A]);
    uint64_t least = UINT64_MAX;

    if (wanted & RTC_B_UIE && updates)
        least = NS_PER_S - now.ns;
    if (wanted & RTC_B_AIE && updates) {
        uint32_t distance = rtc_alarm_distance(s->cmos, now.s);

        if (distance != 0 && distance * NS_PER_S - now.ns < least)
            least = distance * NS_PER_S - now.ns;
    }
    if (wanted & RTC_B_PIE && period != 0) {
        uint64_t ticks = period - tick_of(now) % period;

        if (ticks * NS_PER_S / TICK_HZ + 1 < least)
            least = ticks * NS_PER_S / TICK_HZ + 1;
    }
    return least;
}

static void drive_line(struct rtc *rtc)
{
    bool high = rtc->regs.cmos[RTC_REG_B] & rtc->regs.cmos[RTC_REG_C] & RTC_C_FLAGS;

    if (high != rtc->line_high)
        irq_set_line(rtc->platform.irq, GSI_RTC, high);
    rtc->line_high = high;
}

/* Bring flags, interrupt line and alarm up to date.  At each access, and when the alarm rings. */
static struct moment update(struct rtc *rtc)
{
    struct moment now = guest_now(rtc);
    uint64_t distance;

    update_flags(rtc, now);
    drive_line(rtc);
    distance = rtc->runs ? next_event_ns(rtc, now) : UINT64_MAX;
    if (deadline_set(rtc->alarm,
                     distance == UINT64_MAX ? DEADLINE_NEVER : monotonic_ns() + distance) < 0)
        log_warn(rtc->platform.log, "rtc: no thread for the clock's interrupts");
    return now;
}

static void alarm_expired(void *opaque)
{
    struct rtc *rtc = opaque;

    LOCK_SCOPE(&rtc->lock);
    if (rtc->runs)
        update(rtc);
}

static bool is_setting(const struct rtc_state *s)
{
    return s->cmos[RTC_REG_B] & RTC_B_SET;
}

static uint8_t read_c(struct rtc *rtc)
{
    uint8_t value = rtc->regs.cmos[RTC_REG_C];

    if (value & rtc->regs.cmos[RTC_REG_B] & RTC_C_FLAGS)
        value |= RTC_C_IRQF;
    rtc->regs.cmos[RTC_REG_C] = 0;
    update(rtc);
    return value;
}

static uint8_t read_cmos(struct rtc *rtc)
{
    struct rtc_state *s = &rtc->regs;
    struct moment now = update(rtc);

    if (rtc_is_time_register(s->index) && !is_setting(s))
        rtc_encode(s->cmos, now.s);
    switch (s->index) {
    case RTC_REG_A:
        return s->cmos[RTC_REG_A] | (!is_setting(s) && now.ns >= NS_PER_S - UIP_NS ? RTC_A_UIP : 0);
    case RTC_REG_C:
        return read_c(rtc);
    case RTC_REG_D:
        return RTC_D_VALID;
    default:
        return s->cmos[s->index];
    }
}

/*
 * The time registers say what time it is.  The divider goes on, so the second's fraction stays;
 * after a reset of the divider the next update is half a second away (data sheet).
 */
static void take_over_time(struct rtc *rtc)
{
    struct moment wanted = {.s = rtc_decode(rtc->regs.cmos), .ns = guest_now(rtc).ns};

    if ((rtc->regs.cmos[RTC_REG_A] & RTC_A_DIVIDER_RESET) == RTC_A_DIVIDER_RESET)
        wanted.ns = HALF_S_NS;
    set_guest_now(rtc, wanted);
    rtc->regs.time_written = false;
}

static void write_time(struct rtc *rtc, uint8_t value)
{
    struct rtc_state *s = &rtc->regs;

    if (!is_setting(s))
        rtc_encode(s->cmos, guest_now(rtc).s);
    s->cmos[s->index] = value;
    s->time_written = true;
    if (!is_setting(s))
        take_over_time(rtc);
}

static void write_b(struct rtc *rtc, uint8_t value)
{
    struct rtc_state *s = &rtc->regs;
    bool was_setting = is_setting(s);

    if (value & RTC_B_SET)
        value &= (uint8_t)~RTC_B_UIE; /* data sheet: SET clears UIE */
    s->cmos[RTC_REG_B] = value;
    if (!was_setting && is_setting(s)) { /* the time registers stand still from here on */
        rtc_encode(s->cmos, guest_now(rtc).s);
        s->time_written = false;
    } else if (was_setting && !is_setting(s)) {
        if (s->time_written)
            take_over_time(rtc);
        s->checked_s = (uint64_t)guest_now(rtc).s; /* no updates took place meanwhile */
    }
}

static void write_cmos(struct rtc *rtc, uint8_t value)
{
    struct rtc_state *s = &rtc->regs;

    update(rtc);
    if (rtc_is_time_register(s->index))
        write_time(rtc, value);
    else if (s->index == RTC_REG_A)
        s->cmos[RTC_REG_A] = value & (uint8_t)~RTC_A_UIP;
    else if (s->index == RTC_REG_B)
        write_b(rtc, value);
    else if (s->index != RTC_REG_C && s->index != RTC_REG_D)
        s->cmos[s->index] = value;
    update(rtc);
}

static uint64_t rtc_read(void *opaque, uint64_t offset, unsigned size)
{
    struct rtc *rtc = opaque;

    if (offset == 1)
        return read_cmos(rtc);
    /* The index port is write-only; a word read takes in the data port. */
    return size == 2 ? 0xff | (uint64_t)read_cmos(rtc) << 8 : 0xff;
}

static void rtc_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct rtc *rtc = opaque;

    if (offset == 0)
        rtc->regs.index = value & (RTC_CMOS_BYTES - 1); /* bit 7 masks NMI: there is none */
    if (offset == 1 || size == 2)
        write_cmos(rtc, (uint8_t)(value >> (offset == 1 ? 0 : 8)));
}

/* The RESET pin: interrupts and flags go, time and memory stay. */
static void rtc_reset(struct device *device)
{
    struct rtc *rtc = rtc_of(device);

    LOCK_SCOPE(&rtc->lock);
    rtc->regs.index = 0;
    rtc->regs.cmos[RTC_REG_B] &= (uint8_t) ~(RTC_B_PIE | RTC_B_AIE | RTC_B_UIE | RTC_B_SQWE);
    rtc->regs.cmos[RTC_REG_C] = 0;
    update(rtc);
}

static int rtc_quiesce(struct device *device, struct ferry_error *err)
{
    struct rtc *rtc = rtc_of(device);

    (void)err;
    LOCK_SCOPE(&rtc->lock);
    rtc->runs = false;
    deadline_set(rtc->alarm, DEADLINE_NEVER);
    return 0;
}

/* KVM forgets the level of a line over save and load, so it is driven anew. */
static int rtc_resume(struct device *device, struct ferry_error *err)
{
    struct rtc *rtc = rtc_of(device);

    (void)err;
    LOCK_SCOPE(&rtc->lock);
    rtc->runs = true;
    rtc->line_high = false;
    irq_set_line(rtc->platform.irq, GSI_RTC, false);
    update(rtc);
    return 0;
}

static void rtc_capture(struct device *device, void *state)
{
    struct rtc *rtc = rtc_of(device);

    LOCK_SCOPE(&rtc->lock);
    *(struct rtc_state *)state = rtc->regs;
}

static int rtc_commit(struct device *device, const void *state, struct ferry_error *err)
{
    struct rtc *rtc = rtc_of(device);

    (void)err;
    LOCK_SCOPE(&rtc->lock);
    rtc->runs = false;
    deadline_set(rtc->alarm, DEADLINE_NEVER);
    rtc->regs = *(const struct rtc_state *)state;
    return 0;
}

static void rtc_destroy(struct device *device)
{
    struct rtc *rtc = rtc_of(device);

    bus_remove(rtc->platform.pio, &rtc->region);
    deadline_destroy(rtc->alarm);
    pthread_mutex_destroy(&rtc->lock);
    free(rtc);
}

static const struct device_ops rtc_ops = {
    .reset = rtc_reset,
    .quiesce = rtc_quiesce,
    .resume = rtc_resume,
    .capture = rtc_capture,
    .commit = rtc_commit,
    .destroy = rtc_destroy,
};

/* A clock with a full battery that shows the host's time (UTC). */
static void init_registers(struct rtc *rtc)
{
    struct moment now = guest_now(rtc);

    rtc->regs.cmos[RTC_REG_A] = REG_A_INIT;
    rtc->regs.cmos[RTC_REG_B] = RTC_B_24H;
    rtc->regs.checked_s = (uint64_t)now.s;
    rtc->regs.checked_tick = tick_of(now);
    rtc_encode(rtc->regs.cmos, now.s);
}

int rtc_create(const struct platform *platform, struct device **out, struct ferry_error *err)
{
    struct rtc *rtc = calloc(1, sizeof(*rtc));
    int ret;

    if (!rtc)
        return ferry_fail(err, -ENOMEM, "rtc", "out of memory");
    rtc->device = (struct device){.name = "rtc", .table = &rtc_table, .ops = &rtc_ops};
    rtc->platform = *platform;
    rtc->region = (struct bus_region){.start = PORT_RTC,
                                      .size = 2,
                                      .name = "rtc",
                                      .lock = &rtc->lock,
                                      .opaque = rtc,
                                      .read = rtc_read,
                                      .write = rtc_write};
    rtc->runs = true;
    pthread_mutex_init(&rtc->lock, NULL);
    init_registers(rtc);
    ret = deadline_create(alarm_expired, rtc, &rtc->alarm, err);
    if (ret == 0)
        ret = bus_add(platform->pio, &rtc->region, err);
    if (ret < 0) {
        deadline_destroy(rtc->alarm);
        pthread_mutex_destroy(&rtc->lock);
        free(rtc);
        return ret;
    }
    *out = &rtc->device;
    return 0;
}
