/* Raw mode of the terminal on stdin. */
#include "cli/terminal.h"

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

static struct termios before;
static volatile sig_atomic_t is_raw;

void terminal_restore(void)
{
    if (is_raw)
        tcsetattr(STDIN_FILENO, TCSANOW, &before);
    is_raw = 0;
}

static void crashed(int number)
{
    terminal_restore();
    raise(number); /* SA_RESETHAND: now the default */
}

void terminal_raw(void)
{
    static const int crashes[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL};
    static bool prepared;

    if (is_raw || !isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &before))
        return;
    if (!prepared) {
        struct sigaction action = {.sa_handler = crashed, .sa_flags = SA_RESETHAND};
        atexit(terminal_restore);
        for (size_t i = 0; i < sizeof(crashes) / sizeof(crashes[0]); i++)
            sigaction(crashes[i], &action, NULL);
        prepared = true;
    }
    struct termios raw = before;
    cfmakeraw(&raw);
    raw.c_oflag = before.c_oflag; /* ferry's own lines must still begin at the left */
    is_raw = 1;
    tcsetattr(STDIN_FILENO, TCSANOW, &raw);
}
