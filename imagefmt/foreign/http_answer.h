/* What a server answers: its header lines, of the last response of several. */
#ifndef FERRY_IMAGEFMT_FOREIGN_HTTP_ANSWER_H
#define FERRY_IMAGEFMT_FOREIGN_HTTP_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define HTTP_VALIDATOR_BYTES 256 /* a longer one counts as none */
#define HTTP_SIZE_UNKNOWN    UINT64_MAX

struct http_answer {
    unsigned status;     /* 0: none came */
    size_t header_bytes; /* of all responses */
    bool encoded;        /* compressed, though not asked for */
    bool ranged;         /* there is a Content-Range that makes sense */
    bool unsatisfied;    /* of the kind that says only the total */
    uint64_t from, end, total;
    char etag[HTTP_VALIDATOR_BYTES], modified[HTTP_VALIDATOR_BYTES]; /* "": none */
};

/* Take in one line as it came, with its line end; false: that is more than a server may send. */
bool http_answer_line(struct http_answer *answer, const char *line, size_t size);

#endif
