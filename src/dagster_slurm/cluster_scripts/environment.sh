# shellcheck shell=sh
# environment.sh PATH: which of the two layouts of an environment lies there.
if [ -f "$1/activate.sh" ] && [ -x "$1/env/bin/python" ]; then
    printf packed
elif [ -x "$1/bin/python" ]; then
    printf prefix
elif [ -e "$1" ]; then
    printf other
else
    printf missing
fi
