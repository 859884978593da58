#!/bin/bash
# Wrong usage: exit status 2, one clear message, nothing left behind.
. "$(dirname "$0")/../lib.sh"

expect 2 "a command is missing" ferry
expect 2 "unknown command 'snapshoot'; did you mean 'snapshot'" ferry snapshoot
expect 2 "unknown command 'frobnicate'; see 'ferry help'" ferry frobnicate
expect 2 "unknown option '--memry'; did you mean --memory" ferry run --memry 1G
expect 2 "unknown option '-x'" ferry ps -x
expect 2 "--kernel is missing" ferry run
expect 2 "--memory needs a value" ferry run --memory
expect 2 "'1X' is not a size" ferry run --kernel /dev/null --memory 1X
expect 2 "must be from 8M" ferry run --kernel /dev/null --memory 4K
expect 2 "must be from 8M" ferry run --kernel /dev/null --memory 2T
expect 2 "not a number from 1 to 64" ferry run --kernel /dev/null --cpus 65
expect 2 "not a number from 1 to 64" ferry run --kernel /dev/null --cpus 0
expect 2 "'a/b' is not a name" ferry run --kernel /dev/null --name a/b
expect 2 "'.x' is not a name" ferry run --kernel /dev/null --name .x
expect 2 "not stdio, none or file:PATH" ferry run --kernel /dev/null --serial tcp
expect 2 "NAME is missing" ferry status
expect 2 "one argument too many" ferry status a b
expect 2 "'../x' is not the name of a machine" ferry status ../x
expect 2 "FILE is missing" ferry snapshot a
expect 2 "not a number from 1 to 19" ferry snapshot a b --level 20
expect 2 "--json and an image cannot both go to stdout" ferry snapshot a - --json
expect 2 "not auto, bar, json or none" ferry snapshot a b --progress loud
expect 2 "descriptor 77 is not open" ferry snapshot a b --progress-fd 77
expect 2 "'vda' is not DEV=FILE" ferry restore x --disk vda
expect 2 "vda is given twice" ferry restore x --disk vda=a --disk vda=b
expect 2 "is not a time" ferry migrate a tcp://127.0.0.1:1 --downtime 5
expect 2 "http://x" ferry migrate a http://x
expect 2 "needs --once" ferry receive --name x
expect 2 "needs --once" ferry receive --serial stdio
expect 2 "one of --retry, --run-here and --gone" ferry resolve a --run-here --gone
expect 2 "say --i-fenced-the-other-side" ferry resolve a --run-here
expect 2 "say --i-fenced-the-other-side" ferry resolve a --gone

expect 0 "Usage: ferry COMMAND" ferry help
expect 0 "Usage: ferry COMMAND" ferry --help
expect 0 "Usage: ferry run" ferry help run
expect 0 "Usage: ferry run" ferry run --help
expect 0 "^ferry [0-9]" ferry --version
expect 0 '"version":"' ferry version --json

# Whatever --help shows is in the manual page and in the completion.
root=$(dirname "$0")/../..
ferry help | sed -n 's/^  \([a-z]*\) .*/\1/p' > "$T/commands"
[ "$(wc -l < "$T/commands")" -ge 17 ] || fail "help lists too few commands"
while read -r command; do
    grep -q "\b$command\b" "$root/cli/ferry.bash-completion" || fail "$command is not completed"
    grep -q "^\.BR ferry-$command \|^\.B ferry-$command\|^\.SS $command\|$command" "$root/doc/ferry.1" ||
        fail "ferry.1 does not tell of $command"
    page=$root/doc/ferry-$command.1
    [ -f "$page" ] || fail "$command has no manual page"
    for option in $(ferry help "$command" | sed -n 's/^  \(--[a-z-]*\).*/\1/p'); do
        [ "$option" = --help ] && continue
        grep -q -- "$option\b" "$root/cli/ferry.bash-completion" || fail "$command $option is not completed"
        grep -q -- "$(echo "$option" | sed 's/-/\\\\-/g')" "$page" || fail "$page does not tell of $option"
    done
done < "$T/commands"
for page in "$root"/doc/*.1; do
    if command -v mandoc > /dev/null; then
        mandoc -Tlint -W warning "$page" | grep -v 'missing date' > "$T/lint"
    elif command -v man > /dev/null; then
        LC_ALL=C.UTF-8 man --warnings -E UTF-8 -l -Tutf8 -Z "$page" 2> "$T/lint" > /dev/null
    else
        : > "$T/lint"
    fi
    [ ! -s "$T/lint" ] || fail "$page: $(cat "$T/lint")"
done
# Libraries of few commands are not loaded by all of them: a machine starts sooner than they load.
if readelf -d "$FERRY" | grep -qE 'NEEDED.*(libcurl|libxml2|libarchive)'; then
    fail "the program is linked with what it is to load when it needs it"
fi
exit 0
