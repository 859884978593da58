#!/bin/bash
# run.sh BUILD_DIR[:KIND,KIND...]...: run the tests of one or several builds, one after the other.
#
# Kinds: unit model machine cli guest fuzz linux; none named: all.  A test is a cmocka program
# BUILD_DIR/tests/KIND/test_*, or an executable script tests/KIND/NAME.sh, called with BUILD_DIR:
# exit 0 passed, 77 skipped (why: last line of its output), else failed.  A script that prints TAP
# ("ok 1 - what", "not ok 2 - what", "not ok 3 # SKIP why") has each of its lines counted.
# The last line is `N passed, N failed, N skipped`; the status is 0 if none failed.
#
# Tests of the kinds that leave the machine to others run side by side, one a CPU and at most four
# (JOBS=N: so many); what each prints stays together.
set -u
cd "$(dirname "$0")/.."
all_kinds=unit,model,machine,cli,guest,fuzz,linux
passed=0 failed=0 skipped=0
failures=()
work=$(mktemp -d)
jobs=${JOBS:-$(nproc)}
[ "$jobs" -le 4 ] || jobs=4
declare -A running=() # pids of jobs, and where what they say is
current=
trap 'rm -rf "$work"' EXIT
trap '[ ${#running[@]} = 0 ] || kill "${!running[@]}" 2> /dev/null; exit 130' INT TERM

# Longest time a test may take, by its kind; sanitizers and slow machines are in it.
limit_seconds() {
    case $1 in
    unit | fuzz) echo 180 ;;
    linux) echo 600 ;;
    *) echo 300 ;;
    esac
}

# Count what is in $log for the test that ended with status $1: sets p f s and why.
count_results() {
    local status=$1
    s=$(grep -cE '^(not )?ok [0-9]+.*# SKIP' "$log")
    p=$(grep -cE '^ok [0-9]+' "$log")
    f=$(grep -E '^not ok [0-9]+' "$log" | grep -cv '# SKIP')
    p=$((p - $(grep -cE '^ok [0-9]+.*# SKIP' "$log")))
    why=
    if [ $((p + f + s)) = 0 ]; then
        case $status in
        0) p=1 ;;
        77) s=1 why=$(tail -n 1 "$log") ;;
        *) f=1 ;;
        esac
    elif [ "$status" != 0 ] && [ "$status" != 77 ] && [ "$f" = 0 ]; then
        f=1 # all its cases were fine, but the program did not end well
    fi
    case $status in
    124 | 137) why="took more than its time" ;;
    esac
}

# The emulator that Linux guests need where the host's KVM cannot run them (QEMU's, of SVM, with
# threads) now and then breaks the machine that it emulates: its init dies of a stray fault, or a
# processor hangs.  So such a test has a second try, and the first is shown: what ferry does wrong
# fails twice.
tries_of() { # KIND
    if [ "$1" = linux ] && ! grep -qE '^flags.*\b(svm|vmx)\b' /proc/cpuinfo; then
        echo 2
    else
        echo 1
    fi
}

try_one() { # KIND COMMAND...
    local status
    CMOCKA_MESSAGE_OUTPUT=TAP timeout -k 20 "$(limit_seconds "$1")" "${@:2}" \
        > "$log" 2>&1 < /dev/null &
    current=$!
    wait "$current"
    status=$?
    current=
    count_results "$status"
    return "$status"
}

show_log() { # STATUS
    sed 's/^/     | /' "$log" | tail -n 200
    echo "     | status $1"
}

# In a process of its own: what it says goes to $out.text, and its numbers to $out.counts.
job() { # OUT KIND LABEL COMMAND...
    local out=$1 kind=$2 label=$3 start=$EPOCHREALTIME status mark tries
    shift 3
    log=$out.log
    trap - EXIT
    trap '[ -z "$current" ] || kill "$current" 2> /dev/null; exit 130' INT TERM
    for ((tries = $(tries_of "$kind"); tries > 0; tries--)); do
        try_one "$kind" "$@"
        status=$?
        [ "$f" != 0 ] && [ "$tries" -gt 1 ] || break
        echo "again: $label failed under emulation, it gets a second try; the first:"
        show_log "$status"
    done
    mark=ok
    [ "$s" = 0 ] || mark=skip
    [ "$f" = 0 ] || mark=FAIL
    printf '%-4s %6.1f s  %-44s %3d passed' "$mark" \
        "$(awk "BEGIN{print $EPOCHREALTIME - $start}")" "$label" "$p"
    [ "$f" = 0 ] || printf ', %d failed' "$f"
    [ "$s" = 0 ] || printf ', %d skipped' "$s"
    printf '%s\n' "${why:+ ($why)}"
    if [ "$f" != 0 ]; then
        show_log "$status"
    elif [ "$s" != 0 ] && [ -z "$why" ]; then
        grep -E '# SKIP' "$log" | sed 's/^/     | /'
    fi
    echo "$p $f $s $label" > "$out.counts"
}

# Wait for a job to end, show what it said, and count.
collect() {
    local pid out p=0 f=1 s=0 label='a job that died'
    wait -n -p pid "${!running[@]}"
    out=${running[$pid]}
    unset "running[$pid]"
    cat "$out.text"
    [ ! -e "$out.counts" ] || read -r p f s label < "$out.counts"
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    [ "$f" = 0 ] || failures+=("$label")
    rm -f "$out".*
}

run_one() { # KIND LABEL COMMAND...
    local most out
    case $1 in
    unit | model | cli | fuzz) most=$jobs ;;
    *) most=1 ;; # they have threads of their own, and look at the time
    esac
    while [ ${#running[@]} -ge "$most" ]; do
        collect
    done
    out=$(mktemp "$work/XXXXXX")
    job "$out" "$@" > "$out.text" 2>&1 &
    running[$!]=$out
}

run_build() { # BUILD_DIR KINDS
    local build=$1 kinds=$2 kind test
    for kind in ${kinds//,/ }; do
        while [ ${#running[@]} -gt 0 ]; do
            collect
        done
        for test in "$build/tests/$kind"/test_*; do
            [ -f "$test" ] && [ -x "$test" ] && run_one "$kind" "$test" "$test"
        done
        for test in tests/"$kind"/*.sh; do
            [ -f "$test" ] && [ -x "$test" ] && run_one "$kind" "$test $build" "$test" "$build"
        done
    done
}

[ $# -gt 0 ] || { echo "usage: tests/run.sh BUILD_DIR[:KIND,...]..." >&2; exit 2; }
for spec in "$@"; do
    case $spec in
    *:*) run_build "${spec%%:*}" "${spec#*:}" ;;
    *) run_build "$spec" "$all_kinds" ;;
    esac
done
while [ ${#running[@]} -gt 0 ]; do
    collect
done
[ ${#failures[@]} = 0 ] || printf 'failed: %s\n' "${failures[@]}"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] && [ $((passed + skipped)) -gt 0 ]
