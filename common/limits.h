/*
 * Every number that comes from outside (guest, stream, file, command line) meets one of these
 * before it sizes an allocation or bounds a loop.  Units are in the names.
 */
#ifndef FERRY_COMMON_LIMITS_H
#define FERRY_COMMON_LIMITS_H

#include <stdint.h>

#define KIB (UINT64_C(1) << 10)
#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)
#define TIB (UINT64_C(1) << 40)

/* The machine */
#define LIMIT_NAME_BYTES        63 /* of a machine or device, without the terminator */
#define LIMIT_VCPUS             64
#define LIMIT_MEMORY_MIN_BYTES  (8 * MIB)
#define LIMIT_MEMORY_BYTES      (1 * TIB)
#define LIMIT_DISKS             16
#define LIMIT_DISK_BYTES        (64 * TIB)
#define LIMIT_DISK_SERIAL_BYTES 20 /* virtio 1.2, 5.2.6.1: the ID string */
#define LIMIT_CPUID_ENTRIES     256
#define LIMIT_MSRS              512
#define LIMIT_CMDLINE_BYTES     2048 /* COMMAND_LINE_SIZE of Linux on x86 */
#define LIMIT_KERNEL_BYTES      (1 * GIB)
#define LIMIT_INITRD_BYTES      (2 * GIB)
#define LIMIT_ELF_SEGMENTS      64         /* program headers of a kernel */
#define LIMIT_ELF_NOTES_BYTES   (64 * KIB) /* of one PT_NOTE segment */
#define LIMIT_PATH_BYTES        4096
#define LIMIT_VIRTQUEUE_SIZE    256
#define LIMIT_CHAIN_DESCRIPTORS 256        /* descriptors in one chain */
#define LIMIT_BLK_REQUEST_BYTES (64 * MIB) /* data of one virtio-blk request */
#define LIMIT_BLK_SEGMENTS      256        /* ranges of one discard or write-zeroes request */

/* Disks of a machine that runs on while they are read (vmm/copy_before_write.h) */
#define LIMIT_CBW_BYTES     (64 * MIB)             /* old content kept, unless another is wished */
#define LIMIT_CBW_MAX_BYTES (16 * GIB)             /* the most to be wished */
#define LIMIT_CBW_WAIT_NS   (UINT64_C(5000000000)) /* that a request of the guest may wait */
#define LIMIT_CBW_PARTS     4096 /* blocks of which a reader has had a part, at one time */

/* State sections */
#define LIMIT_SECTION_BYTES (4 * MIB)  /* one device's or vCPU's saved state */
#define LIMIT_SECTIONS      1024       /* state sections of one machine */
#define LIMIT_STATE_FIELDS  128        /* fields of one table */
#define LIMIT_STATE_DEPTH   4          /* nesting of tables */
#define LIMIT_STATE_BYTES   (64 * MIB) /* all state of one machine */

/* Images */
#define LIMIT_CHUNK_MIN_BYTES (4 * KIB)
#define LIMIT_CHUNK_BYTES     (4 * MIB)
#define LIMIT_MANIFEST_BYTES  (1 * MIB)
#define LIMIT_JSON_DEPTH      32
#define LIMIT_CHAIN           64   /* images that build on each other */
#define LIMIT_CHAIN_FILES     4096 /* looked at to find the parents of an image */
#define LIMIT_FILES           8    /* file sections: kernel, initrd ... */
#define LIMIT_FILE_BYTES      LIMIT_INITRD_BYTES
#define LIMIT_SAME_BYTES \
    (32 * MIB) /* how far back in the image a chunk may refer to an equal one */
#define LIMIT_SECRET_LEAST_BYTES 32 /* of a key file */
#define LIMIT_SECRET_BYTES       4096
#define LIMIT_PASSPHRASE_BYTES   1024
#define LIMIT_SCRYPT_BYTES       (64 * MIB) /* N * r * 128 */
#define LIMIT_SCRYPT_PARALLEL    16
#define LIMIT_SIGNERS            16
#define LIMIT_IN_FLIGHT_BYTES    (64 * MIB) /* chunks being coded at one time */

