#!/usr/bin/env python3
"""bench_image.py BUILD_DIR: the image format beside qemu-img, zstd, xxhsum and nbdcopy.

One real disk, made of this machine's own files: 8 GiB ext4 with about 2 GiB of data, kept in
BUILD_DIR/bench.  What is read lies in the page cache.  The commands alternate, RUNS times each, and
medians count; qemu-img with zlib and zstd of the raw file run once, for they take a minute.

ferry makes a file durable before it gets its name, the others do not.  So the aims compare the times
until the file is on the disk: an fsync of it follows each command ("durable").  FOLDER on a tmpfs
leaves the disk out altogether.

Environment: RUNS (3), FOLDER (BUILD_DIR/bench).
"""
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time

GIB = 1 << 30
SOURCES = ["/usr/bin", "/usr/share/doc", "/usr/share/locale", "/usr/lib/gcc", "/usr/lib/x86_64-linux-gnu",
           "/usr/lib/python3", "/usr/share"]
DATA_MIB = 1700


def shell(*command, quiet=True):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL if quiet else None,
                   stderr=subprocess.DEVNULL if quiet else None)


def timed(*command):
    start = time.monotonic()
    shell(*command)
    return time.monotonic() - start


def make_durable(path):
    file = os.open(path, os.O_RDONLY)
    os.fsync(file)
    os.close(file)


def make_disk(path):
    """Folders are copied whole until there is enough."""
    if os.path.exists(path):
        return
    root = path + ".root"
    shutil.rmtree(root, ignore_errors=True)
    os.makedirs(root)
    for source in SOURCES:
        used = int(subprocess.run(["du", "-sm", root], capture_output=True, text=True).stdout.split()[0])
        if used >= DATA_MIB or not os.path.isdir(source):
            continue
        subprocess.run(["cp", "-a", source, os.path.join(root, source.strip("/").replace("/", "-"))],
                       stderr=subprocess.DEVNULL)
    shell("mke2fs", "-q", "-F", "-t", "ext4", "-d", root, path + ".new", "8G")
    shutil.rmtree(root)
    os.rename(path + ".new", path)


