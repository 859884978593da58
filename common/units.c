/* Parsing and printing of sizes and times. */
#include "common/units.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/limits.h"

/* A non-negative decimal number with an optional fraction; *rest is what follows it. */
static int parse_decimal(const char *text, double *value, const char **rest)
{
    size_t digits = strspn(text, "0123456789");
    size_t length = digits;

    if (text[length] == '.')
        length += 1 + strspn(text + length + 1, "0123456789");
    if (!digits || text[length - 1] == '.')
        return -EINVAL;
    char *end;
    *value = strtod(text, &end);
    *rest = text + length;
    return end == *rest ? 0 : -EINVAL;
}

int parse_size(const char *what, const char *text, uint64_t *bytes, struct ferry_error *err)
{
    static const char suffixes[] = "KMGT";
    const char *rest;
    double value;
    unsigned shift = 0;

    if (parse_decimal(text, &value, &rest))
        goto bad;
    const char *suffix = *rest ? strchr(suffixes, *rest) : NULL;
    if (suffix) {
        shift = 10 * (unsigned)(suffix - suffixes + 1);
        rest++;
    }
    if (strcmp(rest, "") && strcmp(rest, "B") && !(suffix && !strcmp(rest, "iB")))
        goto bad;
    value = ldexp(value, (int)shift);
    if (!(value < 9.2e18))
        return ferry_usage(err, what, "'%s' is too large", text);
    *bytes = (uint64_t)value;
    return 0;
bad:
    return ferry_usage(err, what, "'%s' is not a size; write for example 512M or 2G", text);
}

int parse_duration(const char *what, const char *text, uint64_t *ns, struct ferry_error *err)
{
    static const struct {
        const char *unit;
        double ns;
    } units[] = {{"ns", 1}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}, {"m", 60e9}};
    const char *rest;
    double value;

    if (!parse_decimal(text, &value, &rest)) {
        if (value == 0 && !*rest) {
            *ns = 0;
            return 0;
        }
        for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
            if (strcmp(rest, units[i].unit))
                continue;
            if (!(value * units[i].ns < 9.2e18))
                return ferry_usage(err, what, "'%s' is too long", text);
            *ns = (uint64_t)(value * units[i].ns);
            return 0;
        }
    }
    return ferry_usage(err, what, "'%s' is not a time; write for example 100ms or 2s", text);
}

int parse_number(const char *what, const char *text, uint64_t min, uint64_t max, uint64_t *value,
                 struct ferry_error *err)
{
    size_t digits = strspn(text, "0123456789");

    errno = 0;
    unsigned long long parsed = strtoull(text, NULL, 10);
    if (!digits || text[digits] || errno || parsed < min || parsed > max)
        return ferry_usage(err, what, "'%s' is not a number from %llu to %llu", text,
                           (unsigned long long)min, (unsigned long long)max);
    *value = parsed;
    return 0;
}

const char *format_size(uint64_t bytes, char *text, size_t size)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double value = (double)bytes;
    int unit = -1;

    while (value >= 1024 && unit < 5) {
        value /= 1024;
        unit++;
    }
    if (unit < 0)
        snprintf(text, size, "%llu B", (unsigned long long)bytes);
    else
        snprintf(text, size, "%.1f %s", value, units[unit]);
    return text;
}

const char *format_duration(uint64_t ns, char *text, size_t size)
{
    if (ns < 1000000)
        snprintf(text, size, "%llu us", (unsigned long long)(ns / 1000));
    else if (ns < 1000000000)
        snprintf(text, size, "%.1f ms", (double)ns / 1e6);
    else
        snprintf(text, size, "%.2f s", (double)ns / 1e9);
    return text;
}
