#!/bin/bash
# Prints a line a second. `read` from a pipe that nobody writes to is a pause without a process.
exec 9<> <(:)
for _ in $(seq "${PAYLOAD_SECONDS:-10}"); do
    echo "sent $EPOCHREALTIME"
    read -rt 1 -u 9
done
echo "done"
