# lib.sh: sourced by the shell tests (`. tests/lib.sh`), which run in the root of the repository
# with the build folder as their first argument.
#
# Each test gets a scratch folder $T, removed at its end, with two hosts in it: $T/a and $T/b are
# FERRY_RUNTIME_DIRs, `ferry` speaks to the first and `ferry_at b ...` to the second.  Whatever
# machines are left there, and whatever was started by `background`, is ended at the end.
set -u
BUILD=${1:?build folder}
FERRY=$(realpath -m "$BUILD/ferry")
PAYLOAD=$(realpath -m "$BUILD/guest/payload.elf")
T=$(mktemp -d "${TMPDIR:-/tmp}/ferry-test.XXXXXX")
mkdir -m 700 "$T/a" "$T/b"
own_pids=()

ferry_at() { # HOST ARGUMENT...
    local host=$1
    shift
    FERRY_RUNTIME_DIR=$T/$host "$FERRY" "$@"
}
ferry() {
    ferry_at a "$@"
}

fail() {
    echo "FAILED: $*" >&2
    exit 1
}
skip() {
    echo "$*"
    exit 77
}
need_kvm() {
    [ -r /dev/kvm ] && [ -w /dev/kvm ] || skip "no access to /dev/kvm"
}

# Start COMMAND in the background; its pid is in $background_pid (of ferry itself, not of a shell).
background() {
    case $1 in
    ferry) FERRY_RUNTIME_DIR=$T/a "$FERRY" "${@:2}" & ;;
    ferry_at) FERRY_RUNTIME_DIR=$T/$2 "$FERRY" "${@:3}" & ;;
    *) "$@" & ;;
    esac
    background_pid=$!
    own_pids+=("$background_pid")
}

# wait_for SECONDS COMMAND...: until COMMAND succeeds; fails the test when it does not.
wait_for() {
    local seconds=$1 end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $end ] || fail "not within $seconds s: $*"
        sleep 0.05
    done
}

# expect STATUS TEXT COMMAND...: it ends with that status and says TEXT (a regular expression).
expect() {
    local status=$1 text=$2 got
    shift 2
    "$@" > "$T/out" 2> "$T/err" < /dev/null
    got=$?
    [ "$got" = "$status" ] || fail "status $got, not $status: $* ($(cat "$T/out" "$T/err"))"
    grep -qE -- "$text" "$T/out" "$T/err" || fail "does not say '$text': $* ($(cat "$T/out" "$T/err"))"
}

# json FILE KEY: one value of a JSON object; a dotted key goes deeper.
json() {
    python3 -c '
import json, sys
value = json.load(open(sys.argv[1]))
for key in sys.argv[2].split("."):
    value = value[key]
print(value)' "$1" "$2"
}

# state_lines FILE...: what the payload printed, less what depends on time; each tick once.
state_lines() {
    cat "$@" | grep -aE '^tick ' | sed 's/ *|.*//'
}
# tick_of FILE: number of the last complete tick line, 0 if there is none.
tick_of() {
    grep -aE '^tick [0-9]+ .* jiffies=[0-9,]+$' "$1" 2> /dev/null | tail -n 1 | awk '{n = $2} END {print n + 0}'
}
at_tick() { # FILE N: has it reached tick N?
    [ "$(tick_of "$1")" -ge "$2" ]
}
payload_is_well() { # FILE...: nothing that the payload complains about
    ! grep -aE 'DAMAGED|BACKWARDS|LOST|FAULT|missing' "$@"
}

cleanup() {
    local host entry pid
    for host in a b; do
        for entry in "$T/$host"/*/; do
            [ -d "$entry" ] && ferry_at "$host" kill "$(basename "$entry")" > /dev/null 2>&1
        done
    done
    for pid in "${own_pids[@]:-}"; do
        [ -n "$pid" ] && kill "$pid" 2> /dev/null
    done
    for pid in "${own_pids[@]:-}"; do
        [ -n "$pid" ] && wait "$pid" 2> /dev/null
    done
    rm -rf "$T"
}
trap cleanup EXIT
trap 'exit 143' INT TERM
