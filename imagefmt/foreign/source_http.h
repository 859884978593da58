/* A file on a web server as a source of bytes (disk.h). */
#ifndef FERRY_IMAGEFMT_FOREIGN_SOURCE_HTTP_H
#define FERRY_IMAGEFMT_FOREIGN_SOURCE_HTTP_H

#include "imagefmt/foreign/disk.h"
#include "imagefmt/foreign/http.h"

/* Errors as http_open's.  The source's name is the URL without what may be secret in it. */
int source_of_http(const char *url, const struct http_options *options, struct source **out,
                   struct ferry_error *err);
/* http_validator of such a source. */
const char *source_http_validator(const struct source *source);

#endif
