/* ferry convert: a disk from one format to another. */
#include "cli/commands.h"
#include "cli/convert_disk.h"

static int run(void *parsed, struct ferry_error *err)
{
    return convert_disk(parsed, err);
}

static const struct option_spec options[] = {
    OPTION("from", "FORMAT", OPTION_STRING, struct convert_cli, from,
           "the format of SRC; by its marks if not given, and raw if\nit has none"),
    OPTION("to", "FORMAT", OPTION_STRING, struct convert_cli, to,
           "the format of DEST; by its name if not given"),
    OPTION("subformat", "KIND", OPTION_STRING, struct convert_cli, subformat,
           "the kind of DEST where the format has several: fixed,\nmonolithicSparse ..."),
    OPTION("wrap", "KIND", OPTION_STRING, struct convert_cli, wrap,
           "compress DEST as a whole: gzip, xz, zstd, bzip2 or none; by\nits name if not given"),
    OPTION("size", "SIZE", OPTION_SIZE, struct convert_cli, size_bytes,
           "of the disk in SRC, which a raw one in a pipe does not tell"),
    OPTION("codec", "CODEC", OPTION_STRING, struct convert_cli, codec,
           "none, zlib or zstd, where the format has a choice"),
    OPTION_RANGE("level", "N", struct convert_cli, level, 1, 19,
                 "how hard to compress: 1 to 12 (zlib), 1 to 19 (zstd), 1 to 9\n(gzip, xz, bzip2)"),
    OPTION("cluster", "SIZE", OPTION_SIZE, struct convert_cli, cluster_bytes,
           "cluster, grain or block size of DEST"),
    OPTION("allow-external", "FILE", OPTION_STRINGS, struct convert_cli, external,
           "the other file that SRC may draw on: its backing file,\nand again for that one's; no "
           "name inside SRC is ever opened"),
    OPTION("disk", "NAME", OPTION_STRING, struct convert_cli, disk,
           "which disk of SRC, if SRC is an image with several"),
    OPTION("verify", NULL, OPTION_FLAG, struct convert_cli, verify,
           "read DEST back and compare before it gets its name"),
    OPTION("resume", NULL, OPTION_FLAG, struct convert_cli, resume,
           "keep DEST.partial and DEST.resume when interrupted, and go\non from them"),
    OPTION("check-only", NULL, OPTION_FLAG, struct convert_cli, check_only,
           "write nothing; list what DEST would not keep"),
    OPTION("json", NULL, OPTION_FLAG, struct convert_cli, json, "print JSON"),
    DISK_URL_OPTIONS(struct convert_cli, url),
    IMAGE_FILE_OPTIONS(struct convert_cli, image),
    PROGRESS_OPTIONS(struct convert_cli, progress),
    {.name = NULL},
};
static const struct operand_spec operands[] = {
    OPERAND(
        "SRC", struct convert_cli, source,
        "the disk to read, its http:// or https:// URL, or an image\nthat has it; '-' for stdin"),
    OPERAND("DEST", struct convert_cli, dest, "the file to write; '-' for stdout"),
    {.name = NULL},
};

const struct command command_convert = {
    .name = "convert",
    .summary = "Write a disk in another format",
    .details = "DEST appears under its name only when it is whole.  Zeroes are never stored where\n"
               "the format can leave them out.",
    .options = options,
    .operands = operands,
    .parsed_size = sizeof(struct convert_cli),
    .run = run,
};
