#!/bin/bash
# broken.sh BUILD [all]: samples that qemu-img makes of each format, with each field of headers and tables set in turn to 0,
# 1, its most, one more, one less, its own place, and past the end (`all`, in `make soak`: and with
# its highest bit set, and far past the end).  ferry must refuse (status 3) or
# find the content that was there; where a field is free to say something else (a size, the place of
# a cluster), qemu-img must find the same in it as ferry.  Time and memory are bounded.
. "$(dirname "$0")/../lib.sh"
command -v qemu-img > /dev/null || skip "no qemu-img"
python3 - "$FERRY" "$T" "${2:-}" << 'END' || fail "see above"
import concurrent.futures, os, resource, struct, subprocess, sys

ferry, folder, everything = sys.argv[1:]
MEMORY = 1 << 30  # of address space
SECONDS = 20


def crc32c(data):
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def mend_vhd(data, at, size, sum_at):
    data[at + sum_at : at + sum_at + 4] = bytes(4)
    struct.pack_into(">I", data, at + sum_at, ~sum(data[at : at + size]) & 0xFFFFFFFF)


def mend_vhdx(data, at, size):
    data[at + 4 : at + 8] = bytes(4)
    struct.pack_into("<I", data, at + 4, crc32c(data[at : at + size]))


class Sample:
    """A file, where its fields are, and what makes sums right after one was changed."""

    def __init__(self, name, fmt, qemu, options):
        self.name, self.fmt, self.qemu = name, fmt, qemu
        self.path = f"{folder}/{name}"
        run = ["qemu-img", "convert", "-f", "raw", "-O", qemu, *options, f"{folder}/raw", self.path]
        subprocess.run(run, check=True)
        self.data = open(self.path, "rb").read()
        self.fields = []  # name, offset, bytes, units of places in it, mend

    def get(self, at, size):
        return int.from_bytes(self.data[at : at + size], self.order)

    def add(self, base, table, unit=1, mend=None):
        for name, at, size in table:
            self.fields.append((name, base + at, size, unit, mend))


def qcow2(name, *options):
    s = Sample(name, "qcow2", "qcow2", options)
    s.order = "big"
    s.add(0, [("magic", 0, 4), ("version", 4, 4), ("backing offset", 8, 8), ("backing size", 16, 4),
              ("cluster bits", 20, 4), ("size", 24, 8), ("crypt", 32, 4), ("L1 size", 36, 4),
              ("L1 offset", 40, 8), ("reftable offset", 48, 8), ("reftable clusters", 56, 4),
              ("snapshots", 60, 4), ("snapshots offset", 64, 8)])
    if s.get(4, 4) == 3:
        s.add(0, [("incompatible", 72, 8), ("compatible", 80, 8), ("autoclear", 88, 8),
                  ("refcount order", 96, 4), ("header length", 100, 4), ("compression", 104, 1),
                  ("extension", 112, 4), ("extension length", 116, 4)])
    l1 = s.get(40, 8)
    l2 = s.get(l1, 8) & ~(1 << 63)
    s.add(l1, [("L1 entry 0", 0, 8)])
    s.add(l2, [("L2 entry 0", 0, 8), ("L2 entry 1", 8, 8)])
    return s


VMDK = [("magic", 0, 4), ("version", 4, 4), ("flags", 8, 4), ("capacity", 12, 8), ("grain", 20, 8),
        ("descriptor", 28, 8), ("descriptor size", 36, 8), ("entries", 44, 4), ("redundant", 48, 8),
        ("directory", 56, 8), ("overhead", 64, 8), ("unclean", 72, 1), ("line ends", 73, 4),
        ("compression", 77, 2)]


def vmdk(name, *options):
    s = Sample(name, "vmdk", "vmdk", options)
    s.order = "little"
    s.add(0, VMDK, 512)
    gd = s.get(56, 8)
    if gd == (1 << 64) - 1:
        footer = len(s.data) - 1024
        gd = s.get(footer + 56, 8)
        s.add(footer, [("footer " + n, a, b) for n, a, b in VMDK], 512)
    gt = s.get(gd * 512, 4)
    grain = s.get(gt * 512, 4)
    s.add(gd * 512, [("directory entry 0", 0, 4)], 512)
    s.add(gt * 512, [("table entry 0", 0, 4), ("table entry 1", 4, 4)], 512)
    if s.get(8, 4) & 1 << 16:
        s.add(grain * 512, [("grain's LBA", 0, 8), ("grain's size", 8, 4)])
    return s


