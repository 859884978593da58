#!/usr/bin/env python3
"""bench_convert.py BUILD_DIR: disks into other formats and back, beside qemu-img in the same run.

The disk is that of bench_image.py.  The commands alternate, RUNS times each, and medians count;
qemu-img with zlib runs once, for it takes a minute.  ferry makes what it writes durable before that
takes its name; qemu-img does not, so its file is synced behind it, and that counts.

Environment: RUNS (3).
"""
import os
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from bench_image import GIB, aim, make_disk, shell

MIB = 1 << 20


class Measured:
    """A command, run again and again: seconds, and the most memory it ever had."""

    def __init__(self, command, target=None, sync=False):
        self.command, self.target, self.sync = command, target, sync
        self.seconds, self.peak = [], 0

    def run(self):
        if self.target and os.path.exists(self.target):
            os.unlink(self.target)
        start = time.monotonic()
        child = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        error = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = status
        if status:
            sys.exit("%s: %s" % (" ".join(self.command), error.decode()))
        if self.sync:
            shell("sync", self.target)
        self.seconds.append(time.monotonic() - start)
        self.peak = max(self.peak, usage.ru_maxrss * 1024)

    @property
    def median(self):
        return statistics.median(self.seconds)

    @property
    def size(self):
        return os.stat(self.target).st_blocks * 512


def compare(name, ours, theirs, runs, least, slow=False):
    for turn in range(runs):
        ours.run()
        if not (slow and turn):
            theirs.run()
    print("  %-28s ferry %6.2f s %8.1f MiB (peak %3.0f MiB)  qemu-img %6.2f s %8.1f MiB" %
          (name, ours.median, ours.size / MIB, ours.peak / MIB, theirs.median, theirs.size / MIB), flush=True)
    return [("%s: speed to qemu-img's" % name, theirs.median / ours.median, least, "x", True),
            ("%s: size to qemu-img's" % name, ours.size / theirs.size, 1.005, "x", False),
            ("%s: memory" % name, ours.peak / MIB, 256, "MiB", False)]


def main():
    build = os.path.abspath(sys.argv[1])
    ferry, folder = os.path.join(build, "ferry"), os.path.join(build, "bench")
    runs = int(os.environ.get("RUNS", 3))
    os.makedirs(folder, exist_ok=True)
    disk = os.path.join(folder, "disk.raw")
    make_disk(disk)
    path = lambda name: os.path.join(folder, name)
    print("disk: 8 GiB; %d runs, medians; load %.1f" % (runs, os.getloadavg()[0]))
    aims = []
    formats = [
        # name, ferry's arguments, qemu-img's, does compression dominate, is qemu-img slow
        ("streamOptimized", ["--to", "vmdk"], ["-O", "vmdk", "-o", "subformat=streamOptimized"], True, True),
        ("qcow2", ["--to", "qcow2", "--codec", "none"], ["-O", "qcow2"], False, False),
        ("qcow2 zlib", ["--to", "qcow2", "--codec", "zlib"], ["-c", "-O", "qcow2"], True, True),
        ("qcow2 zstd", ["--to", "qcow2", "--codec", "zstd"],
         ["-c", "-O", "qcow2", "-o", "compression_type=zstd"], True, False),
        ("vhdx", ["--to", "vhdx"], ["-O", "vhdx"], False, False),
        ("vdi", ["--to", "vdi"], ["-O", "vdi"], False, False),
    ]
    for name, ours, theirs, dominates, slow in formats:
        back = theirs[theirs.index("-O") + 1]
        mine, other = path("ferry-to." + back), path("qemu-to." + back)
        aims += compare(name, Measured([ferry, "convert", disk, mine] + ours, mine),
                        Measured(["qemu-img", "convert", "-m", "8"] + ([] if dominates else ["-W"]) + theirs +
                                 [disk, other], other, True), runs, 2 if dominates else 1, slow)
        out, their_out = path("ferry-back.raw"), path("qemu-back.raw")
        aims += compare(name + " to raw", Measured([ferry, "convert", other, out, "--from", back], out),
                        Measured(["qemu-img", "convert", "-m", "8", "-W", "-f", back, "-O", "raw", other,
                                  their_out], their_out, True), runs, 1)
        for file in (mine, other, out, their_out):
            os.unlink(file)
    image = path("disk.ferry")
    shell(ferry, "pack", image, "--disk", disk, "--name", "bench")
    piped = Measured(["sh", "-c", "exec \"$1\" export \"$2\" - --to ova | cat > /dev/null", "sh", ferry, image])
    alone = Measured([ferry, "convert", image, path("alone.vmdk")], path("alone.vmdk"))
    for _ in range(runs):
        piped.run()
        alone.run()
    print("  %-28s ferry %6.2f s (peak %3.0f MiB); its disk alone %6.2f s" %
          ("image to OVA, to a pipe", piped.median, piped.peak / MIB, alone.median))
    aims.append(("OVA to a pipe: time to the disk alone as VMDK", piped.median / alone.median, 1.15, "x", False))
    aims.append(("OVA to a pipe: memory", piped.peak / MIB, 256, "MiB", False))
    with open(path("hole.raw"), "wb") as f:
        f.truncate(100 * GIB)
    for to in ("qcow2", "vmdk", "vhd", "vhdx", "vdi", "raw"):
        hole = Measured([ferry, "convert", path("hole.raw"), path("hole-out." + to), "--to", to],
                        path("hole-out." + to))
        for _ in range(5):
            hole.run()
        aims.append(("a hole of 100 GiB to %s" % to, hole.median * 1000, 100, "ms", False))
        os.unlink(hole.target)
    for file in ("hole.raw", "alone.vmdk", "disk.ferry"):
        os.unlink(path(file))
    print("aims:")
    for text, value, limit, unit, least in aims:
        aim(text, value, limit, unit, least)


if __name__ == "__main__":
    main()
