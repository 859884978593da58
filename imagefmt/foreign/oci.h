/*
 * Machines as OCI artifacts: what writer and reader share.
 *
 * The shape is that of KubeVirt's exports (kubevirt/enhancements, VEP-256, and what pkg/storage/oci
 * of kubevirt/kubevirt writes): an index, of one manifest, whose config is a VirtualMachine and
 * whose layers are raw disks in zstd.  For what KubeVirt has no place for there are names of our
 * own, all beginning with vnd.ferry: an annotation of the manifest with the whole machine, layers
 * for the firmware's variables, the kernel and its initrd, and layers that are pieces of a disk.
 */
#ifndef FERRY_IMAGEFMT_FOREIGN_OCI_H
#define FERRY_IMAGEFMT_FOREIGN_OCI_H

#include <jansson.h>

#include "common/hash.h"
#include "imagefmt/foreign/describe.h"
#include "imagefmt/foreign/guest.h"

/* ---- Names ---- */

/* The image-spec's */
#define OCI_LAYOUT_FILE       "oci-layout"
#define OCI_LAYOUT            "{\"imageLayoutVersion\":\"1.0.0\"}"
#define OCI_INDEX_FILE        "index.json"
#define OCI_BLOBS             "blobs/sha256/"
#define OCI_TYPE_INDEX        "application/vnd.oci.image.index.v1+json"
#define OCI_TYPE_MANIFEST     "application/vnd.oci.image.manifest.v1+json"
#define OCI_TYPE_LAYER_PREFIX "application/vnd.oci.image.layer.v1." /* of containers */
#define OCI_NOTE_TITLE        "org.opencontainers.image.title"

/* Of containers, Docker's older names */
#define DOCKER_TYPE_PREFIX "application/vnd.docker."

/* KubeVirt's */
#define KUBEVIRT_TYPE_MACHINE  "application/vnd.kubevirt.virtualmachine.v1"
#define KUBEVIRT_TYPE_CONFIG   "application/vnd.kubevirt.virtualmachine.config.v1+json"
#define KUBEVIRT_TYPE_TEMPLATE "application/vnd.kubevirt.virtualmachinetemplate.v1"
#define KUBEVIRT_TYPE_DISK     "application/vnd.kubevirt.disk.raw+zstd"
#define KUBEVIRT_NOTE_NAME     "io.kubevirt.disk.name" /* of the volume in the config */
#define KUBEVIRT_NOTE_SIZE     "io.kubevirt.disk.size" /* of the raw disk, a Kubernetes quantity */

/* Ours */
#define FERRY_TYPE_MACHINE "application/vnd.ferry.machine.v1"          /* one with pieces */
#define FERRY_TYPE_PIECE   "application/vnd.ferry.disk.piece.raw+zstd" /* of a disk, from... */
#define FERRY_NOTE_OFFSET  "vnd.ferry.disk.offset"                     /* ... this byte on */
#define FERRY_NOTE_PIECE   "vnd.ferry.disk.piece"                      /* its number, from 0 */
#define FERRY_NOTE_DIGEST  "vnd.ferry.disk.digest" /* of the content, as `ferry diff` has it */
#define FERRY_NOTE_MACHINE "vnd.ferry.machine"     /* of the manifest: oci_machine_encode */

/* "application/vnd.ferry.nvram" ... */
const char *oci_file_type(enum guest_file_kind kind);
/* "disk0": as volume, claim and disk of KubeVirt's, and in annotations. */
#define OCI_DISK_NAME_BYTES 16
char *oci_disk_name(uint32_t index, char name[OCI_DISK_NAME_BYTES]); /* returns name */

#define OCI_DIGEST_BYTES (7 + 2 * SHA256_BYTES + 1)
/* "sha256:..."; returns text. */
char *oci_format_digest(const uint8_t sha256[SHA256_BYTES], char text[OCI_DIGEST_BYTES]);
/* The reverse: 0, or -EINVAL for anything else, other algorithms included. */
int oci_parse_digest(const char *text, uint8_t sha256[SHA256_BYTES]);

/* ---- The machine ---- */

/* The whole struct guest, but for names of files, bound to the config beside which it is: *out is a
 * string for an annotation, malloc'd.  config: its digest. */
int oci_machine_encode(const struct guest *guest, const char *config, char **out,
                       struct ferry_error *err);
/*
 * The reverse; hostile.  1: read; 0: it belongs to another config than this one (which somebody
 * edited); or a negative errno.
 */
int oci_machine_decode(const char *text, const char *config, const char *about, struct guest *guest,
                       struct ferry_error *err);

/* A VirtualMachine, a new reference.  What KubeVirt has no place for goes to notes. */
int kubevirt_write(const struct guest *guest, struct notes *notes, json_t **out,
                   struct ferry_error *err);
/*
 * The machine of a VirtualMachine; hostile.  Its disks are those of `layers`, a JSON array of
 * the names of volumes, in their order; disks that are none of them are noted.
 */
int kubevirt_read(const json_t *machine, const json_t *layers, const char *about,
                  struct guest *guest, struct notes *notes, struct ferry_error *err);
/* A Kubernetes quantity of whole bytes ("10Gi", "512M", "65536"): 0, or -EINVAL. */
int kubevirt_parse_quantity(const char *text, uint64_t *value);
/* The canonical one: the largest binary unit that is exact.  Returns text. */
#define KUBEVIRT_QUANTITY_BYTES 24
char *kubevirt_format_quantity(uint64_t value, char text[KUBEVIRT_QUANTITY_BYTES]);

#endif
