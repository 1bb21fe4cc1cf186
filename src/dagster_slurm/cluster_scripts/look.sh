# shellcheck shell=sh
# Verbs: what lies in the directories of launches, and what is new in them.

add_root() {
    case " $roots " in *" $1 "*) ;; *) roots="$roots $1" ;; esac
}

# leads_to LINK PREFIX: sets `target` to the RUN/KEY/ATTEMPT to which it leads; empty if it leads elsewhere.
leads_to() {
    target=$(readlink -- "$1")
    case $target in "$2"?*/?*/?*) target=${target#"$2"} ;; *) target='' ;; esac
    case $target in *[!A-Za-z0-9_./-]* | *..* | */*/*/*) target='' ;; esac
}

# ask_slurm NAME COMMAND...: prints its answer; sets `said` to it.
ask_slurm() {
    name=$1
    shift
    said=$("$@")
    printf '%s\n%s\n' "$?" "$said" | grep -aHZ --label="$name" ''
    printf '\0' >&2
}

# A status of 1 is of what was removed meanwhile; any other one is of a look that was cut off.
looked_whole() {
    [ "$?" -le 1 ] || exit 74
}

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

# look BASE SQUEUE SACCT ROOT...: how launches lie below BASE and, if asked for, what Slurm knows of the jobs of
# their attempts that are not closed. ROOT is `runs` and `assets` for everything; or `runs/RUN/KEY` for a launch, and `assets/DIGEST`
# for the newest attempt for an asset, each with the launches to which its links lead. SQUEUE and SACCT are those commands
# with their options; `lost/KEY`, which is last, has squeue asked for all own jobs if no launch of that key is there. Without
# SACCT Slurm is asked only about submissions that have no answer, without SQUEUE not at all.
# Output: the clock of the files in seconds, NUL; of each entry "TYPE TAB TYPE_BEHIND_LINKS TAB MODIFIED TAB PATH TAB TARGET NUL";
# NUL; each line of the small files as "PATH NUL LINE NEWLINE", and of Slurm's answers in the same way with `squeue IDS`,
# `names NAMES`, `lost KEY` or `sacct IDS` for the path: the first line is the exit status. On stderr, a NUL behind what each says.
# Nothing where there is nothing. Status 74: it could not be read.
look() {
    cd -- "$1" 2>/dev/null || case " $* " in *" lost/"*) cd /dev || exit 0 ;; *) exit 0 ;; esac
    squeue=$2 sacct=$3 roots='' attempts='' lost=''
    shift 3

    for root; do
        case $root in
        lost/*)
            case "$roots " in *"/${root#lost/} "*) ;; *) lost=${root#lost/} ;; esac
            continue
            ;;
        assets/*)
            leads_to "$root" ../runs/
            [ -z "$target" ] || add_root "$root"
            root=runs/${target%/*}
            ;;
        esac
        [ -d "$root" ] || continue
        add_root "$root"
        case $root in runs/?*/?*) ;; *) continue ;; esac
        for path in "$root"/*; do
            case ${path##*/} in *[!0-9]*) continue ;; esac
            if [ -L "$path" ]; then
                leads_to "$path" ../../
                path=runs/$target
                if [ -z "$target" ] || [ ! -d "$path" ]; then continue; fi
                add_root "${path%/*}"
            fi
            case " $attempts " in *" $path "*) ;; *) attempts="$attempts $path" ;; esac
        done
    done

    case $roots in
    '')
        [ -n "$lost" ] || exit 0
        printf '0\0\0'
        # shellcheck disable=SC2086
        ask_slurm "lost $lost" $squeue
        exit 0
        ;;
    ' runs '* | ' runs') depth=6 hidden=work ;;
    # The tasks of an array may be thousands.
    *) depth=4 hidden=elements ;;
    esac

    # By the clock of the files, which is not this machine's; where nothing can be written, as with a full quota, by that.
    mark=$(mktemp .now.XXXXXX 2>/dev/null) && now=$(stat -c %Y -- "$mark") && rm -f -- "$mark" || now=$(date +%s) || exit 74
    printf '%s\0' "$now"
    # Two processes, however many launches there are. Names of ours hold no white space.
    # shellcheck disable=SC2086
    find $roots -maxdepth "$depth" \( -path 'runs/*/*/checkpoint/*' -prune -o -path 'runs/*/*/*/*' \
        \( -name work -o -name pipes -o -name "$hidden" \) -prune -false -o -true \) \
        -printf '%y\t%Y\t%T@\t%p\t%l\0' 2>/dev/null
    looked_whole
    printf '\0'
    # shellcheck disable=SC2086
    find $roots -maxdepth "$depth" -path 'runs/*/*/*/*' \( \
        \( -name work -o -name pipes -o -name elements -o -path 'runs/*/*/checkpoint/*' \) -prune -o \
        -type f -size +0 -size -32768 \
        \( -name protocol -o -name session -o -name launch.json -o -name outcome.json -o -path '*/log/status' -o -path '*/claim/*/std*' \
        -o -path '*/claim/*/status' \) -exec grep -aHZ '' -- {} + \) 2>/dev/null
    looked_whole
    [ -n "$squeue" ] || exit 0

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
    [ -z "$lost" ] || ask_slurm "lost $lost" $squeue
    # shellcheck disable=SC2086
    [ -z "$names" ] || ask_slurm "names $names" $squeue "--name=$names"
    if [ -z "$sacct" ] || [ -z "$ids" ]; then exit 0; fi
    # shellcheck disable=SC2086
    ask_slurm "squeue $ids" $squeue "--jobs=$ids"
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
    [ -z "$over" ] || ask_slurm "sacct ${over#,}" timeout 60 $sacct "--jobs=${over#,}"
    exit 0
}