/* Foreign disks; the first four are QEMU's */
#define LIMIT_QCOW2_L1_BYTES        (32 * MIB)
#define LIMIT_QCOW2_REFTABLE_BYTES  (8 * MIB)
#define LIMIT_QCOW2_SNAPSHOTS       65536
#define LIMIT_QCOW2_SNAPSHOTS_BYTES (64 * MIB)  /* of their table */
#define LIMIT_QCOW2_HEADER_BYTES    (64 * KIB)  /* that are searched for header extensions */
#define LIMIT_QCOW2_CACHE_BYTES     (16 * MIB)  /* of L2 tables */
#define LIMIT_UNWRAP_BYTES          (129 * MIB) /* to inflate: a window of 128 MiB and tables */
#define LIMIT_UNWRAP_AHEAD_BYTES    (256 * MIB) /* for threads, where they would help */

/* Disks on web servers */
#define LIMIT_URL_BYTES         8192
#define LIMIT_HTTP_REDIRECTS    5
#define LIMIT_HTTP_HEADER_BYTES (256 * KIB) /* of all responses to one request */
#define LIMIT_HTTP_TRIES        6           /* in a row that bring next to nothing */
#define LIMIT_HTTP_WAIT_S       30          /* that a server may ask for between two of them */
#define LIMIT_HTTP_CACHE_BYTES  (32 * MIB)

/* Conversions that are taken up again */
#define LIMIT_RESUME_HEADER_BYTES (64 * KIB) /* of JSON */
#define LIMIT_RESUME_UNITS        65536      /* of one batch of the journal */
#define LIMIT_RESUME_NODES        4096       /* the same */
#define LIMIT_RESUME_AGAIN        (1 << 20)  /* units that are read again */

/* Machines of other hypervisors */
#define LIMIT_NICS              16
#define LIMIT_DESCRIPTION_BYTES (4 * MIB)   /* an OVF, a domain's XML, a .vmx */
#define LIMIT_DESCRIPTION_DEPTH 64          /* of its elements */
#define LIMIT_DESCRIPTION_NODES (64 * 1024) /* its elements and attributes */
#define LIMIT_DESCRIPTION_KEYS  4096        /* lines of a .vmx */
#define LIMIT_NOTES             256         /* told about one description */
#define LIMIT_NVRAM_BYTES       (16 * MIB)  /* variables of a firmware */
#define LIMIT_MEMBERS           (4 * KIB)   /* of an archive, but for the pieces of disks */
#define LIMIT_OVA_MEMBERS       (64 * KIB)  /* with disks in pieces */
#define LIMIT_XVA_MEMBERS       (256 * MIB)
#define LIMIT_XVA_BLOCK_BYTES   (16 * MIB)
#define LIMIT_MEMBER_NAME_BYTES 1024
#define LIMIT_FOLDER_DEPTH      4

/* OCI artifacts */
#define LIMIT_OCI_LAYERS  8192  /* that are disks or pieces of them */
#define LIMIT_OCI_MEMBERS 16384 /* of an archive or folder */

/* Streams */
#define LIMIT_FRAME_BYTES        (4 * MIB)  /* payload of one frame on the wire */
#define LIMIT_FRAME_STEP_BYTES   (64 * KIB) /* of a frame that must arrive within one timeout */
#define LIMIT_MOVE_ROUNDS        1000       /* of one pre-copy, as the destination takes them */
#define LIMIT_PAGE_RUNS          1024       /* runs of pages in one frame */
#define LIMIT_REASON_BYTES       4096       /* text that explains a refusal */
#define LIMIT_EPOCH              (UINT64_C(1) << 62)
#define LIMIT_TICKET_BYTES       (64 * KIB) /* the ticket file of one machine */
#define LIMIT_TICKETS            4096       /* machines that a runtime folder remembers */
#define LIMIT_TICKET_HISTORY     16         /* decisions remembered of one machine */
#define LIMIT_CONTROL_LINE_BYTES (1 * MIB)  /* one JSON line on the control socket */
#define LIMIT_CONTROL_CLIENTS    32
#define LIMIT_WORKERS            64

#endif
