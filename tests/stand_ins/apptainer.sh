#!/bin/sh
# A STAND-IN for Apptainer, for tests: there are no containers where they run, and no code of it is here.
# What is real: `exec`, `--bind`, the command in the place of this process, variables handed on, the image's own PATH, and
# APPTAINER_CONTAINER, by which a process knows that it is inside. What is not: an "image" is a directory with bin/, and the
# files outside are seen as ever.
[ "$1" = exec ] || { echo "apptainer (stand-in): $1: only exec" >&2 && exit 2; }
shift
while [ "${1#--}" != "$1" ]; do
    case $1 in
    --bind) shift 2 ;;
    *) echo "apptainer (stand-in): $1: not an option of the stand-in" >&2 && exit 2 ;;
    esac
done
image=$1
shift
[ -d "$image/bin" ] || { echo "FATAL: could not open image $image" >&2 && exit 255; }
PATH=$image/bin:/usr/local/bin:/usr/bin:/bin APPTAINER_CONTAINER=$image exec "$@"
