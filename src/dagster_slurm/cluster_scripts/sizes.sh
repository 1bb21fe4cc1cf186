# shellcheck shell=sh
# sizes.sh BASE: stdin names directories within it, one a line. Output: "KIB TAB DIRECTORY" for each that is there.
cd -- "$1" || exit 74
tr '\n' '\0' | xargs -0 du -sk -- 2>/dev/null
exit 0
