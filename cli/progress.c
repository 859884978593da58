/* The bar and the JSON lines of long work. */
#include "cli/progress.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/output.h"
#include "common/clock.h"
#include "common/file.h"
#include "common/units.h"

#define SHOW_EVERY_NS    100000000u
#define BAR_CELLS        30
#define PREDICT_AFTER_NS 500000000u /* of a phase */

int progress_view_init(struct progress_view *view, const struct progress_options *options,
                       struct ferry_error *err)
{
    const char *mode = options->mode ? options->mode : options->fd ? "json" : "auto";
    uint64_t fd = STDERR_FILENO;

    *view = (struct progress_view){0};
    if (!strcmp(mode, "json"))
        view->mode = PROGRESS_JSON;
    else if (!strcmp(mode, "bar") || (!strcmp(mode, "auto") && isatty(STDERR_FILENO)))
        view->mode = PROGRESS_BAR;
    else if (strcmp(mode, "none") && strcmp(mode, "auto"))
        return ferry_usage(err, "--progress", "'%.40s' is not auto, bar, json or none", mode);
    if (options->fd) {
        int error = parse_number("--progress-fd", options->fd, 0, 65535, &fd, err);
        if (error)
            return error;
        if (fcntl((int)fd, F_GETFD) < 0)
            return ferry_usage(err, "--progress-fd", "descriptor %d is not open", (int)fd);
        if (view->mode == PROGRESS_BAR)
            return ferry_usage(err, "--progress-fd", "takes JSON lines, not a bar");
    }
    view->fd = (int)fd;
    return 0;
}

json_t *progress_to_json(const struct progress_report *report)
{
    return json_pack("{s:s, s:i, s:I, s:I, s:I, s:I}", "phase", report->phase, "round",
                     (int)report->round, "done_bytes", (json_int_t)report->done_bytes,
                     "total_bytes", (json_int_t)report->total_bytes, "sent_bytes",
                     (json_int_t)report->sent_bytes, "rate_bytes_per_s",
                     (json_int_t)report->rate_bytes_per_s);
}

static uint64_t number(const json_t *data, const char *key)
{
    return (uint64_t)json_integer_value(json_object_get(data, key));
}

struct progress_report progress_from_json(const json_t *data)
{
    const char *phase = json_string_value(json_object_get(data, "phase"));

    return (struct progress_report){
        .phase = phase ? phase : "",
        .round = (unsigned)number(data, "round"),
        .done_bytes = number(data, "done_bytes"),
        .total_bytes = number(data, "total_bytes"),
        .sent_bytes = number(data, "sent_bytes"),
        .rate_bytes_per_s = number(data, "rate_bytes_per_s"),
    };
}

/* What is left of the phase, if it goes on as until now; 0: nobody can tell yet. */
static uint64_t predict_left_ns(const struct progress_view *view,
                                const struct progress_report *report)
{
    uint64_t elapsed = view->shown_ns - view->began_ns;

    if (elapsed < PREDICT_AFTER_NS || report->done_bytes <= view->began_bytes ||
        report->done_bytes >= report->total_bytes)
        return 0;
    return (uint64_t)((double)elapsed * (double)(report->total_bytes - report->done_bytes) /
                      (double)(report->done_bytes - view->began_bytes));
}

static void show_json(const struct progress_view *view, const struct progress_report *report)
{
    json_t *value = progress_to_json(report);
    uint64_t left = predict_left_ns(view, report);

    if (left && value)
        json_object_set_new(value, "predicted_left_ms", output_ms(left));
    char *text = value ? json_dumps(value, OUTPUT_JSON_FLAGS) : NULL;

    if (text) {
        size_t length = strlen(text);
        text[length] = '\n'; /* in place of the terminator */
        (void)write_all(view->fd, text, length + 1);
    }
    free(text);
    json_decref(value);
}

static void show_bar(struct progress_view *view, const struct progress_report *report)
{
    char line[256], bar[BAR_CELLS + 1], sent[32], rate[32], duration[32], round[24] = "";
    uint64_t left = predict_left_ns(view, report);
    unsigned cells = 0;

    if (report->total_bytes)
        cells = (unsigned)((double)report->done_bytes / (double)report->total_bytes * BAR_CELLS);
    if (cells > BAR_CELLS)
        cells = BAR_CELLS;
    memset(bar, ' ', BAR_CELLS);
    memset(bar, '=', cells);
    bar[BAR_CELLS] = 0;
    if (report->round)
        snprintf(round, sizeof(round), " round %u", report->round);
    format_size(report->sent_bytes, sent, sizeof(sent));
    format_size(report->rate_bytes_per_s, rate, sizeof(rate));
    int length =
        snprintf(line, sizeof(line), "\r%-10.20s%s [%s] %s", report->phase, round, bar, sent);
    if (report->rate_bytes_per_s)
        length += snprintf(line + length, sizeof(line) - (size_t)length, ", %s/s", rate);
    if (left)
        length += snprintf(line + length, sizeof(line) - (size_t)length, ", %s left",
                           format_duration(left, duration, sizeof(duration)));
    length += snprintf(line + length, sizeof(line) - (size_t)length, "\033[K");
    (void)write_all(view->fd, line, (size_t)length);
    view->drawn = true;
}

void progress_view_show(struct progress_view *view, const struct progress_report *report)
{
    uint64_t now = monotonic_ns();
    bool changed = strcmp(report->phase, view->phase) || report->round != view->round;

    if (view->mode == PROGRESS_NONE || (!changed && now - view->shown_ns < SHOW_EVERY_NS))
        return;
    view->shown_ns = now;
    if (changed) {
        view->began_ns = now;
        view->began_bytes = report->done_bytes;
    }
    view->round = report->round;
    snprintf(view->phase, sizeof(view->phase), "%s", report->phase);
    if (view->mode == PROGRESS_JSON)
        show_json(view, report);
    else
        show_bar(view, report);
}

void progress_view_end(struct progress_view *view)
{
    if (view->drawn)
        (void)write_all(view->fd, "\r\033[K", 4);
    view->drawn = false;
}
