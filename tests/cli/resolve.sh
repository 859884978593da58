#!/bin/bash
# A move that is cut off at its last step: status 3, in doubt, and the ways out of it.
. "$(dirname "$0")/../lib.sh"
need_kvm

# relay.py LISTEN TARGET: pass one connection on, frame by frame, and drop dead at COMMIT.
cat > "$T/relay.py" <<'PYTHON'
import os, socket, sys, threading
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen(1)
source = listener.accept()[0]
target = socket.socket(socket.AF_UNIX)
target.connect(sys.argv[2])
def exactly(sock, size):
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            os._exit(0)
        data += part
    return data
def pump(here, there):
    while True:
        header = exactly(here, 40)
        body = exactly(here, int.from_bytes(header[8:12], "little"))
        if int.from_bytes(header[4:6], "little") == 10:  # COMMIT (migrate/PROTOCOL.md)
            os.unlink(sys.argv[1])
            os._exit(0)
        there.sendall(header + body)
threading.Thread(target=pump, args=(target, source), daemon=True).start()
pump(source, target)
PYTHON

# Leaves machine "one" on host a in doubt, and nobody that could answer for b.
in_doubt() {
    ferry run --name one --kernel "$PAYLOAD" --memory 32M --append "fill=1 ws=1 period=20" \
        --serial "file:$T/1.log" --detach > /dev/null || fail "ferry run"
    background ferry_at b receive "unix:$T/b.sock"
    receiver=$background_pid
    background python3 "$T/relay.py" "$T/relay.sock" "$T/b.sock"
    wait_for 10 test -S "$T/b.sock"
    wait_for 10 test -S "$T/relay.sock"
    expect 3 "doubt" ferry migrate one "unix:$T/relay.sock"
    kill "$receiver"
    wait "$receiver"
    expect 0 "one: in-doubt" ferry status one
}
ticks_stand_still() {
    local before
    before=$(tick_of "$T/1.log")
    sleep 0.5
    [ "$(tick_of "$T/1.log")" = "$before" ] || fail "the guest runs, though it is in doubt"
}

# A live process in doubt
in_doubt
ticks_stand_still
for command in pause resume stop; do
    expect 3 "in doubt|asked|under way" ferry $command one
done
expect 3 "in doubt|under way" ferry snapshot one "$T/x.ferry"
[ ! -e "$T/x.ferry" ] || fail "a snapshot in doubt"
ferry resolve one > "$T/out" 2>&1 && fail "resolved, though nobody answers"
expect 0 "one: in-doubt" ferry status one
expect 0 "^one +[0-9]+ in-doubt" ferry ps
keep() { # it may be asking by itself just now
    ferry resolve one --run-here --i-fenced-the-other-side > "$T/out" 2>&1
}
wait_for 10 keep
grep -q "one: kept" "$T/out" || fail "run-here: $(cat "$T/out")"
expect 0 "one: running" ferry status one
tick=$(tick_of "$T/1.log")
wait_for 10 at_tick "$T/1.log" $((tick + 3))
ferry status one --json > "$T/status"
[ "$(json "$T/status" epoch)" -gt 1 ] || fail "the epoch did not grow"
expect 2 "is not in doubt" ferry resolve one
ferry kill one

# Killed in doubt: it says that this is not the end of it
rm -f "$T/1.log"
in_doubt
expect 0 "one: its move is still in doubt.*ferry resolve one" ferry kill one
process_gone() {
    ferry ps | grep -qE "^one +0 in-doubt"
}
wait_for 5 process_gone
expect 0 "one: moved" ferry resolve one --gone --i-fenced-the-other-side

# Somebody answers again: it resolves by itself
rm -f "$T/1.log"
in_doubt
background ferry_at b receive "unix:$T/relay.sock"
receiver=$background_pid
runs() {
    ferry status one 2> /dev/null | grep -q "one: running"
}
wait_for 20 runs
kill "$receiver"
wait "$receiver"
ferry kill one

# Only the ticket is left
rm -f "$T/1.log"
in_doubt
pid=$(cat "$T/a/one/pid")
kill -9 "$pid"
wait_for 5 test ! -e "/proc/$pid"
expect 0 "one +0 in-doubt" ferry ps
expect 0 "one: in-doubt" ferry status one
ferry ps --json | grep -q '"state":"in-doubt"' || fail "ps --json does not show the ticket"
ferry resolve one > "$T/out" 2>&1 && fail "resolved, though nobody answers"
background ferry_at b receive "unix:$T/relay.sock"
wait_for 10 test -S "$T/relay.sock"
expect 0 '"outcome":"lost"' ferry resolve one --json
expect 1 "no machine 'one' is running" ferry status one
expect 1 "no machine 'one' is running" ferry resolve one
exit 0
