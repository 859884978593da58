#!/bin/bash
# The user's terminal: raw while it is the guest's, itself again afterwards, whatever ends the machine.
. "$(dirname "$0")/../lib.sh"
need_kvm
cat > "$T/terminal.py" <<'PYTHON'
import os, pty, select, signal, subprocess, sys, termios, time

ferry, payload = sys.argv[1:3]
master, slave = pty.openpty()
before = termios.tcgetattr(slave)

def start(*arguments):
    return subprocess.Popen([ferry, *arguments], stdin=slave, stdout=slave, stderr=slave)

def run():
    return start("run", "--name", "one", "--kernel", payload, "--memory", "32M",
                 "--append", "fill=1 ws=1 period=20")

def read_until(text):
    seen, end = b"", time.monotonic() + 20
    while text not in seen:
        assert time.monotonic() < end, "no %r in %r" % (text, seen)
        if select.select([master], [], [], 0.1)[0]:
            seen += os.read(master, 65536)

def is_raw():
    return not termios.tcgetattr(slave)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

def ended(process, status):
    end = time.monotonic() + 20
    while process.poll() is None:
        assert time.monotonic() < end, "does not end"
        if select.select([master], [], [], 0.05)[0]:
            os.read(master, 65536)
    assert process.returncode == status, process.returncode
    assert termios.tcgetattr(slave) == before, "the terminal stays changed"

process = run()
read_until(b"tick 2 ")
assert is_raw()
os.write(master, b"\x03")  # Ctrl-C is the guest's
os.write(master, b"\x01h")
read_until(b"Ctrl-A x ends the machine")
read_until(b"tick 5 ")
os.write(master, b"\x01x")
ended(process, 0)

process = run()
read_until(b"tick 2 ")
process.send_signal(signal.SIGTERM)
ended(process, 1)

process = run()
read_until(b"tick 2 ")
process.send_signal(signal.SIGABRT)  # a crash
ended(process, -signal.SIGABRT)

subprocess.run([ferry, "run", "--name", "two", "--kernel", payload, "--memory", "32M", "--append",
                "fill=1 ws=1 period=20", "--detach"], check=True, stdout=subprocess.DEVNULL)
process = start("console", "two")
read_until(b"tick 2 ")
assert is_raw()
os.write(master, b"\x1d")
ended(process, 0)
# An image is not for a terminal, and does not come from one.
for arguments in ("snapshot", "two", "-"), ("verify", "-"):
    process = start(*arguments)
    read_until(b"terminal")
    ended(process, 2)
PYTHON
FERRY_RUNTIME_DIR=$T/a python3 "$T/terminal.py" "$FERRY" "$PAYLOAD" || fail "see above"
exit 0
