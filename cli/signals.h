/*
 * Signals that ask a process to end: SIGINT, SIGTERM and SIGHUP.  They set a flag, make a
 * descriptor readable and cancel the long work that is named.  SIGPIPE is ignored throughout.
 */
#ifndef FERRY_CLI_SIGNALS_H
#define FERRY_CLI_SIGNALS_H

#include "common/error.h"
#include "common/progress.h"

/* Again after a fork, in the child. */
int signals_setup(struct ferry_error *err);
int signals_fd(void);   /* readable once a signal has come */
int signals_came(void); /* its number, 0: none */
/* Cancel this work, too, when a signal comes (at once if one has come); NULL: none. */
void signals_cancel(struct progress *progress);
/* Threads made between the two get no signal of these. */
void signals_block(void);
void signals_unblock(void);

#endif
