/*
 * Requests.  Each asks for one range, on an easy handle of libcurl's that no other thread has
 * meanwhile and that keeps its connection for the next.  Header lines are judged before the first
 * byte of a body is taken, so that nothing reaches the caller but what was asked for.
 *
 * Where the first request ended after redirects is where later ones begin, lest each of them be
 * sent to another mirror; when that fails, the next try asks the first address again, because what
 * one is redirected to may be good for some minutes only.  With a password this is left out: it is
 * for the first server alone.
 *
 * libcurl counts its curl_global_init and does so by several threads (since 7.84): every open file
 * has one, and no state of ours is global.
 */
#include "imagefmt/foreign/http.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <curl/curl.h>

#include "common/cleanup.h"
#include "common/limits.h"
#include "imagefmt/foreign/http_answer.h"
#include "imagefmt/foreign/http_url.h"

#define CONNECT_MS      15000
#define STALL_NS        (30 * UINT64_C(1000000000))
#define SLOWEST_BYTES_S 100           /* less than that is a stall */
#define PROGRESS_BYTES  (64 * KIB)    /* of one try: it has been worth it */
#define PAUSE_MS        250           /* before the second try; then doubled */
#define BUFFER_BYTES    (256L * 1024) /* of libcurl */

struct handle {
    struct handle *next;
    CURL *curl;
    char text[CURL_ERROR_SIZE];
};

struct http {
    struct http_url url;
    char *ca_file;
    long stall_s;
    uint64_t size_bytes; /* HTTP_SIZE_UNKNOWN: not asked yet */
    char etag[HTTP_VALIDATOR_BYTES], modified[HTTP_VALIDATOR_BYTES];
    struct curl_slist *headers;
    pthread_mutex_t lock;       /* for what follows */
    struct handle *handles;     /* that nobody uses */
    char *final;                /* where redirects led; NULL: url */
    struct ferry_error failure; /* of a request that was given up: no other is tried any more */
};

/* What is wrong with an answer, found in a callback. */
enum fault {
    FAULT_NONE,
    FAULT_HEADERS,
    FAULT_WHOLE,
    FAULT_ENCODED,
    FAULT_RANGE,
    FAULT_SIZE,
    FAULT_CHANGED,
    FAULT_LONG,
};

struct request {
    struct http *http;
    uint64_t offset, end; /* asked for */
    const struct iovec *iov;
    size_t filled; /* of iov[0] */
    bool checked;
    enum fault fault;
    struct http_answer answer;
};

/* ---- Answers ---- */

static enum fault judge_answer(const struct request *r)
{
    const struct http *http = r->http;
    const struct http_answer *a = &r->answer;

    if (a->status != 206)
        return FAULT_WHOLE;
    if (a->encoded)
        return FAULT_ENCODED;
    if (!a->ranged || a->unsatisfied || a->from != r->offset || a->end > r->end)
        return FAULT_RANGE;
    if (http->size_bytes == HTTP_SIZE_UNKNOWN)
        return a->total > LIMIT_DISK_BYTES ? FAULT_SIZE : FAULT_NONE;
    if (a->total != http->size_bytes && a->total != HTTP_SIZE_UNKNOWN)
        return FAULT_CHANGED;
    if (http->etag[0] && a->etag[0])
        return strcmp(http->etag, a->etag) ? FAULT_CHANGED : FAULT_NONE;
    if (http->modified[0] && a->modified[0] && strcmp(http->modified, a->modified) != 0)
        return FAULT_CHANGED;
    return FAULT_NONE;
}

static size_t on_header(char *data, size_t one, size_t size, void *opaque)
{
    struct request *r = opaque;

    (void)one;
    if (http_answer_line(&r->answer, data, size))
        return size;
    r->fault = FAULT_HEADERS;
    return 0;
}

