#!/usr/bin/env python3
"""kill_matrix.py BUILD_DIR [PATTERN]: break a move at each of its steps, and ask the payload who
runs.  Prints TAP; PATTERN (a regular expression) chooses cases by name.

Between source and destination stands a relay that understands frames (migrate/PROTOCOL.md: 40
bytes of header, type at 4, length at 8).  At the first frame of a chosen type it stops, before or
after that frame has passed, and the fault happens: SIGKILL of either ferry, a cut of the
connection, or silence.  The relay then serves the next connections faithfully, so that both sides
can settle the matter as they would in life; a destination that died is started again.

Who runs is what the guest says: its serial output goes to one file on each host, and whoever runs
prints tick after tick.  The promises (DESIGN 8): never two; in the end exactly one, unless the
process that owned the guest was killed; no tick printed twice.
"""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

TYPES = {
    "HELLO": 1, "ACCEPT": 2, "PAGES": 4, "ROUND": 5, "ROUND_DONE": 6, "SECTION": 7, "STATE": 8,
    "READY": 9, "COMMIT": 10, "RUNNING": 11, "GONE": 15,
}  # fmt: skip
HEADER_BYTES = 40
COMMITTED = ["COMMIT after", "RUNNING before", "RUNNING after", "GONE before", "GONE after"]
APPEND = "fill=4 ws=2 rate=8 period=20 cpus=1"
TICK = re.compile(rb"^tick (\d+) .*jiffies=[\d,]+\r?\n", re.M)
SETTLE_SECONDS = 40


class Failed(Exception):
    pass


