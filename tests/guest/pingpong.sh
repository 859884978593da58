#!/bin/bash
# The payload, with AVX state and two vCPUs, moves back and forth between two hosts.  What it prints
# over all of them, joined, must be what it prints undisturbed, and its clock never steps back.
# PINGPONG_MOVES (20), PINGPONG_SECONDS (0: count moves instead), PINGPONG_MEMORY, PINGPONG_APPEND.
. "$(dirname "$0")/../lib.sh"
need_kvm
moves=${PINGPONG_MOVES:-20} seconds=${PINGPONG_SECONDS:-0}
append="cpus=2 avx=1 period=50 sum=10 ${PINGPONG_APPEND:-fill=32 ws=16 rate=40}"
memory=${PINGPONG_MEMORY:-128M}

ferry_at a run --name ball --kernel "$PAYLOAD" --append "$append" --memory "$memory" --cpus 2 \
    --serial "file:$T/0.log" --detach || fail "ferry run"
wait_for 60 at_tick "$T/0.log" 3

here=a there=b move=0 begin=$SECONDS
while :; do
    if [ "$seconds" -gt 0 ]; then
        [ $((SECONDS - begin)) -lt "$seconds" ] || break
    else
        [ "$move" -lt "$moves" ] || break
    fi
    move=$((move + 1))
    background ferry_at $there receive "unix:$T/$move.sock" --once --serial "file:$T/$move.log" > "$T/receive.out" 2>&1
    wait_for 10 test -S "$T/$move.sock"
    ferry_at $here migrate ball "unix:$T/$move.sock" --json > "$T/$move.json" 2> "$T/err" ||
        fail "move $move: $(cat "$T/err" "$T/$move.json")"
    wait_for 60 at_tick "$T/$move.log" 1
    [ $here = a ] && here=b there=a || here=a there=b
done
wait_for 20 at_tick "$T/$move.log" 3
ferry_at $here kill ball || fail "ferry kill"

for ((i = 0; i <= move; i++)); do cat "$T/$i.log"; done | tr -d '\r' > "$T/all.log"
payload_is_well "$T/all.log" || fail "the payload complains"
state_lines "$T/all.log" > "$T/seen"
last=$(tick_of "$T/all.log")
ferry_at a run --name reference --kernel "$PAYLOAD" --append "$append ticks=$last off=1" --memory "$memory" \
    --cpus 2 --serial "file:$T/reference.log" > /dev/null 2>&1
# Its last line has a full sum more than the others.
state_lines "$T/reference.log" | head -n $((last - 1)) > "$T/expected"
head -n $((last - 1)) "$T/seen" > "$T/compared"
cmp "$T/compared" "$T/expected" || {
    diff "$T/compared" "$T/expected" | head -n 10
    fail "after $move moves the lines differ from those of an undisturbed run"
}
echo "$move moves, $last ticks, no difference"
sed -n 's/.* gap_us=\([0-9]*\).*/\1/p' "$T/all.log" | sort -n | awk '
    {v[NR] = $1} END {printf "gap of the guest: median %.1f ms, longest %.1f ms\n", v[int((NR + 1) / 2)] / 1000, v[NR] / 1000}'
