#!/usr/bin/env python3
"""bench.py BUILD_DIR: figures of ferry beside Debian's QEMU, the very same payload in both.

Moves (2 GiB guest, 1 GiB of it data that zstd -1 brings to a third; idle, and dirtying 170 MiB/s
over 256 MiB): total time from the command to its completion, downtime as the guest saw it (the
longest gap between two looks at its clock, by the tick lines of the destination), bytes sent.
QEMU moves plainly, with multifd, and with multifd and zstd; the best of them counts.  Runs of all
alternate; medians are printed.  Both sides use TCP over loopback and wish for 100 ms of downtime.

Boot: from exec of `ferry run` to the guest's first instruction.  Memory: Private_* of the
machine's process, less guest RAM.

Environment: RUNS (3), BENCH (move,boot,memory), QEMU_COMMAND.
"""
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

MIB = 1 << 20
MEMORY = "2048M"
LOADS = {
    "idle": "fill=768 ws=256 rate=0 ratio=3 spin=1",
    "170 MiB/s": "fill=768 ws=256 rate=170 ratio=3 spin=1",
}
DOWNTIME_MS = 100
TICK = re.compile(rb"^tick (\d+) .*gap_us=(\d+) back=(\d+) jiffies=[\d,]+\r?\n", re.M)


class Failed(Exception):
    pass


def wait_for(what, condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Failed("not within %d s: %s" % (seconds, what))
        time.sleep(0.005)


def ticks(path):
    """Complete tick lines of a log: [(number, gap in us)]."""
    if not os.path.exists(path):
        return []
    with open(path, "rb") as log:
        data = log.read()
    if re.search(rb"DAMAGED|BACKWARDS|LOST|FAULT", data):
        raise Failed("the payload complains: %s" % path)
    return [(int(m[1]), int(m[2])) for m in TICK.finditer(data)]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Scratch:
    """A folder and the processes of one run; both are gone at the end."""

    def __enter__(self):
        self.path = tempfile.mkdtemp(prefix="ferry-bench.")
        self.processes = []
        return self

    def __exit__(self, *unused):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        shutil.rmtree(self.path, ignore_errors=True)

    def file(self, name):
        return os.path.join(self.path, name)

    def start(self, command, log, **options):
        with open(self.file(log), "wb") as out:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, **options
            )
        self.processes.append(process)
        return process


def guest_downtime_ms(log):
    """The gap that spans the move is told by the destination's first ticks."""
    wait_for("ticks after the move", lambda: len(ticks(log)) >= 3, 60)
    return max(gap for _, gap in ticks(log)[:3]) / 1000


