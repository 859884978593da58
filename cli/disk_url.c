/* Opening disks on web servers. */
#include "cli/disk_url.h"

#include <errno.h>

#include "common/cleanup.h"
#include "imagefmt/foreign/image_section.h"
#include "imagefmt/foreign/source.h"
#include "imagefmt/foreign/source_http.h"

static int refuse_image(struct source *source, struct ferry_error *err)
{
    uint8_t head[64];

    if (source->size_bytes < sizeof(head))
        return 0;
    int error = source->pread(source, 0, head, sizeof(head), err);
    if (error || !disk_image_probe(head, sizeof(head)))
        return error;
    return ferry_refuse(err, -EOPNOTSUPP, source->about,
                        "is a ferry image, and those are read from files: download it first");
}

int disk_url_open(const char *url, const struct disk_url_options *options, bool raw,
                  struct source **out, struct ferry_error *err)
{
    const struct http_options http = {
        .ca_file = options->cacert,
        .stall_ns = options->timeout_ns,
    };
    CLEANUP(source_cleanup) struct source *source = NULL;

    int error = source_of_http(url, &http, &source, err);
    if (!error && !raw)
        error = refuse_image(source, err);
    if (error)
        return error;
    *out = take_ptr(&source);
    return 0;
}