# poll BASE MAX_BYTES SECONDS OFFSET NAME [OFFSET NAME ...]: what is new in each file, all in one go. While nothing is,
# it may wait so long for something.
# Output for each file that grew: "NAME OFFSET LENGTH NEWLINE" and that many bytes. Names hold no white space. A `status`,
# which is made with its directory, has the length 0 where it is not there any more.
# What becomes of jobs without their directories, Slurm tells.
poll() {
    cd -- "$1" 2>/dev/null || cd /dev || exit 0
    shift
    # One process opens every file, and opening is what makes NFS look again; `stat` alone would show what it knew
    # seconds ago (nfs(5), close-to-open). Files that are not there yet are left out.
    # Login nodes have Perl, since Slurm's own `seff` is written in it; where not, each file that grew costs a process, and
    # nothing waits. There are ten looks a second at most, fewer of those that take longer, and of those that take a tenth of
    # the time, as on a slow NFS, no other. A finer clock than that of proc(5) costs more to load than all the looks, and so do
    # the names of ENOENT and ENOTDIR, 2 and 20. By that clock alone, a look of a millisecond now and then took a hundredth, and
    # the pause behind it half a second: the CPU time tells more, and a whole hundredth more than it is another computer.
    unset PERL5OPT PERL5LIB
    # shellcheck disable=SC2016
    perl -e '
        my ($max, $wait, @asked) = @ARGV;
        my $uptime = sub { open my $file, "<", "/proc/uptime" or return; (split " ", <$file>)[0] };
        my $used = sub { open my $file, "<", "/proc/self/schedstat" or return; (split " ", <$file>)[0] / 1e9 };
        my $until = $wait > 0 && $uptime->();
        $until += $wait if $until;
        my $found;
        binmode STDOUT;
        while (1) {
            my ($began, $before) = ($until && $uptime->(), $until && $used->());
            for (my $at = 0; $at < @asked; $at += 2) {
                my ($offset, $name) = @asked[$at, $at + 1];
                my $file;
                if (!open $file, "<:unix", $name) {
                    $found = print "$name $offset 0\n" if $name =~ m{/status$} && ($! == 2 || $! == 20);
                    next;
                }
                next if -d $file || -s _ <= $offset;
                sysseek $file, $offset, 0 or next;
                my ($data, $got) = ("", 1);
                $got = sysread $file, $data, $max - length $data, length $data while $got && length $data < $max;
                $found = printf "%s %d %d\n%s", $name, $offset, length $data, $data if length $data;
            }
            last if $found || !$until;
            my $now = $uptime->();
            my ($took, $left) = ($now - $began, $until - $now);
            last if $left <= 0 || 10 * $took > $wait;
            my $cost = defined $before ? $used->() - $before : $took;
            $cost = $took - 0.01 if $took - 0.01 > $cost;
            my $pause = 0.1 + 40 * $cost;
            select undef, undef, undef, $pause < $left ? $pause : $left;
        }
    ' "$@" 2>/dev/null && exit
    max_bytes=$1
    shift 2
    names=
    count=0
    for word in "$@"; do
        count=$((count + 1))
        [ $((count % 2)) = 1 ] || names="$names $word"
        case $word in */status) [ -e "$word" ] || printf '%s 0 0\n' "$word" ;; esac
    done
    # shellcheck disable=SC2086
    wc -c -- $names 2>/dev/null | while read -r size name; do
        while [ $# -gt 0 ] && [ "$2" != "$name" ]; do shift 2; done
        # The line with the total comes last.
        [ $# -gt 0 ] || break
        length=$((size - $1))
        if [ "$length" -gt 0 ]; then
            [ "$length" -le "$max_bytes" ] || length=$max_bytes
            printf '%s %s %s\n' "$name" "$1" "$length"
            # One process for each file, where `tail` and `head` would be two.
            dd if="$name" bs=65536 iflag=skip_bytes,count_bytes skip="$1" count="$length" status=none
        fi
        shift 2
    done
}

# present DIRECTORY PATH...: of the names on stdin, one a line, prints `there NAME SIZE` for those of files in DIRECTORY;
# then `missing PATH` for each PATH that is not there. Changes nothing.
present() {
    directory=$1
    shift
    (cd -- "$directory" 2>/dev/null && xargs -r stat -c 'there %n %s' -- 2>/dev/null)
    for path; do
        [ -e "$path" ] || printf 'missing %s\n' "$path"
    done
    exit 0
}
