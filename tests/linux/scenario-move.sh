# scenario-move.sh: one of two hosts between which a Linux guest moves, there and back.  Its disk is
# on storage that both see.  Argument: a (where it starts) or b.
#
# The hosts agree by signals: over TCP between two level 1s, by files when both are this machine.
role=$1
if [ -n "${MEET:-}" ]; then
    address_a=127.0.0.1 address_b=127.0.0.1 port_a=${PORT_A} port_b=${PORT_B}
    signal() {
        touch "$MEET/$1"
    }
    await() {
        within 240 test -e "$MEET/$1"
    }
else
    address_a=10.0.0.1 address_b=10.0.0.2 port_a=4000 port_b=4000
    DISK=/dev/vdc
    ip addr add "$([ "$role" = a ] && echo $address_a || echo $address_b)/24" dev eth0
    ip link set eth0 mtu 60000 up
    peer=$([ "$role" = a ] && echo $address_b || echo $address_a)
    signal_port() {
        case $1 in b-receives) echo 5001 ;; a-receives) echo 5002 ;; all-done) echo 5003 ;; esac
    }
    signal() { # returns when the other side has heard it
        nc -l -p "$(signal_port "$1")" < /dev/null > /dev/null
    }
    await() {
        within 240 nc -w 3 "$peer" "$(signal_port "$1")" < /dev/null
    }
fi

listens() { # PORT
    grep -qi "$(printf ':%04X 00000000:0000 0A' "$1")" /proc/net/tcp
}
receive() { # ADDRESS PORT LOG
    ferry receive "tcp://$1:$2" --insecure --once --serial "file:$W/$3" --disk "vda=$DISK" > "$W/receive.out" 2>&1 &
    within 30 listens "$2" || give_up "ferry receive listens" "$W/receive.out"
}
move_to() { # ADDRESS PORT
    "$D/bin/ferry" migrate count "tcp://$1:$2" --insecure --json > "$W/move.json"
}
counts_on() { # LOG
    within 90 reached "$1" 1 || give_up "the guest runs on after the move" "$1"
    first=$(tick_lines "$1" | head -n 1 | cut -d' ' -f2)
    within 60 reached "$1" $((first + 10)) || true
    check "its memory, disk and open files are whole" lines_are_right "$1"
    check "its counter goes on" goes_on_from "$1" "$first"
}
# For the test outside, which joins the outputs of both hosts: a move may cut a line in two.
hand_out() { # LABEL LOG
    echo "LOG $1 $(base64 "$2" | tr -d '\n')"
}

role_a() {
    check "ferry run" ferry run --name count --kernel "$D/vmlinux" --initrd "$D/level2.cpio" \
        --append "$(append count)" --memory 256M --cpus 2 --disk "$DISK" --serial "file:$W/start.log" --detach
    within 120 reached "$W/start.log" 5 || give_up "the guest counts" "$W/start.log"
    check "b is ready" await b-receives
    check "ferry migrate" move_to $address_b "$port_b"
    sed 's/^/# /' "$W/move.json"
    check "the machine is gone here" within 20 gone count
    receive $address_a "$port_a" back.log
    signal a-receives
    counts_on "$W/back.log"
    check "ferry stop" ferry stop count
    check "the guest heard the button" said "$W/back.log" "button pressed"
    check "the machine is gone at the end" within 20 gone count
    hand_out 1 "$W/start.log"
    hand_out 3 "$W/back.log"
    signal all-done
}
role_b() {
    receive $address_b "$port_b" there.log
    signal b-receives
    counts_on "$W/there.log"
    check "a is ready" await a-receives
    check "ferry migrate, back" move_to $address_a "$port_a"
    sed 's/^/# /' "$W/move.json"
    check "the machine is gone here" within 20 gone count
    hand_out 2 "$W/there.log"
    await all-done
}
"role_$role"
exit $bad
