#!/bin/bash
# ferry receive and migrate: results, refusals with every reason, and a guest that stays well.
. "$(dirname "$0")/../lib.sh"
need_kvm
truncate -s 1M "$T/disk.raw"
mkdir "$T/empty"
start() {
    ferry run --name one --kernel "$PAYLOAD" --memory 32M --append "fill=4 ws=2 period=20" \
        --disk "$T/disk.raw" --serial "file:$T/1.log" --detach > /dev/null || fail "ferry run"
    wait_for 10 at_tick "$T/1.log" 3
}
start

# Refusals: nobody there; no disk there; a name that is taken
expect 1 "127.0.0.1:1: nobody listens" ferry migrate one tcp://127.0.0.1:1
expect 0 "one: running" ferry status one
expect 3 "--insecure" ferry migrate one tcp://192.0.2.1:1
uri=$(ferry_at b receive "unix:$T/none.sock" --detach)
[ "$uri" = "unix:$T/none.sock" ] || fail "'$uri' is not where it listens"
expect 3 "vda: its file is not known here" ferry migrate one "$uri"
receivers=$(pgrep -f "unix:$T/none.sock")
kill $receivers
wait_for 5 test ! -e "$T/none.sock"
uri=$(ferry_at b receive --detach --disk-dir "$T/empty")
expect 3 "disk.raw" ferry migrate one "$uri"
expect 0 "one: running" ferry status one
[ -z "$(find "$T/b" -mindepth 1 -maxdepth 1 ! -name '.*')" ] || fail "a refused move left $(ls "$T/b")"
kill $(pgrep -f "$T/empty")

# The move
background ferry_at b receive tcp://127.0.0.1:0 --disk-dir "$T" --serial "file:$T/%n.log" --json > "$T/receive.json"
receiver=$background_pid
wait_for 5 grep -q listening "$T/receive.json"
uri=$(head -n 1 "$T/receive.json" | python3 -c 'import json, sys; print(json.load(sys.stdin)["uri"])')
ferry migrate one "$uri" --json > "$T/move.json" 2> "$T/err" || fail "ferry migrate: $(cat "$T/err")"
for key in mode rounds total_ms downtime_ms bytes_sent bytes_by_kind.raw predicted_total_ms predicted_downtime_ms; do
    json "$T/move.json" $key > /dev/null || fail $key
done
wait_for 5 test ! -e "$T/a/one"
wait_for 10 at_tick "$T/one.log" 6
ferry_at b status one --json > "$T/status"
[ "$(json "$T/status" state)" = running ] || fail "does not run there"
[ "$(json "$T/status" epoch)" -gt 1 ] || fail "the epoch did not grow"
wait_for 5 grep -q arrived "$T/receive.json"
cat "$T/1.log" "$T/one.log" > "$T/all.log"
payload_is_well "$T/all.log" || fail "the payload complains"

# The machine outlives its receiver; back again, to a receiver of one, which then is the machine
kill "$receiver"
wait "$receiver"
expect 0 "one: running" ferry_at b status one
background ferry receive "unix:$T/back.sock" --once --name other --disk "vda=$T/disk.raw" --serial "file:$T/3.log"
once=$background_pid
wait_for 5 test -S "$T/back.sock"
expect 0 "moved to unix:$T/back.sock" ferry_at b migrate one "unix:$T/back.sock" --downtime 200ms
wait_for 10 at_tick "$T/3.log" 6
expect 0 "other: running" ferry status other
[ "$(cat "$T/a/other/pid")" = "$once" ] || [ -n "$(ps -o pid= --ppid "$once")" ] || fail "not the receiver's process"
wait_for 5 test ! -e "$T/back.sock"
ferry kill other
wait "$once" || fail "the receiver of one: $?"
cat "$T/1.log" "$T/one.log" "$T/3.log" > "$T/all.log"
payload_is_well "$T/all.log" || fail "the payload complains after the way back"

# Cancelled by the client's end: the guest stays
rm "$T/1.log"
start
background ferry_at b receive "unix:$T/slow.sock" --disk-dir "$T"
wait_for 5 test -S "$T/slow.sock"
background ferry migrate one "unix:$T/slow.sock" --bandwidth 200K
mover=$background_pid
wait_for 10 sh -c "FERRY_RUNTIME_DIR='$T/a' '$FERRY' status one --json | grep -q '\"job\":\"migrate\"'"
expect 1 "is busy: migrate is under way" ferry pause one
kill -INT "$mover" 2> /dev/null || kill "$mover"
kill "$mover" 2> /dev/null
wait_for 10 sh -c "! FERRY_RUNTIME_DIR='$T/a' '$FERRY' status one --json | grep -q '\"job\"'"
expect 0 "one: running" ferry status one
tick=$(tick_of "$T/1.log")
wait_for 10 at_tick "$T/1.log" $((tick + 3))
ferry kill one

# A guest that resets during the move: the move ends, and it boots again here
rm "$T/1.log"
ferry run --name one --kernel "$PAYLOAD" --memory 32M --append "fill=4 ws=2 period=20 ticks=40" \
    --disk "$T/disk.raw" --serial "file:$T/1.log" --detach > /dev/null || fail "ferry run"
wait_for 10 at_tick "$T/1.log" 3
expect 1 "slow.sock: cancelled" ferry migrate one "unix:$T/slow.sock" --bandwidth 200K
booted_twice() {
    [ "$(grep -ac "^payload: 'fill" "$T/1.log")" -ge 2 ]
}
wait_for 10 booted_twice
runs() { # it resets again and again
    ferry status one | grep -q "one: running"
}
wait_for 10 runs
expect 1 "no machine 'one' is running" ferry_at b status one
exit 0
