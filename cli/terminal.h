/* The user's terminal as a guest's console: raw while it is used, itself again on every way out. */
#ifndef FERRY_CLI_TERMINAL_H
#define FERRY_CLI_TERMINAL_H

/* Each key to us as it is pressed, if stdin is a terminal.  Output stays as it is. */
void terminal_raw(void);
/* As it was.  Also called at exit and on a crash.  Idempotent. */
void terminal_restore(void);

#endif
