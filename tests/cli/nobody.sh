#!/bin/bash
# Machines, images and receivers that are not there, and stale folders: said plainly, status 1.
. "$(dirname "$0")/../lib.sh"

for command in status pause resume stop kill console; do
    expect 1 "no machine 'x' is running" ferry $command x
done
expect 1 "no machine 'x' is running" ferry snapshot x "$T/x.ferry"
expect 1 "no machine 'x' is running" ferry migrate x tcp://127.0.0.1:1
expect 1 "no machine 'x' is running" ferry resolve x
[ ! -e "$T/x.ferry" ] || fail "a snapshot of nothing left a file"
expect 1 "cannot open the image.*No such file" ferry restore "$T/none.ferry"
expect 1 "cannot open the image.*No such file" ferry verify "$T/none.ferry"
expect 1 "is a folder" ferry inspect "$T"
echo "this is not an image, but it is long enough to be read as one" > "$T/text"
expect 3 "$T/text" ferry restore "$T/text" --detach
expect 3 "$T/text" ferry verify "$T/text"
expect 3 "standard input" sh -c "'$FERRY' inspect - < '$T/text'"
expect 1 "/nowhere" ferry receive unix:/nowhere/at/all
expect 1 "cannot use the folder of disks" ferry receive --disk-dir "$T/none"

# A folder that a killed machine left, with a socket nobody serves.
mkdir -m 700 "$T/a/stale"
python3 -c "import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])" "$T/a/stale/control.sock"
touch "$T/a/stale/lock"
echo $$ > "$T/a/stale/pid"
expect 1 "no machine 'stale' is running" ferry status stale
expect 1 "no machine 'stale' is running" ferry kill stale
expect 0 "NAME" ferry ps
! grep -q stale "$T/out" || fail "ps lists a machine that is dead"
expect 0 '^\[\]$' ferry ps --json
exit 0
