/* URLs, by libcurl's parser: what is checked here is then what is asked for there. */
#include "imagefmt/foreign/http_url.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <curl/curl.h>

#include "common/cleanup.h"
#include "common/limits.h"
#include "imagefmt/foreign/http.h"

static void cleanup_curlu(CURLU **u)
{
    curl_url_cleanup(*u);
}

static void cleanup_part(char **part)
{
    curl_free(*part);
}

bool http_is_url(const char *text)
{
    return !strncasecmp(text, "http://", 7) || !strncasecmp(text, "https://", 8);
}

/* A copy of one part; NULL: it has none. */
static char *part_of(CURLU *u, CURLUPart part, unsigned flags)
{
    CLEANUP(cleanup_part) char *text = NULL;

    return curl_url_get(u, part, &text, flags) ? NULL : strdup(text);
}

/* Without name, password and query, any of which may be secret. */
static int make_about(CURLU *u, struct http_url *url, struct ferry_error *err)
{
    CLEANUP_FREE char *scheme = part_of(u, CURLUPART_SCHEME, 0);
    CLEANUP_FREE char *host = part_of(u, CURLUPART_HOST, 0);
    CLEANUP_FREE char *port = part_of(u, CURLUPART_PORT, CURLU_NO_DEFAULT_PORT);
    CLEANUP_FREE char *path = part_of(u, CURLUPART_PATH, 0);
    CLEANUP_FREE char *query = part_of(u, CURLUPART_QUERY, 0);

    if (!scheme || !host || !path)
        return ferry_usage(err, NULL, "the URL of SRC has no host");
    if (asprintf(&url->about, "%s://%s%s%s%s%s", scheme, host, port ? ":" : "", port ? port : "",
                 path, query ? "?..." : "") < 0) {
        url->about = NULL;
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    }
    return 0;
}

int http_url_parse(const char *text, struct http_url *url, struct ferry_error *err)
{
    CLEANUP(cleanup_curlu) CURLU *u = curl_url();

    *url = (struct http_url){0};
    if (!u)
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    if (!http_is_url(text) || strlen(text) > LIMIT_URL_BYTES ||
        curl_url_set(u, CURLUPART_URL, text, 0))
        return ferry_usage(err, NULL, "SRC is not a URL of http:// or https:// as it should be");
    int error = make_about(u, url, err);
    if (error)
        return error;
    url->user = part_of(u, CURLUPART_USER, CURLU_URLDECODE);
    url->password = part_of(u, CURLUPART_PASSWORD, CURLU_URLDECODE);
    if (curl_url_set(u, CURLUPART_USER, NULL, 0) || curl_url_set(u, CURLUPART_PASSWORD, NULL, 0) ||
        curl_url_set(u, CURLUPART_FRAGMENT, NULL, 0) ||
        !(url->url = part_of(u, CURLUPART_URL, 0))) {
        http_url_free(url);
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    }
    return 0;
}

static void free_secret(char *text)
{
    if (text)
        explicit_bzero(text, strlen(text));
    free(text);
}

void http_url_free(struct http_url *url)
{
    free_secret(url->url); /* a query may be a secret, too */
    free(url->about);
    free_secret(url->user);
    free_secret(url->password);
    *url = (struct http_url){0};
}
