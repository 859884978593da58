#!/bin/bash
# A move is broken at each of its steps: source or destination killed, connection cut, silence.
# kill_matrix.py does it; this is its place among the tests.
. "$(dirname "$0")/../lib.sh"
need_kvm
python3 "$(dirname "$0")/kill_matrix.py" "$BUILD"
