/* ferry convert --resume: what must be the same when a conversion is taken up again. */
#ifndef FERRY_CLI_CONVERT_RESUME_H
#define FERRY_CLI_CONVERT_RESUME_H

#include "cli/disk_file.h"
#include "imagefmt/foreign/resume.h"

struct convert_resume {
    const char *dest, *source, *disk_name; /* as on the command line */
    const struct option_strings *external; /* the same */
    const struct disk_file *file;          /* source, open, with those it builds on */
    const struct disk_format *to;
    const struct disk_write_options *write;
    bool verify;
};

/* Take up or begin.  FERRY_USAGE: nothing would tell whether SRC changed meanwhile. */
int convert_resume_open(const struct convert_resume *c, struct resume **out,
                        struct ferry_error *err);
/* Say with the error how to go on, if there is something to go on from.  Returns its code. */
int convert_resume_explain(const struct resume *r, const char *dest, struct ferry_error *err);

#endif
