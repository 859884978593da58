/*
 * OVF (DMTF DSP0243, 1.0 to 2.1): the XML of an appliance, with more about its files than struct
 * guest has room for: whoever packs them knows their sizes, whoever unpacks them needs to be told
 * how they were packed.
 *
 * What OVF cannot say goes into an element of ferry's own, which others ignore:
 * <ferry:Machine ovf:required="false"> in the VirtualSystem.  Read back, it adds to the standard
 * part, and what contradicts it is left out.
 */
#ifndef FERRY_IMAGEFMT_FOREIGN_OVF_H
#define FERRY_IMAGEFMT_FOREIGN_OVF_H

#include "imagefmt/foreign/describe.h"

#define OVF_SIZE_UNKNOWN UINT64_MAX
#define OVF_HREF_BYTES   (3 * 256) /* each byte of a name may be three in an href */

/* ---- Writing ---- */

/* A file of the package, as its File element says. */
struct ovf_file {
    const char *href;     /* its plain name, escaped here; NULL: there is none (a blank disk) */
    uint64_t size_bytes;  /* of all its pieces; OVF_SIZE_UNKNOWN: not said */
    uint64_t chunk_bytes; /* it is in pieces, href.000000000 ..., each of this size but the last;
                           * 0: whole */
};

/*
 * disks: one for each of the guest's; files: GUEST_FILE_KINDS.  The format of a disk's file is
 * guest->disks[i].format ("": "vmdk", streamOptimized); names in guest are not looked at.  pad_to:
 * the text is made this long with spaces before its last tag (0: as it comes), so that one with
 * the sizes can replace one without; -ENOSPC if it is longer.  notes may be NULL.  As
 * description_format.write otherwise.
 */
int ovf_write(const struct guest *guest, const struct ovf_file *disks,
              const struct ovf_file *files /* [GUEST_FILE_KINDS] */, size_t pad_to, json_t *notes,
              char **text, size_t *size, struct ferry_error *err);
/* A pad_to that is enough for these files whatever their size_bytes turn out to be. */
int ovf_room(const struct guest *guest, const struct ovf_file *disks, const struct ovf_file *files,
             size_t *size, struct ferry_error *err);

/* ---- Reading ---- */

struct ovf_part {
    char href[OVF_HREF_BYTES]; /* as written; the guest has it with %20 and the like put right.  "":
                                * no file (a blank disk, or none of this kind) */
    uint64_t size_bytes;       /* of the file, OVF_SIZE_UNKNOWN: not said */
    uint64_t chunk_bytes;      /* 0: whole */
    bool gzip;                 /* the file as a whole is gzipped */
    uint64_t capacity_bytes;   /* of a disk, as the guest sees it; 0: not said */
};

struct ovf_package {
    struct ovf_part disks[LIMIT_DISKS]; /* as the guest's */
    struct ovf_part files[GUEST_FILE_KINDS];
};

/*
 * Hostile text.  Refused: more than one machine, disks that build on others (parentRef), encrypted
 * or otherwise packed files, two disks from one file, and all that guest_check refuses.  notes may
 * be NULL.
 */
int ovf_read(const char *text, size_t size, const char *about, struct guest *guest,
             struct ovf_package *package, json_t *notes, struct ferry_error *err);

/* ---- Between the files of this format ---- */

#define OVF_NS_1    "http://schemas.dmtf.org/ovf/envelope/1"
#define OVF_NS_2    "http://schemas.dmtf.org/ovf/envelope/2"
#define OVF_CIM     "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/"
#define OVF_NS_RASD OVF_CIM "CIM_ResourceAllocationSettingData"
#define OVF_NS_VSSD OVF_CIM "CIM_VirtualSystemSettingData"
#define OVF_NS_VMW  "http://www.vmware.com/schema/ovf"
#define OVF_NS_VBOX "http://www.virtualbox.org/ovf/machine"
#define OVF_NS_OWN  DESCRIBE_NS

/* CIM_ResourceAllocationSettingData.ResourceType */
enum ovf_resource {
    OVF_CPU = 3,
    OVF_MEMORY = 4,
    OVF_IDE = 5,
    OVF_SCSI = 6,
    OVF_ETHERNET = 10,
    OVF_FLOPPY = 14,
    OVF_CD = 15,
    OVF_DVD = 16,
    OVF_DISK = 17,
    OVF_STORAGE = 20, /* "other storage device": SATA, NVMe */
    OVF_SERIAL = 21,
};

/* "vmdk" and its URI, and the reverse; "" and NULL: none that is known. */
const char *ovf_format_of_uri(const char *uri);
const char *ovf_uri_of_format(const char *format);
/* "byte * 2^20", "MegaBytes", "KB" ... in bytes; 0: no unit that is known. */
uint64_t ovf_unit_bytes(const char *unit);

#endif