def data_only(disk, path):
    """The runs of data alone, one behind the other, for a compressor that knows no holes."""
    size = 0
    source = os.open(disk, os.O_RDONLY)
    with open(path, "wb") as out:
        at = 0
        while True:
            try:
                at = os.lseek(source, at, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(source, at, os.SEEK_HOLE)
            while at < end:
                piece = os.pread(source, min(end - at, 1 << 24), at)
                out.write(piece)
                at += len(piece)
                size += len(piece)
    os.close(source)
    return size


class Table:
    """Commands and how long they take: by themselves, and until the file they make is durable."""

    def __init__(self, runs):
        self.runs, self.alone, self.durable, self.commands = runs, {}, {}, []

    def add(self, name, command, out=None, once=False, fresh=False):
        self.commands.append((name, command, out, once, fresh))

    def run(self):
        for turn in range(self.runs):
            for name, command, out, once, fresh in self.commands:
                if once and turn:
                    continue
                if fresh and os.path.exists(out):
                    os.unlink(out)
                start = time.monotonic()
                seconds = timed(*command)
                if out:
                    make_durable(out)
                self.alone.setdefault(name, []).append(seconds)
                self.durable.setdefault(name, []).append(time.monotonic() - start)

    def print(self, sizes):
        for name, _, _, _, _ in self.commands:
            size = "%8.1f MiB" % (os.path.getsize(sizes[name]) / (1 << 20)) if name in sizes else ""
            print("  %-28s %7.2f s, durable %7.2f s  %s" %
                  (name, statistics.median(self.alone[name]), self[name], size))

    def __getitem__(self, name):
        return statistics.median(self.durable[name])


def aim(text, value, limit, unit="x", least=False):
    met = value >= limit if least else value <= limit
    print("  %-62s %8.2f %s (aim %s %g): %s" % (text, value, unit, ">=" if least else "<=", limit,
                                                "met" if met else "NOT MET"))


def child_size(ferry, folder, disk):
    """113 scattered writes of 256 KiB; the clone shares nothing, it is only sparse."""
    clone, base, child = (os.path.join(folder, n) for n in ("clone.raw", "base.ferry", "child.ferry"))
    shell("cp", "--sparse=always", disk, clone)
    shell(ferry, "pack", base, "--disk", clone, "--name", "bench")
    rng = random.Random(113)
    with open(clone, "r+b") as f:
        for _ in range(113):
            f.seek(rng.randrange(8 * GIB // 4096) * 4096 % (8 * GIB - 262144))
            f.write(rng.randbytes(262144))
    seconds = timed(ferry, "pack", child, "--disk", clone, "--base", base, "--name", "bench")
    size = os.path.getsize(child)
    os.unlink(clone)
    return size, seconds


def random_read(ferry, folder):
    """A cold handle on a 100 GiB sparse image, one 4 KiB read, by nbdkit's plugin and by extract's
    reader alike: here the smallest program that does it, tests/bench/read_at."""
    raw, image = os.path.join(folder, "sparse.raw"), os.path.join(folder, "sparse.ferry")
    rng = random.Random(4096)
    with open(raw, "wb") as f:
        f.truncate(100 * GIB)
        for _ in range(4000):
            f.seek(rng.randrange(100 * GIB // 262144) * 262144)
            f.write(rng.randbytes(65536) + b"text " * 20000)
    shell(ferry, "pack", image, "--disk", raw, "--name", "bench")
    os.unlink(raw)
    tool = os.path.join(os.path.dirname(ferry), "tests/bench/read_at")
    out = subprocess.run([tool, image, "200"], check=True, capture_output=True, text=True).stdout
    return json.loads(out)


def main():
    build = os.path.abspath(sys.argv[1])
    ferry = os.path.join(build, "ferry")
    folder = os.environ.get("FOLDER", os.path.join(build, "bench"))
    os.makedirs(folder, exist_ok=True)
    disk = os.path.join(folder, "disk.raw")
    make_disk(disk)
    path = lambda name: os.path.join(folder, name)
    data = data_only(disk, path("data.raw"))
    print("disk: 8 GiB, %.2f GiB of data; %d runs, medians; load %.1f" %
          (data / GIB, int(os.environ.get("RUNS", 3)), os.getloadavg()[0]))
    table = Table(int(os.environ.get("RUNS", 3)))
    convert = ["qemu-img", "convert", "-m", "8", "-O"]
    zstd = ["-c", "-o", "compression_type=zstd"]
    outputs = {"pack": "disk.ferry", "zstd -1 -T0, data alone": "data.zst", "zstd -1 -T0, raw file": "raw.zst",
               "qemu-img zstd 64K": "z64.qcow2", "qemu-img zstd 2M": "z2m.qcow2", "qemu-img zlib 64K": "zlib.qcow2"}
    outputs = {name: path(file) for name, file in outputs.items()}

    def pack(name, command, once=False):
        table.add(name, command + [outputs[name]], out=outputs[name], once=once)

    fast = ["zstd", "-q", "-1", "-T0", "-f"]
    table.add("pack", [ferry, "pack", outputs["pack"], "--disk", disk], out=outputs["pack"])
    pack("zstd -1 -T0, data alone", fast + [path("data.raw"), "-o"])
    pack("zstd -1 -T0, raw file", fast + [disk, "-o"], once=True)
    pack("qemu-img zstd 64K", convert + ["qcow2"] + zstd + [disk])
    pack("qemu-img zstd 2M", convert + ["qcow2"] + zstd + ["-o", "cluster_size=2M", disk])
    pack("qemu-img zlib 64K", convert + ["qcow2", "-c", disk], once=True)
    table.add("verify", [ferry, "verify", outputs["pack"]])
    table.add("xxhsum", ["xxhsum", "-q", "-H3", outputs["pack"]])
    raw, z64 = path("out.raw"), outputs["qemu-img zstd 64K"]
    nbd = ["nbdcopy", "--", "[", "qemu-nbd", "-r", "-f", "qcow2", z64, "]", raw]
    table.add("extract", [ferry, "extract", outputs["pack"], "vda", raw], out=raw, fresh=True)
    table.add("qemu-img to raw", convert + ["raw", z64, raw], out=raw, fresh=True)
    table.add("nbdcopy to raw", nbd, out=raw, fresh=True)
    table.run()
    table.print(outputs)
    with open(path("hole.raw"), "wb") as f:
        f.truncate(1 << 40)
    empty = statistics.median(timed(ferry, "pack", path("hole.ferry"), "--disk", path("hole.raw")) for _ in range(5))
    size, seconds = child_size(ferry, folder, disk)
    print("  %-28s %7.2f s  %8.1f MiB" % ("child, 113 writes of 256 KiB", seconds, size / (1 << 20)))
    reads = random_read(ferry, folder)
    best = min(table["qemu-img zstd 64K"], table["qemu-img zstd 2M"])
    print("aims:")
    aim("pack, speed to qemu-img's best zstd", best / table["pack"], 2, least=True)
    aim("pack, size to qemu-img's zstd 64K", os.path.getsize(outputs["pack"]) / os.path.getsize(z64), 1)
    aim("pack, time to zstd -1 -T0 of the data alone", table["pack"] / table["zstd -1 -T0, data alone"], 1.4)
    aim("extract, speed to qemu-img's", table["qemu-img to raw"] / table["extract"], 1.5, least=True)
    print("  %-62s %8.2f x" % ("extract, speed to nbdcopy's", table["nbdcopy to raw"] / table["extract"]))
    print("  %-62s %8.2f x" % ("verify, time to xxhsum's", table["verify"] / table["xxhsum"]))
    aim("a hole of 1 TiB", empty * 1000, 50, "ms")
    aim("a child after 113 scattered writes of 256 KiB", size / (1 << 20), 40, "MiB")
    aim("4 KiB of a cold 100 GiB sparse image, median", reads["median_ms"], 3, "ms")
    print("  %-62s %8.2f ms" % ("  the same, worst of %d" % reads["count"], reads["worst_ms"]))
    for name in ("data.raw", "data.zst", "raw.zst", "out.raw", "hole.raw", "z64.qcow2", "z2m.qcow2", "zlib.qcow2",
                 "sparse.ferry", "base.ferry", "child.ferry", "hole.ferry", "disk.ferry"):
        if os.path.exists(path(name)):
            os.unlink(path(name))


if __name__ == "__main__":
    main()
