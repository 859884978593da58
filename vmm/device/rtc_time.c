/*
 * Dates are those of the proleptic Gregorian calendar.  Day numbers follow the usual trick of
 * letting the year begin in March, so that the leap day is its last.
 */
#include "vmm/device/rtc_time.h"

#define DAY_SECONDS     86400
#define HOUR_PM         0x80 /* in 12-hour mode */
#define ALARM_DONT_CARE 0xc0
#define DAYS_TO_1970    719468 /* from 0000-03-01 */
#define DAYS_400_YEARS  146097

struct date {
    int64_t year;
    unsigned month; /* 1..12 */
    unsigned day;   /* 1..31 */
};

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0 ? 1 : 0);
}

static int64_t days_from_date(struct date d)
{
    int64_t year = d.month <= 2 ? d.year - 1 : d.year;
    int64_t era = floor_div(year, 400);
    int64_t year_of_era = year - era * 400;
    int64_t day_of_year = (153 * (d.month + (d.month > 2 ? -3u : 9u)) + 2) / 5 + d.day - 1;
    int64_t day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;

    return era * DAYS_400_YEARS + day_of_era - DAYS_TO_1970;
}

static struct date date_from_days(int64_t days)
{
    int64_t z = days + DAYS_TO_1970;
    int64_t era = floor_div(z, DAYS_400_YEARS);
    int64_t day_of_era = z - era * DAYS_400_YEARS;
    int64_t year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    int64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    unsigned month = (unsigned)((5 * day_of_year + 2) / 153); /* 0: March */
    struct date d = {
        .year = year_of_era + era * 400 + (month >= 10 ? 1 : 0),
        .month = month < 10 ? month + 3 : month - 9,
        .day = (unsigned)(day_of_year - (153 * month + 2) / 5 + 1),
    };

    return d;
}

bool rtc_is_time_register(uint8_t index)
{
    return index == RTC_SECONDS || index == RTC_MINUTES || index == RTC_HOURS ||
           (index >= RTC_WEEKDAY && index <= RTC_YEAR) || index == RTC_CENTURY;
}

static uint8_t to_format(uint8_t reg_b, unsigned value)
{
    return (uint8_t)(reg_b & RTC_B_BINARY ? value : value / 10 << 4 | value % 10);
}

static unsigned from_format(uint8_t reg_b, uint8_t value)
{
    return reg_b & RTC_B_BINARY ? value : (value >> 4) * 10u + (value & 0xf);
}

static uint8_t hour_to_format(uint8_t reg_b, unsigned hour)
{
    if (reg_b & RTC_B_24H)
        return to_format(reg_b, hour);
    return to_format(reg_b, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOUR_PM : 0);
}

static unsigned hour_from_format(uint8_t reg_b, uint8_t value)
{
    if (reg_b & RTC_B_24H)
        return from_format(reg_b, value);
    return from_format(reg_b, value & ~HOUR_PM) % 12 + (value & HOUR_PM ? 12 : 0);
}

void rtc_encode(uint8_t cmos[RTC_CMOS_BYTES], int64_t seconds)
{
    uint8_t b = cmos[RTC_REG_B];
    int64_t days = floor_div(seconds, DAY_SECONDS);
    unsigned of_day = (unsigned)(seconds - days * DAY_SECONDS);
    struct date d = date_from_days(days);
    unsigned year = (unsigned)(d.year - floor_div(d.year, 10000) * 10000);

    cmos[RTC_SECONDS] = to_format(b, of_day % 60);
    cmos[RTC_MINUTES] = to_format(b, of_day / 60 % 60);
    cmos[RTC_HOURS] = hour_to_format(b, of_day / 3600);
    cmos[RTC_WEEKDAY] = to_format(b, (unsigned)(days + 4 - floor_div(days + 4, 7) * 7) + 1);
    cmos[RTC_DAY] = to_format(b, d.day);
    cmos[RTC_MONTH] = to_format(b, d.month);
    cmos[RTC_YEAR] = to_format(b, year % 100);
    cmos[RTC_CENTURY] = to_format(b, year / 100);
}

int64_t rtc_decode(const uint8_t cmos[RTC_CMOS_BYTES])
{
    uint8_t b = cmos[RTC_REG_B];
    unsigned month = from_format(b, cmos[RTC_MONTH]);
    struct date d = {
        .year = from_format(b, cmos[RTC_CENTURY]) * INT64_C(100) + from_format(b, cmos[RTC_YEAR]),
        .month = month < 1    ? 1
                 : month > 12 ? 12
                              : month,
        .day = from_format(b, cmos[RTC_DAY]),
    };

    return days_from_date(d) * DAY_SECONDS + hour_from_format(b, cmos[RTC_HOURS]) * INT64_C(3600) +
           from_format(b, cmos[RTC_MINUTES]) * INT64_C(60) + from_format(b, cmos[RTC_SECONDS]);
}

static bool alarm_matches(uint8_t reg, unsigned decoded, unsigned now)
{
    return (reg & ALARM_DONT_CARE) == ALARM_DONT_CARE || decoded == now;
}

uint32_t rtc_alarm_distance(const uint8_t cmos[RTC_CMOS_BYTES], int64_t seconds)
{
    uint8_t b = cmos[RTC_REG_B];
    unsigned hour = hour_from_format(b, cmos[RTC_HOURS_ALARM]);
    unsigned minute = from_format(b, cmos[RTC_MINUTES_ALARM]);
    unsigned second = from_format(b, cmos[RTC_SECONDS_ALARM]);
    uint32_t start = (uint32_t)(seconds - floor_div(seconds, DAY_SECONDS) * DAY_SECONDS);
    uint32_t distance = 1;

    /* Skip hours and minutes that do not match as a whole. */
    while (distance <= DAY_SECONDS) {
        uint32_t at = (start + distance) % DAY_SECONDS;

        if (!alarm_matches(cmos[RTC_HOURS_ALARM], hour, at / 3600))
            distance += 3600 - at % 3600;
        else if (!alarm_matches(cmos[RTC_MINUTES_ALARM], minute, at / 60 % 60))
            distance += 60 - at % 60;
        else if (!alarm_matches(cmos[RTC_SECONDS_ALARM], second, at % 60))
            distance++;
        else
            return distance;
    }
    return 0;
}

uint32_t rtc_period_ticks(uint8_t reg_a)
{
    unsigned rate = reg_a & RTC_A_RATE;

    if (rate == 0)
        return 0;
    return 1u << ((rate <= 2 ? rate + 7 : rate) - 1); /* rates 1 and 2 repeat 8 and 9 */
}
