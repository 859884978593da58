/* Opening images. */
#include "cli/image_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/passphrase.h"
#include "common/cleanup.h"

int image_file_open(const char *command, const char *file, struct ferry_error *err)
{
    struct stat st;

    if (!strcmp(file, "-")) {
        if (isatty(STDIN_FILENO))
            return ferry_usage(err, command, "an image does not come from a terminal; pipe it in");
        int fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
        return fd < 0 ? ferry_fail_sys(err, -errno, "standard input", "cannot read") : fd;
    }
    CLEANUP_FD int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return ferry_fail_sys(err, -errno, file, "cannot open the image");
    if (fstat(fd, &st) || S_ISDIR(st.st_mode))
        return ferry_fail(err, -EISDIR, file, "is a folder, not an image");
    return take_fd(&fd);
}

const char *image_file_about(const char *file)
{
    return strcmp(file, "-") ? file : "standard input";
}

static int read_secret(const struct image_file_options *options, struct image_secret *secret,
                       struct ferry_error *err)
{
    if (options->passphrase_file && options->key_file)
        return ferry_usage(err, NULL, "give one of --passphrase-file and --key-file");
    if (options->passphrase_file)
        return image_secret_passphrase_file(secret, options->passphrase_file, err);
    return options->key_file ? image_secret_key_file(secret, options->key_file, err) : 0;
}

bool image_file_has_secret(const struct image_file_options *options)
{
    return options->passphrase_file || options->key_file;
}

int image_file_seal(const struct image_file_options *options, bool encrypt, const char *about,
                    struct image_secret *secret, struct ferry_error *err)
{
    *secret = (struct image_secret){0};
    if (!encrypt)
        return 0;
    int error = read_secret(options, secret, err);
    return error || secret->kind ? error : passphrase_ask(about, true, secret, err);
}

/* Asked once: what is typed serves all images of the command. */
static int ask(void *opaque, const char *about, enum image_secret_kind kind,
               const struct image_secret **secret, struct ferry_error *err)
{
    struct image_file_environment *environment = opaque;

    if (kind == SECRET_KEY_FILE)
        return ferry_usage(err, about, "is sealed with a key file; name it with --key-file");
    int error =
        environment->secret.kind ? 0 : passphrase_ask(about, false, &environment->secret, err);
    *secret = &environment->secret;
    return error;
}

int image_file_environment_open(const struct image_file_options *options,
                                struct image_file_environment *environment, struct ferry_error *err)
{
    environment->env = (struct image_environment){.search = options->search.items,
                                                  .search_count = options->search.count,
                                                  .ask = ask,
                                                  .opaque = environment};
    environment->secret = (struct image_secret){0};
    int error = read_secret(options, &environment->secret, err);
    if (!error && environment->secret.kind)
        environment->env.secret = &environment->secret;
    return error;
}

void image_file_environment_close(struct image_file_environment *environment)
{
    image_secret_wipe(&environment->secret);
}

int image_file_open_chain(const char *file, const struct image_file_options *options,
                          struct image **out, struct ferry_error *err)
{
    CLEANUP(image_file_environment_close) struct image_file_environment environment;

    int error = image_file_environment_open(options, &environment, err);
    return error ? error : image_open_path(file, &environment.env, out, err);
}