def vhd(name, *options):
    s = Sample(name, "vhd", "vpc", options)
    s.order = "big"
    footer = len(s.data) - 512
    mend = lambda data: mend_vhd(data, footer, 512, 64)
    table = [("cookie", 0, 8), ("features", 8, 4), ("version", 12, 4), ("header offset", 16, 8),
             ("original size", 40, 8), ("size", 48, 8), ("cylinders", 56, 2), ("heads", 58, 1),
             ("sectors", 59, 1), ("type", 60, 4)]
    s.add(footer, table, 1, mend)
    s.add(footer, [("sum", 64, 4)])
    if s.get(footer + 60, 4) == 3:
        at = s.get(footer + 16, 8)
        mend = lambda data: mend_vhd(data, at, 1024, 36)
        s.add(at, [("cookie of header", 0, 8), ("table offset", 16, 8), ("version of header", 24, 4),
                   ("entries", 28, 4), ("block size", 32, 4)], 1, mend)
        s.add(at, [("sum of header", 36, 4)])
        s.add(s.get(at + 16, 8), [("entry 0", 0, 4), ("entry 1", 4, 4)], 512)
    return s


def vhdx(name, *options):
    s = Sample(name, "vhdx", "vhdx", options)
    s.order = "little"
    s.add(0, [("signature", 0, 8)])
    head = max(65536, 131072, key=lambda at: s.get(at + 8, 8))
    s.add(head, [("signature of header", 0, 4), ("sequence", 8, 8), ("log GUID", 48, 8),
                 ("log version", 64, 2), ("version", 66, 2), ("log length", 68, 4),
                 ("log offset", 72, 8)], 1, lambda data: mend_vhdx(data, head, 4096))
    s.add(head, [("sum of header", 4, 4)])
    table = [("region count", 8, 4)]
    for i in range(2):
        table += [(f"region {i} GUID", 16 + 32 * i, 8), (f"region {i} offset", 32 + 32 * i, 8),
                  (f"region {i} length", 40 + 32 * i, 4), (f"region {i} required", 44 + 32 * i, 4)]
    s.add(196608, table, 1, lambda data: mend_vhdx(data, 196608, 65536))
    regions = [(s.data[196624 + 32 * i : 196626 + 32 * i], s.get(196640 + 32 * i, 8)) for i in range(2)]
    bat = dict(regions)[b"\x66\x77"]
    meta = dict(regions)[b"\x06\xa2"]
    s.add(meta, [("metadata signature", 0, 8), ("metadata count", 10, 2)])
    for i in range(s.get(meta + 10, 2)):
        entry = meta + 32 + 32 * i
        s.add(entry, [(f"item {i} GUID", 0, 8), (f"item {i} offset", 16, 4),
                      (f"item {i} length", 20, 4), (f"item {i} flags", 24, 4)])
        length = min(s.get(entry + 20, 4), 8)
        s.add(meta + s.get(entry + 16, 4), [(f"item {i}", 0, length)])
    s.add(bat, [("entry 0", 0, 8), ("entry 1", 8, 8)])
    return s


def vdi(name, *options):
    s = Sample(name, "vdi", "vdi", options)
    s.order = "little"
    s.add(0, [("signature", 64, 4), ("version", 68, 4), ("header size", 72, 4), ("type", 76, 4),
              ("flags", 80, 4), ("map offset", 340, 4), ("data offset", 344, 4), ("sector", 360, 4),
              ("size", 368, 8), ("block size", 376, 4), ("extra", 380, 4), ("blocks", 384, 4),
              ("allocated", 388, 4), ("parent", 440, 8)])
    s.add(s.get(340, 4), [("map entry 0", 0, 4), ("map entry 1", 4, 4)])
    return s


