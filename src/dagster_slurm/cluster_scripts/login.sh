# shellcheck shell=sh
# Verbs: what a login node is, and what Slurm has for this user.

# judge_way PATH: looks at each directory and link that leads to PATH, and then at what it leads to. Who can write to a directory
# may have put there what lies in it, and can put something else there later; of a group the members are trusted, but where
# the directory is sticky: that is for those who do not trust each other.
judge_way() {
    path=$1 whole=$1 uid=$(id -u) above='' above_mode=''
    set --
    while [ -n "$path" ] && [ "$path" != / ]; do
        set -- "$path" "$@"
        path=${path%/*}
    done
    stat -c '%u %a %F/%n' -- / "$@" 2>/dev/null | while read -r owner mode kind; do
        name=${kind#*/} kind=${kind%%/*} is_own=''
        case $owner in "$uid" | 0) is_own=yes ;; esac
        if [ "$name" = "$whole" ] && [ "$kind" = directory ] && [ -d "$base" ]; then
            [ -n "$is_own" ] || echo "$name belongs to somebody else, the user with the number $owner"
            case $mode in [1357]???) ;; *[2367]) echo "everybody may write to $name (mode 0$mode)" ;; esac
        fi
        case $above_mode in *[2367] | [1357]?[2367]?)
            [ -n "$is_own" ] || [ "$owner" = "$above" ] ||
                echo "$name lies where others can write, and belongs to the user with the number $owner"
            ;;
        esac
        above=$owner above_mode=$mode
        # The mode of a link says nothing; where it leads to is looked at by its own way.
        [ "$kind" = directory ] || above_mode=''
    done
}

# facts BASE: what does not change while this process lives, one "name value" a line; `below` is of each directory of ours
# in BASE: owner, mode, kind and, behind a slash, name; `foreign` says why BASE, or what leads to it, is not this user's alone.
facts() {
    printf 'home %s\n' "$HOME"
    printf 'user %s\n' "$(id -un)"
    printf 'uid %s\n' "$(id -u)"
    # A site may have its say around it.
    printf 'version %s\n' "$(sbatch --version 2>/dev/null | grep -m 1 '^slurm')"
    for program in sbatch squeue scancel; do
        command -v "$program" >/dev/null 2>&1 || printf 'missing %s\n' "$program"
    done
    # The channel has unset it: several clusters of one login node are not supported.
    if [ -n "${login_clusters-}" ]; then
        printf 'clusters %s\n' "$login_clusters"
        printf 'cluster %s\n' "$(scontrol show config 2>/dev/null | sed -n 's/^ClusterName *= *//p')"
    fi
    base=$1
    case $base in [~] | [~]/*) base=$HOME${base#?} ;; esac

    real=$base
    while [ -n "$real" ] && [ ! -d "$real" ]; do real=${real%/*}; done
    real=$(cd -- "${real:-/}" 2>/dev/null && pwd -P)
    {
        judge_way "$base"
        [ "$real" = "$base" ] || judge_way "$real"
    } | sed -n '1s/^/foreign /p'
    cd -- "$base" 2>/dev/null && stat -c 'below %u %a %F/%n' -- runs assets data results env-cache 2>/dev/null
    exit 0
}

# variables NAME...: variables of the login, one "NAME value" a line; what is not set is left out. Many sites set theirs in the
# profile alone, which the shell of our commands has not read.
variables() {
    for name; do
        value=$(printenv "$name") || {
            # A profile may print something.
            value=$(bash -lc 'printf "\n=%s\n" "$(printenv "$1")"' bash "$name" 2>/dev/null </dev/null | tail -n 1)
            value=${value#=}
        }
        [ "$name" != USER ] || value=${value:-$(id -un)}
        [ -z "$value" ] || printf '%s %s\n' "$name" "$value"
    done
}

# environment PATH: which of the two layouts of an environment lies there.
environment() {
    if [ -f "$1/activate.sh" ] && [ -x "$1/env/bin/python" ]; then
        printf packed
    elif [ -x "$1/bin/python" ]; then
        printf prefix
    elif [ -e "$1" ]; then
        printf other
    else
        printf missing
    fi
}

# environment_target PYTHON SETUP PROGRAM: prints the login node's machine, `glibc VERSION` if it has that C library,
# `program PATH VERSION` if PROGRAM is not empty and on the PATH or where pixi installs such, and, if PYTHON is not empty, a line
# of JSON about that interpreter as bash finds it after the lines SETUP. Ends with 71 if those fail, with 72 if there is none of
# that name (and prints those there are), with 73 if it does not work.
environment_target() {
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
}

# partitions: what a partition is chosen by, one thing a line: `partition` and what scontrol says of it; `nodes` and
# "PARTITION|COUNT|CPUS|MIB|GRES|FEATURES|STATE" of those that are alike; `groups` of the user; `charge` and
# "DEFAULT_ACCOUNT|ACCOUNT|PARTITION|DEFAULT_QOS", where the accounting tells. With scontrol's status and stderr.
partitions() {
    listed=$(scontrol --oneliner show partition) || exit
    printf '%s\n' "$listed" | sed -n 's/^PartitionName=/partition &/p'
    sinfo --exact --noheader --format='%R|%D|%c|%m|%G|%f|%T' 2>/dev/null | sed 's/^/nodes /'
    printf 'groups %s\n' "$(id -Gn)"
    sacctmgr --noheader --parsable2 show user "$(id -un)" withassoc format=defaultaccount,account,partition,defaultqos 2>/dev/null |
        sed -n 's/^[^|]*|[^|]*|[^|]*|[^|]*$/charge &/p'
    exit 0
}

# known_names partition|account|qos: what this user may name there, one a line. Names hold no white space, as a site's notices do.
known_names() {
    case $1 in
    partition) sinfo --noheader --format=%R ;;
    account) sacctmgr --noheader --parsable2 show associations user="$(id -un)" format=account ;;
    qos) sacctmgr --noheader --parsable2 show associations user="$(id -un)" format=qos | tr , '\n' ;;
    esac 2>/dev/null | grep -v '[[:space:]]' | sort -u
}

# nodes_away [PARTITIONS]: the states of nodes that take no jobs now, such as drained or maint, one a line.
# Also `starting` where the controller was started just now: until the nodes have registered with it, they are
# shown as they were before.
# "~" and such after a state tell of power (sinfo(1), NODE STATE CODES): Slurm starts those nodes for a job.
nodes_away() {
    sinfo --noheader --format=%T ${1:+--partition="$1"} 2>/dev/null |
        grep -xE '[a-z_]+[^a-z_[:space:]]*' |
        grep -vxE '(idle|mixed|allocated|completing|planned)[~#%!^@+-]*' | sort -u
    # By the controller's clock both.
    config=$(scontrol show config 2>/dev/null)
    now=$(printf '%s\n' "$config" | sed -n 's/^Configuration data as of *//p')
    booted=$(printf '%s\n' "$config" | sed -n 's/^BOOT_TIME *= *//p')
    if [ -n "$now" ] && [ -n "$booted" ] && [ $(($(date -d "$now" +%s) - $(date -d "$booted" +%s))) -lt 30 ]; then echo starting; fi
}
