#!/bin/bash
# A Linux guest on one host: boot, devices, reset, power off, snapshot, restore.
exec "$(dirname "$0")/run-scenario" "$1" scenario-machine
