# shellcheck shell=bash
# pack_with_pixi COMMAND [ARGUMENT ...]: makes `environment.sh` from the project in "$parts/project.tar.gz", with the login
# node's own pixi and network. Ends with 70 where COMMAND is not to be had: then it has to be packed elsewhere.
# shellcheck disable=SC2154 # parts is the installing script's
pack_with_pixi() {
    # Where pixi installs itself and its tools; a shell that is not interactive does not have it on the PATH.
    PATH=$PATH:${PIXI_HOME:-$HOME/.pixi}/bin
    if [ "$1" = pixi-pack ] && ! command -v pixi-pack >/dev/null && command -v pixi >/dev/null; then
        set -- pixi exec "$@"
    fi
    mkdir .project
    tar -xzf "$parts/project.tar.gz" -C .project
    (cd .project && command -v "$1" >/dev/null) || {
        echo "$1 is not on the PATH of the login node" >&2
        exit 70
    }
    (cd .project && "$@") || {
        echo "$1 on the login node ended with $?" >&2
        exit 1
    }
    [ -s environment.sh ] || mv .project/environment.sh environment.sh
    rm -rf .project
}
