/*
 * The CMOS clock: MC146818 with 128 bytes of battery-backed RAM, ports PORT_RTC and PORT_RTC + 1,
 * GSI_RTC.  Its time is the host's CLOCK_REALTIME plus an offset, the only part of it that is
 * state: a restored or moved machine shows the right time by itself.
 */
#ifndef FERRY_VMM_DEVICE_RTC_H
#define FERRY_VMM_DEVICE_RTC_H

#include "vmm/device.h"
#include "vmm/platform.h"

extern const struct state_table rtc_table;

/* Device "rtc".  Errors: of bus_add, timerfd and thread creation, -ENOMEM. */
int rtc_create(const struct platform *platform, struct device **out, struct ferry_error *err);

#endif
