# shellcheck shell=bash
# pack_with_pixi COMMAND [ARGUMENT ...]: packs the project in "$parts/project.tar.gz" with the login node's own pixi and network,
# and unpacks that into `env`. Ends with 70 where COMMAND, or what unpacks, is not to be had: then it is packed elsewhere.
# shellcheck disable=SC2154 # parts is the installing script's
pack_with_pixi() {
    local said packed unpack=(pixi-unpack)
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
    said=$(cd .project && { "$@" 2>&1 || echo "$1 on the login node ended with $?"; })
    printf '%s\n' "$said" >&2
    case ${said##*$'\n'} in *" on the login node ended with "*) exit 1 ;; esac
    packed=$(packed_by "$said") || {
        echo "$1 on the login node has not made environment, environment.tar or environment.sh" >&2
        exit 1
    }
    # A file that unpacks itself brings its program along.
    if [ -f "$packed" ] && [ "$(head -c 2 -- "$packed")" = '#!' ]; then
        unpack=(bash)
        set -- "$packed"
    else
        command -v pixi-unpack >/dev/null || unpack=(pixi exec pixi-unpack)
        command -v "${unpack[0]}" >/dev/null || {
            echo 'pixi-unpack is not on the PATH of the login node' >&2
            exit 70
        }
        set -- -o "$PWD" -e env "$packed"
    fi
    "${unpack[@]}" "$@"
    rm -rf -- .project environment environment.tar environment.sh
}

# packed_by SAID: the path of what was packed.
packed_by() {
    local path
    path=$(printf '%s\n' "$1" | sed -n 's/^.*Created pack at \(.*\) with size .*$/\1/p; s/^.*Created pack directory at \(.*\)[.]$/\1/p' | tail -n 1)
    case $path in
    '') ;;
    /*) [ ! -e "$path" ] || { printf '%s' "$path" && return; } ;;
    *) [ ! -e ".project/$path" ] || { printf '%s' "$PWD/.project/$path" && return; } ;;
    esac
    for path in environment environment.tar environment.sh .project/environment.sh .project/environment.tar .project/environment; do
        [ ! -e "$path" ] || { printf '%s' "$PWD/$path" && return; }
    done
    return 1
}
