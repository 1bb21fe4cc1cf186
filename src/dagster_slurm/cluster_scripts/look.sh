# shellcheck shell=sh
# look.sh BASE SQUEUE SACCT ROOT...: how launches lie below BASE and, if asked for, what Slurm knows of the jobs of
# their attempts that are not closed. ROOT is `runs` and `assets` for everything; or `runs/RUN/KEY` for a launch, and `assets/DIGEST`
# for the newest attempt for an asset, each with the launches to which its links lead. SQUEUE and SACCT are those commands
# with their options; `lost/KEY`, which is last, has squeue asked for all own jobs if no launch of that key is there. Without
# SACCT Slurm is asked only about submissions that have no answer, without SQUEUE not at all.
# Output: the clock of the files in seconds, NUL; of each entry "TYPE TAB TYPE_BEHIND_LINKS TAB MODIFIED TAB PATH TAB TARGET NUL";
# NUL; each line of the small files as "PATH NUL LINE NEWLINE", and of Slurm's answers in the same way with `squeue IDS`,
# `names NAMES`, `lost KEY` or `sacct IDS` for the path: the first line is the exit status. On stderr, a NUL behind what each says.
# Nothing where there is nothing. Status 74: it could not be read.
cd -- "$1" 2>/dev/null || case " $* " in *" lost/"*) cd /dev || exit 0 ;; *) exit 0 ;; esac
squeue=$2 sacct=$3 roots='' attempts='' lost=''
shift 3

add() {
    case " $roots " in *" $1 "*) ;; *) roots="$roots $1" ;; esac
}

# behind LINK PREFIX: sets `target` to the RUN/KEY/ATTEMPT to which it leads; empty if it leads elsewhere.
behind() {
    target=$(readlink -- "$1")
    case $target in "$2"?*/?*/?*) target=${target#"$2"} ;; *) target='' ;; esac
    case $target in *[!A-Za-z0-9_./-]* | *..* | */*/*/*) target='' ;; esac
}

for root; do
    case $root in
    lost/*)
        case "$roots " in *"/${root#lost/} "*) ;; *) lost=${root#lost/} ;; esac
        continue
        ;;
    assets/*)
        behind "$root" ../runs/
        [ -z "$target" ] || add "$root"
        root=runs/${target%/*}
        ;;
    esac
    [ -d "$root" ] || continue
    add "$root"
    case $root in runs/?*/?*) ;; *) continue ;; esac
    for path in "$root"/*; do
        case ${path##*/} in *[!0-9]*) continue ;; esac
        if [ -L "$path" ]; then
            behind "$path" ../../
            path=runs/$target
            if [ -z "$target" ] || [ ! -d "$path" ]; then continue; fi
            add "${path%/*}"
        fi
        case " $attempts " in *" $path "*) ;; *) attempts="$attempts $path" ;; esac
    done
done

# ask NAME COMMAND...: prints its answer; sets `said` to it.
ask() {
    name=$1
    shift
    said=$("$@")
    printf '%s\n%s\n' "$?" "$said" | grep -aHZ --label="$name" ''
    printf '\0' >&2
}

case $roots in
'')
    [ -n "$lost" ] || exit 0
    printf '0\0\0'
    # shellcheck disable=SC2086
    ask "lost $lost" $squeue
    exit 0
    ;;
' runs '* | ' runs') depth=6 hidden=work ;;
# The tasks of an array may be thousands.
*) depth=4 hidden=elements ;;
esac

# By the clock of the files, which is not this machine's; where nothing can be written, as with a full quota, by that.
mark=$(mktemp .now.XXXXXX 2>/dev/null) && now=$(stat -c %Y -- "$mark") && rm -f -- "$mark" || now=$(date +%s) || exit 74
printf '%s\0' "$now"
# A status of 1 is of what was removed meanwhile; any other one is of a look that was cut off.
looked() {
    [ "$?" -le 1 ] || exit 74
}
# Two processes, however many launches there are. Names of ours hold no white space.
# shellcheck disable=SC2086
find $roots -maxdepth "$depth" \( -path 'runs/*/*/checkpoint/*' -prune -o -path 'runs/*/*/*/*' \
    \( -name work -o -name pipes -o -name "$hidden" \) -prune -false -o -true \) \
    -printf '%y\t%Y\t%T@\t%p\t%l\0' 2>/dev/null
