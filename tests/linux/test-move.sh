#!/bin/bash
# A Linux guest moves between two hosts and back: two level 1s on one virtual network with one disk
# between them; on a machine whose own KVM can run Linux, two FERRY_RUNTIME_DIRs.
set -u
cd "$(dirname "$0")/../.."
build=$1
make -s --no-print-directory O="$build" linux-tools || { echo "could not prepare the Linux guest"; exit 1; }
work=$(mktemp -d "${TMPDIR:-/tmp}/ferry-move.XXXXXX")
pids=()
cleanup() {
    for pid in "${pids[@]}"; do kill "$pid" 2> /dev/null; done
    wait
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 143' INT TERM
cp "$build/linux/tools/disk.raw" "$work/shared.raw"

direct() {
    mkdir "$work/meet" "$work/a" "$work/b"
    for role in a b; do
        cat tests/linux/lib-scenario.sh tests/linux/scenario-move.sh > "$work/run"
        D=$(realpath "$build/linux/tools") W=$work/$role MEET=$work/meet DISK=$work/shared.raw \
            PORT_A=17401 PORT_B=17402 sh "$work/run" "$role" > "$work/$role.log" 2>&1 &
        pids+=($!)
    done
}
# Both emulators write to the same file: what either has flushed the other sees.
nested() {
    local port=$((20000 + $$ % 20000)) role net
    for role in a b; do
        [ $role = a ] && net=listen=127.0.0.1:$port mac=01 || net=connect=127.0.0.1:$port mac=02
        tests/linux/level1 "$build" "move-$role" scenario-move $role \
            -drive "file=$work/shared.raw,if=none,id=shared,format=raw,file.locking=off" \
            -device virtio-blk-pci,drive=shared,share-rw=on \
            -netdev "socket,id=net,$net" \
            -device "virtio-net-pci,netdev=net,host_mtu=60000,romfile=,mac=52:54:00:00:00:$mac" &
        pids+=($!)
        sleep 1 # the side that listens comes first
    done
}
logs=()
if grep -qE '^flags.*\b(svm|vmx)\b' /proc/cpuinfo && [ -w /dev/kvm ]; then
    direct
    logs=("$work/a.log" "$work/b.log")
else
    nested
    logs=("$build/linux/move-a.log" "$build/linux/move-b.log")
fi
status=0
for pid in "${pids[@]}"; do wait "$pid" || status=1; done
pids=()

number=0
for log in "${logs[@]}"; do
    host=$(basename "$log" .log)
    while read -r line; do
        case $line in
        ok\ * | "not ok "*)
            number=$((number + 1))
            echo "$line" | sed -E "s/^(not )?ok [0-9]+ - /\1ok $number - ${host#move-}: /"
            ;;
        \#* | LEVEL1* | *panic* | *Oops* | *BUG:*) echo "# ${host#move-}: $line" ;;
        esac
    done < "$log"
done
# Joined, the outputs of both hosts are one run: no tick twice, none missing, none different.
for part in 1 2 3; do
    sed -n "s/^LOG $part //p" "${logs[@]}" | base64 -d
done | tr -d '\r' | sed -n 's/^\(guest: tick .*\) | .*/\1/p' > "$work/lines"
"$build/linux/guest-probe" expect "$(wc -l < "$work/lines")" > "$work/expected"
verdict="not ok" what="over both hosts every tick was counted once, with the right sums"
if [ -s "$work/lines" ] && cmp -s "$work/lines" "$work/expected"; then verdict=ok; else status=1; fi
echo "$verdict $((number + 1)) - $what"
[ "$verdict" = ok ] || diff "$work/lines" "$work/expected" | sed 's/^/# /' | head -n 20
exit $status
