/* Progress of long work as it is shown: a bar on a terminal, JSON lines for programs. */
#ifndef FERRY_CLI_PROGRESS_H
#define FERRY_CLI_PROGRESS_H

#include <jansson.h>

#include "cli/options.h"
#include "common/progress.h"

/* A member of a command's parsed struct, and its lines of the table. */
struct progress_options {
    const char *mode; /* auto, bar, json, none; NULL: auto */
    const char *fd;   /* NULL: stderr */
};

#define PROGRESS_OPTIONS(S, M)                                                           \
    OPTION("progress", "HOW", OPTION_STRING, S, M.mode,                                  \
           "auto, bar, json or none (auto: a bar if stderr is a\nterminal, else none)"), \
        OPTION("progress-fd", "N", OPTION_STRING, S, M.fd,                               \
               "write JSON lines to descriptor N (implies json)")

struct progress_view {
    enum { PROGRESS_NONE, PROGRESS_BAR, PROGRESS_JSON } mode;
    int fd;
    bool drawn;        /* a bar is on the screen */
    uint64_t shown_ns; /* when something was shown last */
    char phase[64];    /* of what was shown last */
    unsigned round;
    uint64_t began_ns, began_bytes; /* of that phase: when, and how far it was then */
};

/* Errors: FERRY_USAGE on an unknown mode or a descriptor that is not open. */
int progress_view_init(struct progress_view *view, const struct progress_options *options,
                       struct ferry_error *err);
/*
 * Show, at most ten times a second unless the phase changes, with the time that what is left of the
 * phase will take if it goes on as until now.  One thread at a time.
 */
void progress_view_show(struct progress_view *view, const struct progress_report *report);
void progress_view_end(struct progress_view *view); /* take the bar off the screen */

/* A report as the data of an event, and back; the phase points into the JSON. */
json_t *progress_to_json(const struct progress_report *report);
struct progress_report progress_from_json(const json_t *data);

#endif