static size_t on_body(char *data, size_t one, size_t size, void *opaque)
{
    struct request *r = opaque;
    size_t left = size;

    (void)one;
    if (!r->checked)
        r->fault = judge_answer(r);
    r->checked = true;
    if (!r->fault && size > r->answer.end - r->offset)
        r->fault = FAULT_LONG;
    if (r->fault)
        return 0;
    r->offset += size;
    while (left) {
        size_t room = r->iov->iov_len - r->filled;
        size_t part = left < room ? left : room;
        memcpy((char *)r->iov->iov_base + r->filled, data, part);
        data += part;
        left -= part;
        r->filled += part;
        if (r->filled == r->iov->iov_len) {
            r->iov++;
            r->filled = 0;
        }
    }
    return size;
}

static int fail_fault(const struct request *r, struct ferry_error *err)
{
    const char *about = r->http->url.about;

    switch (r->fault) {
    case FAULT_HEADERS:
        return ferry_refuse(err, -EBADMSG, about, "the server sends more headers than one may");
    case FAULT_WHOLE:
        return ferry_refuse(err, -EOPNOTSUPP, about,
                            "the server sends whole files only (status %u, not 206); download it "
                            "first, or pipe it: curl URL | ferry convert -",
                            r->answer.status);
    case FAULT_ENCODED:
        return ferry_refuse(err, -EBADMSG, about,
                            "the server compresses what should come as it is; download it first");
    case FAULT_SIZE:
        if (r->answer.total == HTTP_SIZE_UNKNOWN)
            return ferry_refuse(err, -EBADMSG, about, "the server does not tell the file's size");
        return ferry_refuse(err, -EFBIG, about, "is larger than a disk may be: %llu bytes",
                            (unsigned long long)r->answer.total);
    case FAULT_CHANGED:
        return ferry_refuse(err, -ESTALE, about, "changed while it was read; begin anew");
    case FAULT_LONG:
    case FAULT_RANGE:
    case FAULT_NONE:
        break;
    }
    return ferry_refuse(err, -EBADMSG, about,
                        "the server sends other bytes than the %llu at %llu that were asked for",
                        (unsigned long long)(r->end - r->offset), (unsigned long long)r->offset);
}

/* A status of 400 or more. */
static int fail_status(const struct request *r, bool redirected, bool *again,
                       struct ferry_error *err)
{
    const char *about = r->http->url.about;
    unsigned status = r->answer.status;
    bool opened = r->http->size_bytes != HTTP_SIZE_UNKNOWN;

    *again = status >= 500 || status == 408 || status == 429 || (redirected && status != 412);
    if (status == 412 || (status == 416 && opened))
        return ferry_refuse(err, -ESTALE, about, "changed while it was read; begin anew");
    if (status == 401 || status == 407)
        return ferry_fail(err, -EACCES, about,
                          "the server asks for a name and a password (status %u); they may stand "
                          "in the URL",
                          status);
    int code = status == 404 || status == 410 ? -ENOENT : status == 403 ? -EACCES : -EIO;
    return ferry_fail(err, code, about, "the server answers with status %u", status);
}

/* What libcurl says; *again: another try may help. */
static int fail_curl(const struct request *r, CURLcode code, const char *text, bool *again,
                     struct ferry_error *err)
{
    const char *about = r->http->url.about;
    bool opened = r->http->size_bytes != HTTP_SIZE_UNKNOWN;
    int error;

    text = text[0] ? text : curl_easy_strerror(code);
    switch (code) {
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
        error = ferry_refuse(err, -EACCES, about,
                             "the server's certificate is not trusted; --cacert FILE names an "
                             "authority to trust");
        break;
    case CURLE_TOO_MANY_REDIRECTS:
        error = ferry_refuse(err, -ELOOP, about, "is redirected more than %d times",
                             LIMIT_HTTP_REDIRECTS);
        break;
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_URL_MALFORMAT:
        error = ferry_refuse(err, -EPROTONOSUPPORT, about,
                             "is redirected to where ferry does not go: only http and https, and "
                             "from https to https");
        break;
    case CURLE_OUT_OF_MEMORY:
        return ferry_fail(err, -ENOMEM, about, "out of memory");
    default:
        /* A name or port that was never there is rather a mistake than a fault of the net. */
        *again = opened || (code != CURLE_COULDNT_RESOLVE_HOST && code != CURLE_COULDNT_CONNECT);
        error = ferry_fail(err, code == CURLE_OPERATION_TIMEDOUT ? -ETIMEDOUT : -EIO, about,
                           "cannot read at byte %llu", (unsigned long long)r->offset);
    }
    if (err)
        snprintf(err->cause, sizeof(err->cause), "%s", text);
    return error;
}