def values(s, at, size, unit):
    now, most = s.get(at, size), (1 << 8 * size) - 1
    end = (len(s.data) + unit - 1) // unit
    wanted = {0, 1, most, now + 1, now - 1, at // unit, end}
    if everything:
        wanted |= {end + 4096, now | 1 << (8 * size - 1)}
    return sorted(v for v in wanted if 0 <= v <= most and v != now)


def limits():
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def run(command, limit=None):
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace",
                              timeout=SECONDS, preexec_fn=limit, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return None, "took too long"
    return done.returncode, done.stdout + done.stderr


# A sanitizer's shadow needs more address space than there is.
bounded = limits if run([ferry, "version"], limits)[0] == 0 else None


def agrees(s, path):
    """Do we read the same as qemu-img, whatever it is?"""
    out = path + ".raw"
    status, text = run([ferry, "convert", path, out, "--from", s.fmt], bounded)
    if status == 0:
        status, text = run(["qemu-img", "compare", "-f", s.qemu, "-F", "raw", path, out])
        os.unlink(out)
    return status == 0, text


def judge(job):
    s, (name, at, size, unit, mend), value, number = job
    data = bytearray(s.data)
    data[at : at + size] = value.to_bytes(size, s.order)
    if mend:
        mend(data)
    path = f"{folder}/{number}.broken"
    open(path, "wb").write(data)
    # By its format, as one with a broken mark would be taken for raw.
    status, text = run([ferry, "convert", path, path + ".out", "--from", s.fmt, "--to", "raw"], bounded)
    kind, why = "refused", None
    if status == 0:
        same = open(path + ".out", "rb").read() == s.content
        os.unlink(path + ".out")
        kind = "same" if same else "other"
        # Of a qcow2's last sector, if it is a part of one, qemu-img sees nothing.
        if not same and (name != "size" or value % 512 == 0):
            fine, said = agrees(s, path)
            why = None if fine else f"other content than qemu-img's: {said.strip()[-200:]}"
    elif status != 3 or os.path.exists(path + ".out"):
        why = f"status {status}: {text.strip()[-300:]}"
    os.unlink(path)
    return kind, why and f"{s.name}: {name} = {value:#x}: {why}"


def make_raw():
    import random
    random.seed(1)
    with open(f"{folder}/raw", "wb") as f:
        f.truncate(2359296)
        f.write(random.randbytes(70000))
        f.seek(1200000)
        f.write(b"text " * 20000)


make_raw()
samples = [
    qcow2("qcow2-v2", "-o", "compat=0.10"),
    qcow2("qcow2-v3", "-o", "cluster_size=4K"),
    qcow2("qcow2-zlib", "-c"),
    qcow2("qcow2-extended", "-o", "extended_l2=on,cluster_size=16K"),
    vmdk("vmdk-sparse", "-o", "subformat=monolithicSparse"),
    vmdk("vmdk-stream", "-o", "subformat=streamOptimized"),
    vhd("vhd-dynamic", "-o", "subformat=dynamic,force_size=on"),
    vhd("vhd-fixed", "-o", "subformat=fixed,force_size=on"),
    vhdx("vhdx", "-o", "block_size=1M,log_size=1M"),
    vdi("vdi"),
]
jobs = []
for s in samples:
    subprocess.run(["qemu-img", "convert", "-f", s.qemu, "-O", "raw", s.path, f"{folder}/content"], check=True)
    s.content = open(f"{folder}/content", "rb").read()
    for field in s.fields:
        for value in values(s, field[1], field[2], field[3]):
            jobs.append((s, field, value, len(jobs)))
counts, wrong = {}, []
with concurrent.futures.ThreadPoolExecutor(2) as pool:
    for kind, why in pool.map(judge, jobs):
        counts[kind] = counts.get(kind, 0) + 1
        if why:
            wrong.append(why)
print(f"{len(jobs)} broken fields: {counts}")
for why in wrong:
    print(why)
sys.exit(bool(wrong) or not counts.get("refused") or not counts.get("same"))
END
