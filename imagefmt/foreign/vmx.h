/* The two halves of VMware's .vmx; nobody else includes this. */
#ifndef FERRY_IMAGEFMT_FOREIGN_VMX_H
#define FERRY_IMAGEFMT_FOREIGN_VMX_H

#include "imagefmt/foreign/guest.h"

#define VMX_NICS 10 /* more VMware does not start */

int vmx_write(const struct guest *guest, json_t *notes, char **text, size_t *size,
              struct ferry_error *err);
int vmx_read(const char *text, size_t size, const char *about, struct guest *guest, json_t *notes,
             struct ferry_error *err);

#endif