/* ---- Handles ---- */

/* What is the same for all requests. */
static int set_up(struct handle *h, const struct http *http)
{
    CURL *c = h->curl;
    long connect_ms = http->stall_s < CONNECT_MS / 1000 ? http->stall_s * 1000 : CONNECT_MS;
    int bad = 0;

    bad |= curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    bad |= curl_easy_setopt(c, CURLOPT_ERRORBUFFER, h->text);
    bad |= curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    bad |= curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 1L);
    bad |= curl_easy_setopt(c, CURLOPT_MAXREDIRS, (long)LIMIT_HTTP_REDIRECTS);
    bad |= curl_easy_setopt(c, CURLOPT_FAILONERROR, 1L);
    bad |= curl_easy_setopt(c, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    bad |= curl_easy_setopt(c, CURLOPT_HTTP_CONTENT_DECODING, 0L);
    bad |= curl_easy_setopt(c, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    bad |= curl_easy_setopt(c, CURLOPT_USERAGENT, "ferry");
    bad |= curl_easy_setopt(c, CURLOPT_BUFFERSIZE, BUFFER_BYTES);
    bad |= curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, connect_ms);
    bad |= curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, (long)SLOWEST_BYTES_S);
    bad |= curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, http->stall_s);
    bad |= curl_easy_setopt(c, CURLOPT_SSL_VERIFYPEER, 1L);
    bad |= curl_easy_setopt(c, CURLOPT_SSL_VERIFYHOST, 2L);
    bad |= curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    bad |= curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    if (http->ca_file) {
        bad |= curl_easy_setopt(c, CURLOPT_CAINFO, http->ca_file);
        bad |= curl_easy_setopt(c, CURLOPT_CAPATH, NULL);
    }
    if (http->url.user)
        bad |= curl_easy_setopt(c, CURLOPT_USERNAME, http->url.user);
    if (http->url.password)
        bad |= curl_easy_setopt(c, CURLOPT_PASSWORD, http->url.password);
    return bad;
}

static void free_handle(struct handle *h)
{
    curl_easy_cleanup(h->curl);
    free(h);
}

static int take_handle(struct http *http, struct handle **out, struct ferry_error *err)
{
    {
        LOCK_SCOPE(&http->lock);
        if ((*out = http->handles)) {
            http->handles = (*out)->next;
            return 0;
        }
    }
    struct handle *h = calloc(1, sizeof(*h));
    if (!h)
        return ferry_fail(err, -ENOMEM, http->url.about, "out of memory");
    h->curl = curl_easy_init();
    if (!h->curl || set_up(h, http)) {
        free_handle(h);
        return ferry_fail(err, -ENOMEM, http->url.about, "libcurl cannot be set up");
    }
    *out = h;
    return 0;
}

static void give_back(struct http *http, struct handle *h)
{
    LOCK_SCOPE(&http->lock);
    h->next = http->handles;
    http->handles = h;
}

/* ---- One try ---- */

/* The place to ask, and the range; *redirected: it is not the one that the user named. */
static int aim(struct handle *h, struct request *r, bool first, bool *redirected)
{
    struct http *http = r->http;
    char range[48];
    int bad = 0;

    snprintf(range, sizeof(range), "%llu-%llu", (unsigned long long)r->offset,
             (unsigned long long)(r->end - 1));
    LOCK_SCOPE(&http->lock);
    *redirected = first && http->final;
    const char *url = *redirected ? http->final : http->url.url;
    bad |= curl_easy_setopt(h->curl, CURLOPT_URL, url);
    bad |= curl_easy_setopt(h->curl, CURLOPT_REDIR_PROTOCOLS_STR,
                            strncasecmp(url, "https:", 6) ? "http,https" : "https");
    bad |= curl_easy_setopt(h->curl, CURLOPT_RANGE, range);
    bad |= curl_easy_setopt(h->curl, CURLOPT_HTTPHEADER, http->headers);
    bad |= curl_easy_setopt(h->curl, CURLOPT_HEADERDATA, r);
    bad |= curl_easy_setopt(h->curl, CURLOPT_WRITEDATA, r);
    return bad;
}

