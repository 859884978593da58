/*
 * The arithmetic of the CMOS clock, without a clock: calendar, register formats, alarms.
 */
#ifndef FERRY_VMM_DEVICE_RTC_TIME_H
#define FERRY_VMM_DEVICE_RTC_TIME_H

#include <stdbool.h>
#include <stdint.h>

/* Registers of the MC146818 and of the PC behind it */
enum rtc_register {
    RTC_SECONDS = 0x00,
    RTC_SECONDS_ALARM = 0x01,
    RTC_MINUTES = 0x02,
    RTC_MINUTES_ALARM = 0x03,
    RTC_HOURS = 0x04,
    RTC_HOURS_ALARM = 0x05,
    RTC_WEEKDAY = 0x06,
    RTC_DAY = 0x07,
    RTC_MONTH = 0x08,
    RTC_YEAR = 0x09,
    RTC_REG_A = 0x0a,
    RTC_REG_B = 0x0b,
    RTC_REG_C = 0x0c,
    RTC_REG_D = 0x0d,
    RTC_CENTURY = 0x32, /* FADT CENTURY */
    RTC_CMOS_BYTES = 128,
};

enum {
    RTC_A_UIP = 0x80,
    RTC_A_DIVIDER = 0x70,
    RTC_A_DIVIDER_RESET = 0x60, /* 11x: the divider is held at zero */
    RTC_A_RATE = 0x0f,

    RTC_B_SET = 0x80,
    RTC_B_PIE = 0x40,
    RTC_B_AIE = 0x20,
    RTC_B_UIE = 0x10,
    RTC_B_SQWE = 0x08,
    RTC_B_BINARY = 0x04,
    RTC_B_24H = 0x02,

    RTC_C_IRQF = 0x80,
    RTC_C_PF = 0x40, /* the three flags sit where register B has their enables */
    RTC_C_AF = 0x20,
    RTC_C_UF = 0x10,
    RTC_C_FLAGS = RTC_C_PF | RTC_C_AF | RTC_C_UF,

    RTC_D_VALID = 0x80, /* the battery is good */
};

/* True for the registers that hold the time (not the alarm). */
bool rtc_is_time_register(uint8_t index);
/* Put seconds since 1970 (years 0..9999) into the time registers, in the format of register B. */
void rtc_encode(uint8_t cmos[RTC_CMOS_BYTES], int64_t seconds);
/* The reverse.  What makes no sense as a date gives some date, never a fault. */
int64_t rtc_decode(const uint8_t cmos[RTC_CMOS_BYTES]);
/* Seconds from `seconds` to the next match of the alarm registers, 1..86400; 0: it never matches.
 */
uint32_t rtc_alarm_distance(const uint8_t cmos[RTC_CMOS_BYTES], int64_t seconds);
/* The period of register A's rate in ticks of 32768 Hz; 0: off. */
uint32_t rtc_period_ticks(uint8_t reg_a);

#endif
