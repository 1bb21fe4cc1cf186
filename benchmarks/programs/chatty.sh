#!/bin/bash
# Prints a hundred lines a second.
exec 9<> <(:)
end=$((SECONDS + ${PAYLOAD_SECONDS:-90}))
while [ "$SECONDS" -lt "$end" ]; do
    echo "sent $EPOCHREALTIME"
    read -rt 0.01 -u 9
done
echo "done"