static void keep_final(struct http *http, CURL *curl)
{
    const char *url = NULL;

    if (http->url.user || http->url.password ||
        curl_easy_getinfo(curl, CURLINFO_EFFECTIVE_URL, &url) || !url)
        return;
    LOCK_SCOPE(&http->lock);
    if (!strcmp(url, http->final ? http->final : http->url.url))
        return;
    free(http->final);
    http->final = strdup(url); /* without memory: the first address, which is as good */
}

/* Ask once.  *again: it failed, and may do better another time, after *wait_s. */
static int attempt(struct handle *h, struct request *r, bool first, bool *again, uint64_t *wait_s,
                   struct ferry_error *err)
{
    curl_off_t wait = 0;
    bool redirected;

    r->checked = false;
    r->fault = FAULT_NONE;
    r->answer = (struct http_answer){0};
    h->text[0] = 0;
    if (aim(h, r, first, &redirected))
        return ferry_fail(err, -ENOMEM, r->http->url.about, "out of memory");
    CURLcode code = curl_easy_perform(h->curl);
    if (!curl_easy_getinfo(h->curl, CURLINFO_RETRY_AFTER, &wait) && wait > 0)
        *wait_s = wait < LIMIT_HTTP_WAIT_S ? (uint64_t)wait : LIMIT_HTTP_WAIT_S;
    if (code == CURLE_HTTP_RETURNED_ERROR)
        return fail_status(r, redirected, again, err);
    if (code == CURLE_OK && !r->checked) /* an empty body */
        r->fault = judge_answer(r);
    if (r->fault)
        return fail_fault(r, err);
    if (code)
        return fail_curl(r, code, h->text, again, err);
    keep_final(r->http, h->curl);
    if (r->offset == r->end)
        return 0;
    *again = true;
    return ferry_fail(err, -EIO, r->http->url.about,
                      "the server sends less than was asked for, at byte %llu",
                      (unsigned long long)r->offset);
}

static void pause_before(unsigned tries, uint64_t wait_s)
{
    uint64_t ms = wait_s ? wait_s * 1000 : tries ? (uint64_t)PAUSE_MS << (tries - 1) : 0;
    struct timespec t = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};

    while (nanosleep(&t, &t) && errno == EINTR) {
    }
}

/* Has another thread's request failed for good? */
static int check_failure(struct http *http, struct ferry_error *err)
{
    LOCK_SCOPE(&http->lock);
    if (http->failure.code)
        *err = http->failure;
    return http->failure.code;
}

/* Ask until all is there, or in vain. */
static int try_request(struct handle *h, struct request *r, struct ferry_error *err)
{
    unsigned tries = 0;

    for (bool first = true;; first = false) {
        uint64_t before = r->offset, wait_s = 0;
        bool again = false;
        int error = check_failure(r->http, err);
        if (!error)
            error = attempt(h, r, first, &again, &wait_s, err);
        if (!error || !again)
            return error;
        tries = r->offset - before >= PROGRESS_BYTES ? 0 : tries + 1;
        if (tries == LIMIT_HTTP_TRIES)
            return ferry_wrap(err, r->http->url.about, "given up after %d tries", LIMIT_HTTP_TRIES);
        pause_before(tries, wait_s);
    }
}

static int request(struct request *r, struct ferry_error *err)
{
    struct http *http = r->http;
    struct ferry_error why = {0};
    struct handle *h;

    int error = take_handle(http, &h, err);
    if (error)
        return error;
    error = try_request(h, r, &why);
    give_back(http, h);
    if (!error)
        return 0;
    if (err)
        *err = why;
    LOCK_SCOPE(&http->lock);
    http->failure = http->failure.code ? http->failure : why;
    return error;
}

