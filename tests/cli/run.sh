#!/bin/bash
# ferry run: what it refuses and leaves nothing of, and the life of a machine in fore- and background.
. "$(dirname "$0")/../lib.sh"
need_kvm
does() { # COMMAND...: it works, whatever it says
    "$@" > "$T/out" 2>&1 || fail "status $?: $* ($(cat "$T/out"))"
}
payload="--kernel $PAYLOAD --memory 32M"
forever="fill=1 ws=1 period=20"
nothing_left() {
    [ -z "$(find "$T/a" -mindepth 1 -maxdepth 1 ! -name '.*')" ] || fail "left behind: $(ls "$T/a")"
}

# Refusals
truncate -s 1M "$T/disk.raw"
truncate -s 1000 "$T/odd.raw"
expect 1 "cannot read the kernel.*No such file" ferry run --kernel "$T/none"
expect 1 "cannot read the initrd.*No such file" ferry run $payload --initrd "$T/none"
expect 1 "none.raw.*No such file" ferry run $payload --disk "$T/none.raw"
expect 1 "this host has" ferry run --kernel "$PAYLOAD" --memory 1T
expect 2 "not readonly, serial=" ferry run $payload --disk "$T/disk.raw,cache=none"
expect 2 "more than 20 characters" ferry run $payload --disk "$T/disk.raw,serial=123456789012345678901"
expect 2 "CPU model|cpu" ferry run $payload --cpu pentium
expect 1 "cannot open for the serial port" ferry run $payload --serial "file:$T/none/log"
ferry run $payload --disk "$T/odd.raw" --detach > /dev/null 2>&1 && fail "a disk of 1000 bytes was taken"
echo "not a kernel" > "$T/text"
ferry run --kernel "$T/text" --detach > /dev/null 2>&1 && fail "a text was booted"
nothing_left

# In the background
expect 0 "^one$" ferry run --name one $payload --append "$forever" --disk "$T/disk.raw,serial=A,,B" --detach
expect 1 "one: a machine of this name is running already" ferry run --name one $payload
expect 3 "disk.raw" ferry run --name two $payload --disk "$T/disk.raw"
expect 3 "disk.raw" ferry run --name two $payload --disk "$T/disk.raw" --detach
[ ! -e "$T/a/two" ] || fail "a refused machine left its folder"
[ "$(stat -c %a "$T/a/one")" = 700 ] || fail "the folder is not private"
[ "$(stat -c %a "$T/a/one/control.sock")" = 600 ] || fail "the socket is not private"
expect 0 "one +[0-9]+ running +1 +32.0 MiB" ferry ps
ferry status one --json > "$T/status"
[ "$(json "$T/status" state)" = running ] || fail "it does not run"
[ "$(json "$T/status" epoch)" = 1 ] || fail "its epoch is not 1"
pid=$(json "$T/status" pid)
[ "$(readlink "/proc/$pid/fd/1")" = /dev/null ] || fail "a detached machine holds on to stdout"
does ferry pause one
expect 0 "one: paused" ferry status one
does ferry pause one
expect 1 "is paused and cannot shut down" ferry stop one
does ferry resume one
expect 0 "one: running" ferry status one
does ferry resume one
expect 1 "did not switch itself off within 200.0 ms; 'ferry kill one'" ferry stop one --timeout 200ms
does ferry kill one
[ ! -e "/proc/$pid" ] || wait_for 5 test ! -e "/proc/$pid"
nothing_left

# A folder left by kill -9 is taken over; a process that does not answer is killed all the same.
ferry run --name one $payload --append "$forever" --detach > /dev/null
pid=$(cat "$T/a/one/pid")
kill -9 "$pid"
wait_for 5 test ! -e "/proc/$pid"
expect 1 "no machine 'one' is running" ferry status one
[ -d "$T/a/one" ] || fail "kill -9 cannot remove a folder"
expect 0 "^one$" ferry run --name one $payload --append "$forever" --detach
kill -STOP "$(cat "$T/a/one/pid")"
does ferry kill one
nothing_left

# Of many that want one name at once, one gets it
runs=()
for i in 1 2 3 4 5 6; do
    ferry run --name one $payload --append "$forever" --detach > "$T/race.$i" 2> /dev/null &
    runs+=($!)
done
winners=0
for run in "${runs[@]}"; do
    wait "$run" && winners=$((winners + 1))
done
[ $winners = 1 ] || fail "$winners machines have one name"
does ferry kill one
nothing_left

# Started paused; names are made up
name=$(ferry run $payload --append "$forever" --paused --detach)
[[ $name =~ ^vm-[0-9a-f]{4}$ ]] || fail "'$name' is no made-up name"
expect 0 "$name: paused" ferry status "$name"
ferry kill "$name"

# In the foreground: the guest's output on stdout, its end ours
ferry run $payload --append "$forever ticks=3 off=1" < /dev/null > "$T/serial" || fail "power off: status $?"
grep -q "payload: done" "$T/serial" || fail "the end of the output is missing"
nothing_left
ferry run $payload --append "$forever ticks=2" --no-reboot < /dev/null > "$T/serial" || fail "reset: status $?"
[ "$(grep -c 'payload: done' "$T/serial")" = 1 ] || fail "--no-reboot rebooted"
nothing_left
background ferry run --name three $payload --append "$forever ticks=2" --serial "file:$T/reboots"
rebooted() {
    [ "$(grep -ac 'payload: done' "$T/reboots" 2> /dev/null)" -ge 3 ] 2> /dev/null
}
wait_for 20 rebooted
kill -TERM "$(cat "$T/a/three/pid")"
wait "$background_pid"
[ $? = 1 ] || fail "SIGTERM: status $?"
nothing_left

# Typed on stdin: q ends the payload; the escape key ends the machine
(sleep 0.5; printf q; sleep 5) | ferry run $payload --append "$forever" --no-reboot > "$T/serial" || fail "q"
grep -q "payload: done" "$T/serial" || fail "the guest did not hear what was typed"
(sleep 0.5; printf '\001x'; sleep 5) | ferry run $payload --append "$forever" > "$T/serial" || fail "Ctrl-A x"
nothing_left

# A reader that never reads does not stop pause, status or the end
mkfifo "$T/pipe"
sleep 60 < "$T/pipe" & own_pids+=($!)
background ferry run --name four $payload --append "fill=1 ws=1 period=1 hz=5000" > "$T/pipe"
wait_for 10 ferry status four > /dev/null 2>&1
sleep 2
does ferry pause four
expect 0 "four: paused" ferry status four
does ferry kill four
nothing_left
exit 0
