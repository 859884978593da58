#!/bin/bash
# ferry console: what was printed before, what comes, what is typed; detaching; the log.
. "$(dirname "$0")/../lib.sh"
need_kvm
ferry run --name one --kernel "$PAYLOAD" --memory 32M --append "fill=1 ws=1 period=20" --no-reboot --detach > /dev/null
log() {
    ferry console one --log > "$T/log" && [ "$(tick_of "$T/log")" -ge "$1" ]
}
wait_for 10 log 3
grep -aq "^payload: " "$T/log" || fail "the log does not begin at the start"

# Ctrl-] detaches, the machine goes on
(sleep 0.3; printf '\035') | timeout 20 "$FERRY" version > /dev/null
(sleep 0.5; printf '\035'; sleep 20) | FERRY_RUNTIME_DIR=$T/a timeout 10 "$FERRY" console one > "$T/seen" || fail "detach: $?"
[ "$(tick_of "$T/seen")" -ge 5 ] || fail "the console shows too little"
expect 0 "one: running" ferry status one

# Several at once, each with everything; at the machine's end they end
background ferry console one < /dev/null > "$T/first"
first=$background_pid
background ferry console one < /dev/null > "$T/second"
second=$background_pid
wait_for 10 at_tick "$T/first" 10
wait_for 10 at_tick "$T/second" 10
(printf q; sleep 5) | FERRY_RUNTIME_DIR=$T/a timeout 10 "$FERRY" console one > "$T/third" || fail "typing: $?"
wait "$first" || fail "the first console: $?"
wait "$second" || fail "the second console: $?"
grep -aq "payload: done" "$T/first" || fail "the first console lacks the end"
grep -aq "payload: done" "$T/second" || fail "the second console lacks the end"
expect 1 "no machine 'one'" ferry console one
exit 0