int http_read(struct http *http, uint64_t offset, const struct iovec *iov, int count,
              struct ferry_error *err)
{
    struct request r = {.http = http, .offset = offset, .end = offset, .iov = iov};

    for (int i = 0; i < count; i++)
        r.end += iov[i].iov_len;
    if (r.end > http->size_bytes)
        return ferry_refuse(err, -EBADMSG, http->url.about,
                            "is cut short: bytes to %llu are needed, it has %llu",
                            (unsigned long long)r.end, (unsigned long long)http->size_bytes);
    return r.end > offset ? request(&r, err) : 0;
}

/* ---- Opening ---- */

static int add_header(struct http *http, const char *fmt, const char *value,
                      struct ferry_error *err)
{
    char line[64 + HTTP_VALIDATOR_BYTES];

    snprintf(line, sizeof(line), "%s%s", fmt, value);
    struct curl_slist *more = curl_slist_append(http->headers, line);
    if (!more)
        return ferry_fail(err, -ENOMEM, http->url.about, "out of memory");
    http->headers = more;
    return 0;
}

/* From now on only this content will do.  A weak ETag is not fit for If-Match (RFC 9110, 13.1.1),
 * but is compared all the same. */
static int pin_content(struct http *http, const struct http_answer *a, struct ferry_error *err)
{
    memcpy(http->etag, a->etag, sizeof(http->etag));
    memcpy(http->modified, a->modified, sizeof(http->modified));
    if (http->etag[0] == '"')
        return add_header(http, "If-Match: ", http->etag, err);
    if (!http->etag[0] && http->modified[0])
        return add_header(http, "If-Unmodified-Since: ", http->modified, err);
    return 0;
}

/* One byte is asked for: the answer tells the size, whether there are ranges, and what version. */
static int ask_size(struct http *http, struct ferry_error *err)
{
    uint8_t byte;
    const struct iovec iov = {&byte, 1};
    struct request r = {.http = http, .end = 1, .iov = &iov};
    const struct http_answer *a = &r.answer;

    int error = request(&r, err);
    if (error && a->status == 416 && a->ranged && a->unsatisfied && !a->total) {
        http->size_bytes = 0;
        return 0;
    }
    if (error)
        return error;
    http->size_bytes = a->total;
    return pin_content(http, a, err);
}

static int prepare(struct http *http, const char *url, const struct http_options *options,
                   struct ferry_error *err)
{
    uint64_t stall_ns = options->stall_ns ? options->stall_ns : STALL_NS;

    int error = http_url_parse(url, &http->url, err);
    if (error)
        return error;
    http->size_bytes = HTTP_SIZE_UNKNOWN;
    http->stall_s = (long)((stall_ns + 999999999) / 1000000000); /* libcurl counts in seconds */
    if (options->ca_file && !(http->ca_file = strdup(options->ca_file)))
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    error = add_header(http, "Accept-Encoding: ", "identity", err);
    return error ? error : ask_size(http, err);
}

int http_open(const char *url, const struct http_options *options, struct http **out,
              struct ferry_error *err)
{
    struct http *http = calloc(1, sizeof(*http));

    if (!http || curl_global_init(CURL_GLOBAL_DEFAULT)) {
        free(http);
        return ferry_fail(err, -ENOMEM, NULL, "libcurl cannot be set up");
    }
    pthread_mutex_init(&http->lock, NULL);
    int error = prepare(http, url, options, err);
    if (error)
        http_close(http);
    else
        *out = http;
    return error;
}

void http_close(struct http *http)
{
    if (!http)
        return;
    for (struct handle *h = http->handles, *next; h; h = next) {
        next = h->next;
        free_handle(h);
    }
    curl_slist_free_all(http->headers);
    pthread_mutex_destroy(&http->lock);
    free(http->final);
    free(http->ca_file);
    http_url_free(&http->url);
    free(http);
    curl_global_cleanup();
}

uint64_t http_size(const struct http *http)
{
    return http->size_bytes;
}

const char *http_about(const struct http *http)
{
    return http->url.about;
}

const char *http_validator(const struct http *http)
{
    return http->etag[0] ? http->etag : http->modified;
}
