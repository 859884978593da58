# scenario-machine.sh: what one host does with a Linux guest, from boot to restore.

new_disk() { # FILE
    cp "$D/disk.raw" "$1"
}
run_guest() { # NAME KERNEL JOB [OPTION...]
    guest=$1 kernel=$2 job=$3
    shift 3
    ferry run --name "$guest" --kernel "$kernel" --initrd "$D/level2.cpio" --append "$(append "$job")" \
        --memory 256M --cpus 2 --serial "file:$W/$guest.log" --detach "$@" > "$W/$guest.out" 2>&1
}

# 1. Every device as Linux sees it, and the power button.
devices() {
    new_disk "$W/a.raw"
    truncate -s 16M "$W/b.raw" "$W/c.raw"
    dd if=/dev/urandom of="$W/c.raw" bs=64k count=16 conv=notrunc 2> /dev/null
    sum=$(md5sum < "$W/c.raw" | cut -c1-32)
    check "ferry run" run_guest dev "$D/vmlinux" "devices vdc_md5=$sum" \
        --disk "$W/a.raw" --disk "$W/b.raw,serial=second" --disk "$W/c.raw,readonly"
    within 120 said "$W/dev.log" "waiting for the button" || give_up "Linux boots and looks at its devices" "$W/dev.log"
    pass "Linux boots and looks at its devices"
    tr -d '\r' < "$W/dev.log" | sed -n 's/^guest: \(pass\|fail\) /\1 /p' > "$W/results"
    while read -r result what; do
        case $result in
        pass) pass "guest: $what" ;;
        fail) not_ok "guest: $what" ;;
        esac
    done < "$W/results"
    check "the kernel has no complaint" sh -c "! grep 'guest: complaint' $W/dev.log"
    check "a locked disk is refused" sh -c "! $D/bin/ferry run --name second --kernel $D/vmlinux --disk $W/a.raw --detach --serial none"
    check "ferry stop presses the power button" ferry stop dev
    check "the guest heard it" said "$W/dev.log" "button pressed"
    check "the machine is gone" within 20 gone dev
}

# 2. A bzImage; a reset starts it anew; it powers itself off.
boot_and_reset() {
    new_disk "$W/r.raw"
    check "ferry run with a bzImage" run_guest reset "$D/vmlinuz" reset --disk "$W/r.raw"
    within 120 gone reset || give_up "bzImage boots, resets, powers off" "$W/reset.log"
    check "bzImage and initrd boot" said "$W/reset.log" "first boot"
    check "reset boots again, on the same disk" said "$W/reset.log" "second boot"
}

# 3. Snapshot, kill, restore.
snapshot_and_restore() {
    new_disk "$W/count.raw"
    check "ferry run, counting" run_guest count "$D/vmlinux" count --disk "$W/count.raw"
    within 120 reached "$W/count.log" 5 || give_up "the guest counts" "$W/count.log"
    check "ferry snapshot" sh -c "'$D/bin/ferry' snapshot count '$W/count.ferry' --json > '$W/snapshot.json'"
    cat "$W/snapshot.json" | sed 's/^/# /'
    before=$(last_tick "$W/count.log")
    check "the guest goes on after it" within 30 reached "$W/count.log" $((before + 3))
    check "its memory and disk are whole" lines_are_right "$W/count.log"
    check "ferry verify" ferry verify "$W/count.ferry"
    check "ferry kill" ferry kill count
    check "the killed machine is gone" within 20 gone count
    cp "$W/count.log" "$W/before.log"
    check "ferry restore" sh -c "'$D/bin/ferry' restore '$W/count.ferry' --detach --serial 'file:$W/restored.log' --disk 'vda=$W/restored.raw' --json > '$W/restore.json'"
    cat "$W/restore.json" | sed 's/^/# /'
    within 60 reached "$W/restored.log" 2 || give_up "the restored guest counts on" "$W/restored.log"
    first=$(tick_lines "$W/restored.log" | head -n 1 | cut -d' ' -f2)
    within 60 reached "$W/restored.log" $((first + 10)) || true
    check "memory, disk and open files are those of the snapshot" lines_are_right "$W/restored.log"
    check "it counts on from the snapshot" goes_on_from "$W/restored.log" "$first"
    check "at the instant of the snapshot" [ "$first" -le $((before + 2)) ]
    check "no step back in time" sh -c "! grep -E 'back=[1-9]' '$W/restored.log'"
    old=$(sed -n 's/^guest: generation //p' "$W/before.log" | tail -n 1)
    new=$(sed -n 's/^guest: generation //p' "$W/restored.log" | tail -n 1)
    check "it has a generation id of its own" test -n "$new" -a "$old" != "$new"
    check "ferry stop, restored" ferry stop count
    check "the restored guest heard the button" said "$W/restored.log" "button pressed"
}

case ${1:-all} in
all)
    devices
    boot_and_reset
    snapshot_and_restore
    ;;
*) "$1" ;;
esac
exit $bad
