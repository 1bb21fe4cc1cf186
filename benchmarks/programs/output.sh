#!/bin/bash
# Prints a million lines of 500 bytes.
line=$(printf '%0499d' 0)
yes "$line" | head -n 1000000
