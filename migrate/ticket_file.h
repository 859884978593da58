/* The content of one ticket file, as a struct and as JSON. */
#ifndef FERRY_MIGRATE_TICKET_FILE_H
#define FERRY_MIGRATE_TICKET_FILE_H

#include "migrate/ticket.h"

struct ticket_decision {
    uint64_t epoch;
    bool owned;
};

struct ticket_file {
    uint8_t vm_id[TICKET_ID_BYTES];
    struct ticket_record source, destination; /* state TICKET_NONE: there is none */
    unsigned decided_count;                   /* earlier words as destination, latest last */
    struct ticket_decision decided[LIMIT_TICKET_HISTORY];
};

/* JSON text, malloc'd; NULL: out of memory. */
char *ticket_file_print(const struct ticket_file *file);
/* Errors: FERRY_REFUSED; a file that cannot be read is never taken for an empty one. */
int ticket_file_parse(const char *path, const char *text, size_t size,
                      const uint8_t vm_id[TICKET_ID_BYTES], struct ticket_file *file,
                      struct ferry_error *err);

#endif