class Ferry:
    def __init__(self, build):
        self.program = os.path.abspath(os.path.join(build, "ferry"))
        self.payload = os.path.abspath(os.path.join(build, "guest/payload.elf"))

    def environment(self, scratch, host):
        path = scratch.file(host)
        os.makedirs(path, mode=0o700, exist_ok=True)
        return dict(os.environ, FERRY_RUNTIME_DIR=path)

    def move(self, load):
        with Scratch() as scratch:
            a, b = (self.environment(scratch, host) for host in "ab")
            uri = "tcp://127.0.0.1:%d" % free_port()
            before, after = scratch.file("a.log"), scratch.file("b.log")
            run = [self.program, "run", "--name", "bench", "--kernel", self.payload, "--append", LOADS[load]]
            run += ["--memory", MEMORY, "--serial", "file:" + before]
            scratch.start(run, "a.out", env=a)
            wait_for("the guest's ticks", lambda: len(ticks(before)) >= 10, 120)
            receive = [self.program, "receive", uri, "--once", "--serial", "file:" + after]
            port = int(uri.rsplit(":", 1)[1])
            scratch.start(receive, "b.out", env=b)
            wait_for("ferry receive", lambda: listens(port))
            move = [self.program, "migrate", "bench", uri, "--downtime", "%dms" % DOWNTIME_MS, "--json"]
            begin = time.monotonic()
            done = subprocess.run(move, env=a, capture_output=True, check=False)
            total = time.monotonic() - begin
            if done.returncode:
                raise Failed("ferry migrate: %s" % done.stderr.decode())
            result = json.loads(done.stdout)
            return {
                "total_ms": total * 1000,
                "downtime_ms": guest_downtime_ms(after),
                "said_downtime_ms": result["downtime_ms"],
                "bytes": result["bytes_sent"],
            }

    def first_instruction_ms(self):
        with Scratch() as scratch:
            run = [self.program, "run", "--name", "boot", "--kernel", self.payload]
            run += ["--append", "ticks=1 fill=1 ws=1 off=1", "--memory", "512M", "--serial", "stdio"]
            begin = time.monotonic()
            process = subprocess.Popen(
                run,
                env=self.environment(scratch, "a"),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            scratch.processes.append(process)
            first = process.stdout.read(1)
            passed = time.monotonic() - begin
            if first != b"*":
                raise Failed("the guest's first byte is %r" % first)
            return passed * 1000

    def private_bytes(self):
        """(all Private_*, of these guest RAM) of a machine that has booted and touched its RAM."""
        with Scratch() as scratch:
            log = scratch.file("a.log")
            run = [self.program, "run", "--name", "memory", "--kernel", self.payload]
            run += ["--append", "fill=64 ws=16", "--memory", "512M", "--cpus", "2", "--serial", "file:" + log]
            process = scratch.start(run, "a.out", env=self.environment(scratch, "a"))
            wait_for("the guest's ticks", lambda: len(ticks(log)) >= 3, 60)
            return private_of(process.pid)


def private_of(pid):
    total = ram = 0
    in_ram = False
    with open("/proc/%d/smaps" % pid) as maps:
        for line in maps:
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                in_ram = "/memfd:" in line
            elif line.startswith("Private_"):
                size = int(line.split()[1]) * 1024
                total += size
                ram += size if in_ram else 0
    return total, ram


def listens(port):
    wanted = ":%04X" % port
    with open("/proc/net/tcp") as table:
        for line in table:
            fields = line.split()
            if fields[3] == "0A" and fields[1].endswith(wanted):
                return True
    return False


class Monitor:
    """QMP over a unix socket."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        wait_for("QEMU's monitor", lambda: os.path.exists(path) and self.connected(path))
        self.stream = self.socket.makefile("rw")
        self.stream.readline()
        self.call("qmp_capabilities")

    def connected(self, path):
        try:
            self.socket.connect(path)
            return True
        except OSError:
            return False

    def call(self, command, **arguments):
        request = {"execute": command, "arguments": arguments}
        self.stream.write(json.dumps(request) + "\n")
        self.stream.flush()
        while True:
            reply = json.loads(self.stream.readline())
            if "error" in reply:
                raise Failed("%s: %s" % (command, reply["error"]["desc"]))
            if "return" in reply:
                return reply["return"]


class Qemu:
    MODES = {
        "plain": ({}, {}),
        "multifd": ({"multifd": True}, {"multifd-channels": 2}),
        "multifd zstd": (
            {"multifd": True},
            {"multifd-channels": 2, "multifd-compression": "zstd", "multifd-zstd-level": 1},
        ),
    }

    def __init__(self, build, command):
        self.version, *self.command = command.split()
        self.payload = os.path.abspath(os.path.join(build, "guest/payload.elf"))

    def start(self, scratch, host, load, *more):
        monitor = scratch.file(host + ".qmp")
        command = self.command + ["-accel", "kvm", "-M", "microvm", "-cpu", "host", "-m", MEMORY]
        command += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        command += ["-kernel", self.payload, "-append", LOADS[load]]
        command += ["-serial", "file:" + scratch.file(host + ".log")]
        command += ["-qmp", "unix:%s,server,nowait" % monitor]
        scratch.start(command + list(more), host + ".out")
        return Monitor(monitor)

    def prepare(self, monitor, mode):
        capabilities, parameters = self.MODES[mode]
        names = [{"capability": name, "state": state} for name, state in capabilities.items()]
        if names:
            monitor.call("migrate-set-capabilities", capabilities=names)
        limits = {"max-bandwidth": 100 << 30, "downtime-limit": DOWNTIME_MS}
        monitor.call("migrate-set-parameters", **limits, **parameters)

    def move(self, load, mode):
        with Scratch() as scratch:
            uri = "tcp:127.0.0.1:%d" % free_port()
            source = self.start(scratch, "a", load)
            wait_for("the guest's ticks", lambda: len(ticks(scratch.file("a.log"))) >= 10, 120)
            destination = self.start(scratch, "b", load, "-incoming", "defer")
            for monitor in (source, destination):
                self.prepare(monitor, mode)
            destination.call("migrate-incoming", uri=uri)
            begin = time.monotonic()
            source.call("migrate", uri=uri)
            while True:
                info = source.call("query-migrate")
                if info.get("status") in ("completed", "failed", "cancelled"):
                    break
                time.sleep(0.005)
            total = time.monotonic() - begin
            if info["status"] != "completed":
                raise Failed("QEMU: %s" % info)
            return {
                "total_ms": total * 1000,
                "downtime_ms": guest_downtime_ms(scratch.file("b.log")),
                "said_downtime_ms": info["downtime"],
                "bytes": info["ram"]["transferred"],
            }


def medians(results):
    return {key: statistics.median(result[key] for result in results) for key in results[0]}


def row(name, figures):
    print(
        "  %-24s %8.0f ms %8.1f ms %8.1f ms %8.0f MiB"
        % (
            name,
            figures["total_ms"],
            figures["downtime_ms"],
            figures["said_downtime_ms"],
            figures["bytes"] / MIB,
        ),
        flush=True,
    )


def bench_moves(ferry, qemu, runs):
    for load in LOADS:
        print("\nmove of a 2 GiB guest, 1 GiB of data, %s (medians of %d)" % (load, runs))
        print("  %-24s %11s %11s %11s %12s" % ("", "total", "downtime", "as said", "sent"))
        results = {"ferry": []}
        results.update({mode: [] for mode in qemu.MODES})
        for _ in range(runs):
            results["ferry"].append(ferry.move(load))
            for mode in qemu.MODES:
                try:
                    results[mode].append(qemu.move(load, mode))
                except Failed as error:
                    print("  QEMU, %s: %s" % (mode, error), file=sys.stderr)
        figures = {name: medians(found) for name, found in results.items() if found}
        row("ferry", figures["ferry"])
        for mode in qemu.MODES:
            if mode in figures:
                row("QEMU %s %s" % (qemu.version, mode), figures[mode])
        for key, what in (("total_ms", "total"), ("downtime_ms", "downtime"), ("bytes", "bytes")):
            others = {mode: figures[mode][key] for mode in qemu.MODES if mode in figures}
            if others:
                best = min(others, key=others.get)
                ratio = figures["ferry"][key] / others[best]
                print("  %-9s %.2fx of QEMU's best (%s)" % (what, ratio, best), flush=True)


def bench_boot(ferry, runs):
    times = sorted(ferry.first_instruction_ms() for _ in range(runs * 5))
    middle = statistics.median(times)
    print("\nboot: ferry run to the guest's first instruction: median %.1f ms" % middle, end="")
    print(" (%.1f to %.1f, %d runs; aim: 30 ms)" % (times[0], times[-1], len(times)), flush=True)


def bench_memory(ferry):
    total, ram = ferry.private_bytes()
    print("\nprivate memory: %.1f MiB without guest RAM" % ((total - ram) / MIB), end="")
    print(" (%.1f MiB of guest RAM; aim: 5 MiB)" % (ram / MIB), flush=True)


def main():
    build = sys.argv[1]
    runs = int(os.environ.get("RUNS", "3"))
    parts = os.environ.get("BENCH", "move,boot,memory").split(",")
    here = os.path.dirname(os.path.abspath(__file__))
    command = os.environ.get("QEMU_COMMAND") or subprocess.run(
        [os.path.join(here, "fetch-qemu"), os.path.join(build, "bench/qemu")],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    ferry, qemu = Ferry(build), Qemu(build, command)
    print("ferry beside QEMU %s, %d CPUs" % (qemu.version, os.cpu_count()))
    if "boot" in parts:
        bench_boot(ferry, runs)
    if "memory" in parts:
        bench_memory(ferry)
    if "move" in parts:
        bench_moves(ferry, qemu, runs)


main()
