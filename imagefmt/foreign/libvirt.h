/* What the reader and the writer of libvirt's domain XML both know; nobody else includes this. */
#ifndef FERRY_IMAGEFMT_FOREIGN_LIBVIRT_H
#define FERRY_IMAGEFMT_FOREIGN_LIBVIRT_H

#include "imagefmt/foreign/guest.h"

/* libvirt's name of a CPU model of ferry's. */
const char *libvirt_cpu(const char *model);
/* libvirt's name of a disk format of ours, and the reverse; NULL: there is none. */
const char *libvirt_driver(const char *format);
const char *libvirt_format(const char *driver);
/* The bus that libvirt is told for a disk on this one. */
enum guest_bus libvirt_bus(enum guest_bus bus);

int libvirt_write(const struct guest *guest, json_t *notes, char **text, size_t *size,
                  struct ferry_error *err);
int libvirt_read(const char *text, size_t size, const char *about, struct guest *guest,
                 json_t *notes, struct ferry_error *err);

#endif
