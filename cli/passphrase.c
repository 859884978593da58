/* The echo of /dev/tty is off while a passphrase is typed, and on again on every way out. */
#include "cli/passphrase.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include <openssl/crypto.h>

#include "common/cleanup.h"
#include "common/file.h"

#define INTERRUPT 3 /* ^C */

/* One line without its newline; the rest of a longer one is dropped.  The length, or an errno. */
static ssize_t read_line(int tty, char *line, size_t size)
{
    size_t length = 0;
    char byte = 0;

    for (;;) {
        ssize_t got = read(tty, &byte, 1);
        if (got < 0)
            return -errno;
        if (byte == INTERRUPT)
            return -ECANCELED;
        if (!got || byte == '\n')
            return got || length ? (ssize_t)length : -ECANCELED;
        if (length < size)
            line[length++] = byte;
    }
}

/* Signals of the keyboard wait until the echo is on again. */
static ssize_t ask_once(int tty, const char *prompt, char *line, size_t size)
{
    struct termios before, quiet;
    sigset_t keys, mask;

    if (tcgetattr(tty, &before))
        return -errno;
    quiet = before;
    quiet.c_lflag = (quiet.c_lflag & ~(tcflag_t)(ECHO | ISIG)) | ICANON;
    quiet.c_cc[VEOL] = INTERRUPT; /* which ISIG lets through */
    sigemptyset(&keys);
    sigaddset(&keys, SIGTSTP);
    sigaddset(&keys, SIGTERM);
    sigaddset(&keys, SIGHUP);
    sigprocmask(SIG_BLOCK, &keys, &mask);
    (void)write_all(tty, prompt, strlen(prompt));
    tcsetattr(tty, TCSAFLUSH, &quiet);
    ssize_t length = read_line(tty, line, size);
    tcsetattr(tty, TCSAFLUSH, &before);
    (void)write_all(tty, "\n", 1);
    sigprocmask(SIG_SETMASK, &mask, NULL);
    return length;
}

int passphrase_ask(const char *about, bool twice, struct image_secret *secret,
                   struct ferry_error *err)
{
    char prompt[256], first[LIMIT_PASSPHRASE_BYTES + 1], second[LIMIT_PASSPHRASE_BYTES + 1];
    CLEANUP_FD int tty = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);

    if (tty < 0)
        return ferry_usage(err, about,
                           "is sealed, and no terminal is there to ask for its passphrase; give "
                           "--passphrase-file or --key-file");
    snprintf(prompt, sizeof(prompt), "%s for %.160s: ", twice ? "New passphrase" : "Passphrase",
             about);
    ssize_t length = ask_once(tty, prompt, first, sizeof(first));
    int error = length < 0 ? ferry_fail_sys(err, (int)length, about, "no passphrase was given") : 0;
    if (!error && twice) {
        ssize_t again = ask_once(tty, "The same again: ", second, sizeof(second));
        if (again != length || memcmp(first, second, (size_t)length))
            error = ferry_usage(err, about, "the two passphrases differ");
    }
    if (!error)
        error = image_secret_passphrase(secret, first, (size_t)length, err);
    OPENSSL_cleanse(first, sizeof(first));
    OPENSSL_cleanse(second, sizeof(second));
    return error;
}