looked
printf '\0'
# shellcheck disable=SC2086
find $roots -maxdepth "$depth" -path 'runs/*/*/*/*' \( \
    \( -name work -o -name pipes -o -name elements -o -path 'runs/*/*/checkpoint/*' \) -prune -o \
    -type f -size +0 -size -32768 \
    \( -name protocol -o -name session -o -name launch.json -o -name outcome.json -o -path '*/log/status' -o -path '*/claim/*/std*' \
    -o -path '*/claim/*/status' \) -exec grep -aHZ '' -- {} + \) 2>/dev/null
looked
[ -n "$squeue" ] || exit 0

# Sets `id` to the job that sbatch has named; empty without such an answer. As `output.parse_job_id`: a site may print more.
read_answer() {
    id=''
    read -r status <"$1/status" && [ "$status" = 0 ] || return
    while read -r line || [ -n "$line" ]; do
        case $line in 'Submitted batch job '*) line=${line#Submitted batch job } line=${line%% *} ;; esac
        case ${line%%;*} in '' | *[!0-9]*) ;; *) id=${line%%;*} ;; esac
        # A step of a session.
        case $line in [1-9]*.r[1-9]*) id=$line ;; esac
    done <"$1/stdout"
} 2>/dev/null

ids='' names=''
for attempt in $attempts; do
    generation=-1
    for claim in "$attempt"/claim/*; do
        number=${claim##*/}
        case $number in *[!0-9]*) continue ;; esac
        # Closed: no job can come of it.
        [ ! -L "$claim" ] || continue 2
        [ "$number" -le "$generation" ] || generation=$number
    done
    [ "$generation" -ge 0 ] || continue
    claim=$attempt/claim/$generation
    id=$(readlink -- "$claim/gate") || read_answer "$claim"
    case $id in
    revoked) ;;
    # Of a step of a session, Slurm knows the allocation.
    [1-9]*.r[1-9]*) case ,$ids, in *",${id%%.*},"*) ;; *) ids=$ids,${id%%.*} ;; esac ;;
    '' | *[!0-9]*)
        # As RunDirectory.job_name.
        name=${attempt%/*} number=${attempt##*/}
        name=${name##*/}
        [ "$number.$generation" = 0.0 ] || name=$name.$number.$generation
        names=$names,$name
        ;;
    *) ids=$ids,$id ;;
    esac
done
ids=${ids#,} names=${names#,}

# shellcheck disable=SC2086
[ -z "$lost" ] || ask "lost $lost" $squeue
# shellcheck disable=SC2086
[ -z "$names" ] || ask "names $names" $squeue "--name=$names"
if [ -z "$sacct" ] || [ -z "$ids" ]; then exit 0; fi
# shellcheck disable=SC2086
ask "squeue $ids" $squeue "--jobs=$ids"
# What goes on needs no accounting, which may be away. The first fields are JOB|ARRAY|TASK|STATE.
live=' '
while IFS='|' read -r id array _ state _; do
    case $state in PENDING | CONFIGURING | RUNNING | SUSPENDED | COMPLETING) live="$live$id $array " ;; esac
done <<END
$said
END
over=''
while [ -n "$ids" ]; do
    id=${ids%%,*} ids=${ids#"$id"}
    ids=${ids#,}
    case $live in *" $id "*) ;; *) over=$over,$id ;; esac
done
# shellcheck disable=SC2086
[ -z "$over" ] || ask "sacct ${over#,}" timeout 60 $sacct "--jobs=${over#,}"
exit 0
