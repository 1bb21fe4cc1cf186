# shellcheck shell=sh
# environment_target.sh PYTHON SETUP PROGRAM: prints the login node's machine, `glibc VERSION` if it has that C library,
# `program PATH VERSION` if PROGRAM is not empty and on the PATH or where pixi installs such, and, if PYTHON is not empty, a line
# of JSON about that interpreter as bash finds it after the lines SETUP. Ends with 71 if those fail, with 72 if there is none of
# that name (and prints those there are), with 73 if it does not work.
uname -m
getconf GNU_LIBC_VERSION 2>/dev/null
[ -z "$3" ] || (
    PATH=$PATH:${PIXI_HOME:-$HOME/.pixi}/bin
    found=$(command -v -- "$3") && echo "program $found $("$found" --version 2>/dev/null </dev/null | tr -cd '0-9.\n' | head -n 1)"
)
[ -n "$1" ] || exit 0
# shellcheck disable=SC2016 # bash expands them
exec bash -c '
eval "$2" >&2 || exit 71
if ! command -v -- "$1" >/dev/null; then
    IFS=:
    for directory in $PATH; do
        for found in "$directory"/python3.[0-9]*; do
            case ${found##*/python3.} in *[!0-9]*) ;; *) [ -x "$found" ] && echo "$found" ;; esac
        done
    done
    exit 72
fi
"$1" -I -c "
import json, os, sys, venv, zipfile
try:
    glibc = [int(part) for part in os.confstr(\"CS_GNU_LIBC_VERSION\").split()[1].split(\".\")[:2]]
except (AttributeError, ValueError, IndexError, OSError):
    glibc = None
print(json.dumps({\"path\": sys.executable, \"version\": list(sys.version_info[:3]), \"glibc\": glibc}))
" || exit 73' bash "$1" "$2"
