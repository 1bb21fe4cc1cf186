# shellcheck shell=sh
# facts.sh BASE: what does not change while this process lives, one "name value" a line; `below` is of each directory of ours
# in BASE: owner, mode, kind and, behind a slash, name; `foreign` says why BASE, or what leads to it, is not this user's alone.
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
real=$base
while [ -n "$real" ] && [ ! -d "$real" ]; do real=${real%/*}; done
real=$(cd -- "${real:-/}" 2>/dev/null && pwd -P)
{
    judge_way "$base"
    [ "$real" = "$base" ] || judge_way "$real"
} | sed -n '1s/^/foreign /p'
cd -- "$base" 2>/dev/null && stat -c 'below %u %a %F/%n' -- runs assets data results env-cache 2>/dev/null
exit 0
