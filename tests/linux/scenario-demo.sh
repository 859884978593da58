# scenario-demo.sh: what `make demo` shows, in the words of the person who types it.
tell() {
    echo "demo: $*"
}
title() {
    tell ""
    tell "$*"
}
mib() { # BYTES
    awk -v b="${1:-0}" 'BEGIN {printf "%.1f MiB", b / 1048576}'
}
ms() { # MILLISECONDS
    awk -v t="${1:-0}" 'BEGIN {if (t >= 1000) printf "%.2f s", t / 1000; else if (t >= 10) printf "%.0f ms", t; else printf "%.1f ms", t}'
}
now_ms() {
    awk '{printf "%d", $1 * 1000}' /proc/uptime
}
failed() { # WHAT LOG
    tell "FAILED: $1"
    tail -n 12 "$2" | sed 's/^/demo:     /'
    exit 1
}
# The guest's own longest gap over the lines of LOG from tick N on.
own_gap() { # LOG
    tr -d '\r' < "$1" | sed -n 's/.* gap_us=\([0-9]*\) .*/\1/p' | sort -n | tail -n 1 | awk '{printf "%.0f ms", $1 / 1000}'
}
at() { # HOST ARGUMENT...: a ferry of host a or b
    host=$1
    shift
    FERRY_RUNTIME_DIR=$W/$host "$D/bin/ferry" "$@"
}
sums_are_right() { # LOG
    lines_are_right "$1" > "$W/wrong" || failed "the guest's sums are not what they must be" "$W/wrong"
}
show_last() { # LOG
    tell "    the guest says:  $(tick_lines "$1" | tail -n 1)"
}
mkdir -p -m 700 "$W/a" "$W/b"
trap 'at a kill demo > /dev/null 2>&1; at b kill demo > /dev/null 2>&1' EXIT
cp "$D/disk.raw" "$W/root.raw"

title "1. ferry run --name demo --kernel vmlinuz --initrd initrd --disk root.raw --memory 256M --cpus 2 --detach"
begin=$(now_ms)
at a run --name demo --kernel "$D/vmlinux" --initrd "$D/level2.cpio" --append "$(append count)" \
    --memory 256M --cpus 2 --disk "$W/root.raw" --serial "file:$W/1.log" --detach > "$W/out" 2>&1 ||
    failed "ferry run" "$W/out"
within 120 reached "$W/1.log" 1 || failed "the guest does not count" "$W/1.log"
tell "    $(tr -d '\r' < "$W/1.log" | sed -n 's/^guest: up //p'): counts after $(ms $(($(now_ms) - begin)))"
within 60 reached "$W/1.log" 10 || failed "the guest does not count on" "$W/1.log"
tell "    at each tick it changes and sums 24 MiB of memory, writes to a file it keeps open, syncs it,"
tell "    and sums it as it is on the disk"
show_last "$W/1.log"

title "2. ferry snapshot demo demo.ferry"
at a snapshot demo "$W/demo.ferry" --json > "$W/snapshot.json" 2> "$W/out" || failed "ferry snapshot" "$W/out"
tell "    RAM, CPUs, devices and disk in one file: $(mib "$(json_number "$W/snapshot.json" bytes)")" \
    "for $(mib "$(json_number "$W/snapshot.json" content_bytes)") of content;" \
    "guest paused for $(ms "$(json_number "$W/snapshot.json" pause_ms)")"
at_snapshot=$(last_tick "$W/1.log")
within 30 reached "$W/1.log" $((at_snapshot + 5))

title "3. ferry kill demo"
at a kill demo > "$W/out" 2>&1 || failed "ferry kill" "$W/out"
show_last "$W/1.log"
tell "    ... and no more: it is gone, $(($(last_tick "$W/1.log") - at_snapshot)) ticks after the snapshot"
sums_are_right "$W/1.log"

title "4. ferry restore demo.ferry"
at a restore "$W/demo.ferry" --detach --serial "file:$W/2.log" --disk "vda=$W/restored.raw" --json \
    > "$W/restore.json" 2> "$W/out" || failed "ferry restore" "$W/out"
within 60 reached "$W/2.log" 1 || failed "the restored guest does not count" "$W/2.log"
within 60 reached "$W/2.log" $(($(last_tick "$W/2.log") + 5))
first=$(tick_lines "$W/2.log" | head -n 1 | cut -d' ' -f2)
tell "    runs again after $(ms "$(json_number "$W/restore.json" first_instruction_ms)"), counts on from tick $first"
show_last "$W/2.log"
sums_are_right "$W/2.log"
tell "    memory, disk and open file are whole: every sum is the right one"

title "5. ferry migrate demo tcp://127.0.0.1:7400          (a second ferry listens there)"
at b receive tcp://127.0.0.1:7400 --once --serial "file:$W/3.log" --disk "vda=$W/restored.raw" > "$W/receive.out" 2>&1 &
within 20 grep -qi ':1CE8 00000000:0000 0A' /proc/net/tcp || failed "ferry receive" "$W/receive.out"
at a migrate demo tcp://127.0.0.1:7400 --json > "$W/move.json" 2> "$W/out" || failed "ferry migrate" "$W/out"
within 60 reached "$W/3.log" 1 || failed "the moved guest does not count" "$W/3.log"
within 60 reached "$W/3.log" $(($(last_tick "$W/3.log") + 5))
tell "    $(mib "$(json_number "$W/move.json" bytes_sent)") in $(ms "$(json_number "$W/move.json" total_ms)")," \
    "$(json_number "$W/move.json" rounds) rounds;" \
    "downtime $(ms "$(json_number "$W/move.json" downtime_ms)")"
tell "    the longest gap that the guest saw by its own clock: $(own_gap "$W/3.log")"
show_last "$W/3.log"
sums_are_right "$W/3.log"
first=$(tick_lines "$W/3.log" | head -n 1 | cut -d' ' -f2)
tell "    it counted on from tick $first; memory, disk and open file are whole"

title "6. ferry stop demo"
at b stop demo > "$W/out" 2>&1 || failed "ferry stop" "$W/out"
said "$W/3.log" "button pressed" || failed "the guest did not hear the power button" "$W/3.log"
tell "    the guest heard its power button and switched itself off"
exit 0
