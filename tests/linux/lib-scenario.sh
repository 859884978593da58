# lib-scenario.sh: put before a scenario, which runs where ferry can run Linux: in level 1 (busybox
# sh, tools in /d) or, on a machine whose own KVM can, directly.  POSIX sh.  What it finds it prints
# as TAP; the status at its end is that of the whole.
D=${D:-/d}           # vmlinux, vmlinuz, level2.cpio, disk.raw, bin/
W=${W:-/run/w}       # scratch
number=0
bad=0
mkdir -p "$W"
export FERRY_RUNTIME_DIR="${FERRY_RUNTIME_DIR:-$W/ferry}"
mkdir -p -m 700 "$FERRY_RUNTIME_DIR"
ferry() {
    "$D/bin/ferry" "$@"
}
pass() {
    number=$((number + 1))
    echo "ok $number - $*"
}
not_ok() {
    number=$((number + 1))
    bad=1
    echo "not ok $number - $*"
}
# check NAME COMMAND...: one test case; what a failing command said follows it.
check() {
    check_name=$1
    shift
    if "$@" > "$W/check.log" 2>&1; then
        pass "$check_name"
    else
        not_ok "$check_name"
        sed 's/^/# /' "$W/check.log" | tail -n 20
    fi
}
# within SECONDS COMMAND...: until COMMAND succeeds.
within() {
    within_end=$(($(cut -d. -f1 /proc/uptime) + $1))
    shift
    until "$@" 2> /dev/null; do
        [ "$(cut -d. -f1 /proc/uptime)" -lt "$within_end" ] || { echo "not in time: $*"; return 1; }
        sleep 0.1
    done
}
# Give up on the rest, with the guest's last words.
give_up() { # NAME LOG
    not_ok "$1"
    tail -n 15 "$2" 2> /dev/null | sed 's/^/# /'
    exit 1
}
said() { # LOG TEXT
    grep -q "$2" "$1"
}
gone() { # NAME
    ! ferry status "$1" > /dev/null 2>&1
}
append() {
    echo "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check job=$*"
}
# The tick lines of logs, without what depends on time.
tick_lines() {
    cat "$@" | tr -d '\r' | sed -n 's/^guest: \(tick [0-9]* mem=[0-9a-f]* disk=[0-9a-f]*\) | .* back=0$/\1/p'
}
last_tick() { # LOG
    tick_lines "$1" | tail -n 1 | cut -d' ' -f2 | grep . || echo 0
}
reached() { # LOG TICK
    [ "$(last_tick "$1")" -ge "$2" ]
}
# Every line of LOG is what the guest has to say at that tick, and says nothing of damage.
lines_are_right() { # LOG
    tick_lines "$1" > "$W/seen"
    [ -s "$W/seen" ] || { echo "no tick"; return 1; }
    "$D/bin/guest-probe" expect "$(last_tick "$1")" | sed 's/^guest: //' > "$W/expected"
    grep -E 'DAMAGED|back=[1-9]|journal' "$1" && return 1
    # every line that was seen is among the expected ones, of which there may be more by now
    grep -vxFf "$W/expected" "$W/seen" && return 1
    return 0
}
# Lines FROM.. of LOG are consecutive: the guest went on where it was.
goes_on_from() { # LOG FIRST
    tick_lines "$1" | cut -d' ' -f2 | awk -v next_tick="$2" '$1 != next_tick {print "tick " $1 " instead of " next_tick; exit 1} {next_tick++}'
}
# A number out of a JSON object on one line or several: json_number FILE KEY
json_number() {
    sed -n "s/.*\"$2\": *\([0-9.]*\).*/\1/p" "$1" | head -n 1
}
trap 'for name in $(ls "$FERRY_RUNTIME_DIR" 2> /dev/null); do ferry kill "$name" > /dev/null 2>&1; done' EXIT
