/* URLs of disks: taken apart, checked, and made fit to be shown. */
#ifndef FERRY_IMAGEFMT_FOREIGN_HTTP_URL_H
#define FERRY_IMAGEFMT_FOREIGN_HTTP_URL_H

#include "common/error.h"

struct http_url {
    char *url; /* without name and password */
    char *about;
    char *user, *password; /* NULL: none */
};

/* Errors: FERRY_USAGE, with nothing of the URL in the message that may be secret. */
int http_url_parse(const char *text, struct http_url *url, struct ferry_error *err);
void http_url_free(struct http_url *url);

#endif
