# shellcheck shell=sh
# python.sh SETUP PYTHON PROGRAM: run a Python program in an environment, entered with lines of bash.
# shellcheck disable=SC2016
exec bash -c 'eval "$1"; exec "$2" -c "$3"' bash "$1" "$2" "$3" </dev/null