def wait_for(what, condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Failed("not within %d s: %s" % (seconds, what))
        time.sleep(0.01)


class Relay:
    """Listens at `path`, connects on to `target`; strikes once, at frame `kind`."""

    def __init__(self, path, target, kind, after, strike, silent):
        self.silent = silent  # the strike lasts for ever, and others go on
        self.target, self.kind, self.after, self.strike = target, kind, after, strike
        self.chosen = False
        self.struck = threading.Event()
        self.lock = threading.Lock()
        self.open = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(8)
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                source = self.listener.accept()[0]
            except OSError:
                return
            destination = socket.socket(socket.AF_UNIX)
            try:
                destination.connect(self.target)
            except OSError:
                source.close()
                continue
            pair = (source, destination)
            self.open.append(pair)
            for here, there in (pair, pair[::-1]):
                threading.Thread(target=self.pump, args=(here, there, pair), daemon=True).start()

    def pump(self, here, there, pair):
        try:
            while self.frame(here, there, pair):
                pass
        except OSError:
            pass
        self.cut(pair)

    @staticmethod
    def cut(pair):
        for end in pair:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def frame(self, here, there, pair):
        header = read_exactly(here, HEADER_BYTES)
        if header is None:
            return False
        kind = int.from_bytes(header[4:6], "little")
        body = read_exactly(here, int.from_bytes(header[8:12], "little"))
        if body is None:
            return False
        # One frame strikes, whichever thread has it; an answer to it does not slip by meanwhile.
        with self.lock:
            mine = kind == self.kind and not self.chosen
            self.chosen = self.chosen or mine
            if not mine or self.after:
                there.sendall(header + body)
            if not mine:
                return True
            self.struck.set()
            if not self.silent:
                return self.strike(self, pair)
        return self.strike(self, pair)

    def close(self):
        self.listener.close()
        for pair in self.open:
            self.cut(pair)


def read_exactly(sock, size):
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            return None
        data += part
    return data


class Host:
    """One FERRY_RUNTIME_DIR and the ferries that live in it."""

    def __init__(self, ferry, folder):
        self.ferry, self.folder = ferry, folder
        self.serial = folder + ".log"
        self.errors = folder + ".err"
        self.processes = []
        os.mkdir(folder, 0o700)

    def start(self, *arguments):
        environment = dict(os.environ, FERRY_RUNTIME_DIR=self.folder)
        with open(self.errors, "ab") as errors:
            process = subprocess.Popen(
                [self.ferry, *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
            )
        self.processes.append(process)
        return process

    def status(self):
        """The state of the guest's process here, None if there is none."""
        done = subprocess.run(
            [self.ferry, "status", "guest", "--json"],
            env=dict(os.environ, FERRY_RUNTIME_DIR=self.folder),
            capture_output=True,
            check=False,
        )
        return json.loads(done.stdout) if done.returncode == 0 else None

    def kill(self):
        """kill -9 of all that runs here now: of a machine that another process started, too.

        What is to die is listed first: another thread starts a new receiver as soon as this is
        dead, and that one shall live."""
        doomed = set(self.pids())
        for pid in doomed:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for process in self.processes:
            if process.pid in doomed:
                process.wait()
        wait_for("death", lambda: doomed.isdisjoint(self.pids()))

    def pids(self):
        """Processes of our ferry that serve this folder; not the commands that ask them."""
        wanted = ("FERRY_RUNTIME_DIR=" + self.folder).encode()
        found = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                if os.readlink("/proc/%s/exe" % entry) != self.ferry:
                    continue
                with open("/proc/%s/environ" % entry, "rb") as environment:
                    if wanted not in environment.read().split(b"\0"):
                        continue
                with open("/proc/%s/cmdline" % entry, "rb") as cmdline:
                    if cmdline.read().split(b"\0")[1] not in (b"run", b"receive", b"restore"):
                        continue
                with open("/proc/%s/stat" % entry, "rb") as stat:
                    if stat.read().rsplit(b")", 1)[1].split()[0] != b"Z":
                        found.append(int(entry))
            except (OSError, IndexError):
                continue
        return found

    def output(self):
        if not os.path.exists(self.serial):
            return b""
        with open(self.serial, "rb") as log:
            return log.read()

    def ticks(self):
        return [int(m[1]) for m in TICK.finditer(self.output())]


class Case:
    def __init__(self, build, step, when, fault):
        self.name = "%s %s, %s" % (step, when, fault)
        self.build, self.step, self.when, self.fault = build, step, when, fault
        self.committed = "%s %s" % (step, when) in COMMITTED

    def expected_runners(self):
        """The hosts one of which runs the guest in the end ('': none does)."""
        if self.fault == "source killed":
            if self.step == "READY" and self.when == "after":
                return ["", "b"]  # COMMIT may or may not have been sent
            return ["b"] if self.committed else [""]
        if self.fault == "destination killed":
            if self.step in ("RUNNING", "GONE"):
                return [""]  # it was the owner
            return ["a", ""] if self.committed else ["a"]
        return ["b"] if self.committed else ["a"]

    def run(self):
        folder = tempfile.mkdtemp(prefix="ferry-kill.")
        ferry = os.path.realpath(os.path.join(self.build, "ferry"))
        self.a, self.b = (Host(ferry, os.path.join(folder, name)) for name in "ab")
        self.folder = folder
        self.relay = None
        self.killed = threading.Event()  # whoever was to be killed is dead
        try:
            self.prepare()
            self.migrate = self.a.start("migrate", "guest", "unix:" + folder + "/relay", "--json")
            wait_for("the fault", self.relay.struck.is_set, 30)
            self.settle()
            self.judge()
        except Failed:
            self.explain()
            raise
        finally:
            if self.relay:
                self.relay.close()
            self.a.kill()
            self.b.kill()
            shutil.rmtree(folder, ignore_errors=True)

    def prepare(self):
        payload = os.path.realpath(os.path.join(self.build, "guest/payload.elf"))
        self.source = self.a.start(
            "run", "--name", "guest", "--kernel", payload, "--append", APPEND, "--memory", "32M",
            "--serial", "file:" + self.a.serial,
        )  # fmt: skip
        self.receive()
        wait_for("the guest's ticks", lambda: len(self.a.ticks()) >= 3)
        self.relay = Relay(
            self.folder + "/relay", self.folder + "/b.sock", TYPES[self.step],
            self.when == "after", self.strike, self.fault == "silence",
        )  # fmt: skip

    def receive(self):
        """A receiver that serves many connections: also the questions after a fault."""
        uri = self.folder + "/b.sock"
        self.b.start("receive", "unix:" + uri, "--serial", "file:" + self.b.serial)
        wait_for("ferry receive", lambda: os.path.exists(uri))

    def strike(self, relay, pair):
        """In the relay, at the chosen frame.  True: go on relaying."""
        if self.fault == "source killed":
            self.a.kill()
        elif self.fault == "destination killed":
            self.b.kill()
        elif self.fault == "silence":
            time.sleep(3600)
        self.killed.set()
        relay.cut(pair)
        return False

    def settle(self):
        if self.fault == "destination killed":
            wait_for("its death", self.killed.is_set)
            if os.path.exists(self.folder + "/b.sock"):
                os.unlink(self.folder + "/b.sock")
            self.receive()
        wait_for("settlement: " + ", ".join(self.expected_runners()), self.settled, SETTLE_SECONDS)

    def runners(self):
        """Who prints ticks, over a time in which whoever runs prints many."""
        before = {host: len(host.output()) for host in (self.a, self.b)}
        time.sleep(0.4)
        grown = [host for host in before if len(host.output()) > before[host]]
        if len(grown) == 2:  # it may have moved just then; two that run go on
            before = {host: len(host.output()) for host in (self.a, self.b)}
            time.sleep(0.4)
            grown = [host for host in before if len(host.output()) > before[host]]
        if len(grown) > 1:
            raise Failed("BOTH HOSTS RUN THE GUEST")
        return "a" if grown == [self.a] else "b" if grown == [self.b] else ""

    def settled(self):
        now = self.runners()
        if now not in self.expected_runners():
            return False
        time.sleep(0.3)
        return self.runners() == now

    def judge(self):
        twice = set(self.a.ticks()) & set(self.b.ticks())
        if twice:
            raise Failed("printed on both hosts: ticks %s" % sorted(twice)[:5])
        joined = [int(m[1]) for m in TICK.finditer(self.joined())]
        if joined != list(range(1, len(joined) + 1)):
            raise Failed("ticks are missing or out of order: %s" % joined[-20:])
        if re.search(rb"DAMAGED|BACKWARDS|LOST|FAULT", self.joined()):
            raise Failed("the payload complains")

    def joined(self):
        return self.a.output() + self.b.output()

    def explain(self):
        for name, host in (("a", self.a), ("b", self.b)):
            print("# %s: status %s, ticks %s" % (name, host.status(), host.ticks()[-3:]))
            if os.path.exists(host.errors):
                with open(host.errors, errors="replace") as log:
                    for line in log.read().splitlines()[-8:]:
                        print("# %s: %s" % (name, line))


def cases(build):
    killing = ("source killed", "destination killed", "cut")
    for step in TYPES:
        for fault in killing:
            yield Case(build, step, "before", fault)
    for step in ("READY", "COMMIT", "RUNNING"):
        for fault in killing:
            yield Case(build, step, "after", fault)
    for step, when in (("PAGES", "before"), ("COMMIT", "before"), ("RUNNING", "before")):
        yield Case(build, step, when, "silence")


def main():
    build = sys.argv[1]
    pattern = re.compile(sys.argv[2] if len(sys.argv) > 2 else "")
    bad = 0
    for number, case in enumerate((c for c in cases(build) if pattern.search(c.name)), 1):
        try:
            case.run()
            print("ok %d - %s" % (number, case.name), flush=True)
        except Failed as error:
            bad = 1
            print("not ok %d - %s: %s" % (number, case.name, error), flush=True)
    return bad


if __name__ == "__main__":
    sys.exit(main())
