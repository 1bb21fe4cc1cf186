# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # read behind this file; assigned in front of it
# How a payload is started and ended, in a job and on this machine alike. In front of this file stand, generated and
# quoted:
#   run_directory=...  forwarded_signals='USR1 ...'  hooks=(NAME ...), with the values and the functions of each
# `place` is what of the run directory is this payload's own; `launch` becomes the payload; `attend` begins to look after it;
# `sweep` ends what it leaves.
#
# A hook is what a launcher has done around the payload, in up to four functions:
#   NAME_begin  before the payload is started, by the shell that will end it
#   NAME_enter  by the process that becomes the payload, in its working directory
#   NAME_end    when the payload has ended, however it did; what it has left behind may still run
#   NAME_leave  when nothing of it runs any more, so that what is copied then is final; in a subshell
# They begin and enter in order, and end and leave in reverse: each that was begun, also where that failed.
payload=
pumps=
pumped=
code=
is_run=
told=
to_end=()
to_leave=()
# How each node has ended, where a launcher looks: NAME:CAUSE:PEAK_BYTES:CPU_MICROSECONDS:KILLED, `-` for what is not
# known; see cluster/description.py.
node_ends=()

say() { printf 'dagster-slurm: %s\n' "$*" >&2; }

# The payload's directory. Those that share files have links to them, made again in one that was requeued. To make a directory
# and links in it here is two processes, 3 ms of a short task's 30.
enter_place() {
    { [ -d "$place/work" ] && [ -d "$run_directory/work" ]; } || mkdir -p -- "$place/work" "$run_directory/work" || return
    [ "$place" = "$run_directory" ] || [ -n "$linked" ] || cp -rsf -- "$run_directory/work/." "$place/work" || return
    cd -- "$place/work" || return
}

# source_variables RUN_DIRECTORY PLACE: from here on no command is to be started that is not the payload's: it would be
# seen with what these hold in its environment.
source_variables() {
    # shellcheck source=/dev/null
    . "$1/env.sh" && { [ "$2" = "$1" ] || . "$2/env.sh"; }
}

# read_variables RUN_DIRECTORY PLACE: the payload's own come last, so that they win over what an activation sets. They may
# have any name.
read_variables() {
    source_variables "$@" || return
    # With an empty environment.
    [ -d "${DAGSTER_SLURM_CHECKPOINT_DIR:-/}" ] || (exec -c mkdir -p -- "$DAGSTER_SLURM_CHECKPOINT_DIR")
}

# What a login exports under names that stand in these scripts: the payload gets it as it was. The names are those of
# variables that are not local. Before 4.4 bash asks the kernel for all of them anew for each.
restore_login() {
    local pair pairs=()
    mapfile -td '' pairs <"/proc/$$/environ" ||
        while IFS= read -r -d '' pair; do pairs+=("$pair"); done <"/proc/$$/environ"
    for pair in "${pairs[@]}"; do
        case $pair in
        # Most: the list costs each of them 20 microseconds.
        [!a-z]*) ;;
        before=* | cached=* | claim=* | code=* | component=* | components=* | cpu_group=* | earlier=* | figures=* | \
            forwarded_signals=* | fresh=* | group=* | groups_list=* | groups_root=* | hooks=* | is_done=* | \
            is_run=* | job=* | job_group=* | left=* | linked=* | log=* | memory_group=* | node=* | node_ends=* | now=* | \
            outcome=* | owner=* | payload=* | pids=* | place=* | pumped=* | pumps=* | resident=* | restart=* | \
            run_directory=* | sizes=* | started=* | step=* | submitted=* | to_end=* | to_leave=* | told=*)
            unset -v "${pair%%=*}"
            export "${pair?}"
            ;;
        esac
    done
} 2>/dev/null

# An `exit 0` in what comes before the payload, such as a site's profile, would be its success.
refuse_success() {
    [ $? = 0 ] || return
    say 'the payload was not started: something before it has ended its shell'
    exit 74
}

# 1 is what any command that fails gives: it says nothing of its own.
call_hook() {
    local status
    declare -F "$1" >/dev/null || return 0
    "$1"
    status=$?
    [ "$status" != 0 ] || return 0
    say "$1 has failed with status $status"
    [ "$status" != 1 ] || status=74
    return "$status"
}

# What it starts in the background gets a process group of its own: signals are for the payload.
begin_hooks() {
    local hook status=0
    set -m
    for hook in "${hooks[@]}"; do
        to_end=("$hook" "${to_end[@]}")
        to_leave=("$hook" "${to_leave[@]}")
        call_hook "${hook}_begin"
        status=$?
        [ "$status" = 0 ] || break
    done
    set +m
    return "$status"
}

enter_hooks() {
    local hook
    for hook in "${hooks[@]}"; do call_hook "${hook}_enter" || return; done
}

# Those that are left: this is called again where a hook has called exit.
end_hooks() {
    local hook
    while [ ${#to_end[@]} -gt 0 ]; do
        hook=${to_end[0]}
        to_end=("${to_end[@]:1}")
        call_hook "${hook}_end" || [ "$code" != 0 ] || code=74
    done
}

leave_hooks() {
    local hook
    for hook in "${to_leave[@]}"; do (call_hook "${hook}_leave") || [ "$code" != 0 ] || code=74; done
}

# Under proctrack/cgroup only the batch script gets the signal with which Slurm cancels, requeues and times out, as with
# --signal=B:..., and SIGKILL follows after KillWait: so it is passed on, and this script lives on for its last line.
# Under other plugins every process gets it, and the payload twice.
pass_on() {
    # With these Slurm ends a job, or makes it begin again, whatever its payload's exit code.
    case $1 in TERM | INT | HUP) told=$1 ;; esac
    if [ -z "$payload" ] && [ -n "$before" ]; then
        made_after "$before"
        payload=$REPLY
    fi
    if [ -n "$payload" ]; then
        kill "-$1" -- "-$payload" 2>/dev/null
        return
    fi
    case $1 in
    TERM | INT | HUP)
        say "SIG$1 came before the payload was started; it is not"
        end_by "$1"
        ;;
    *) say "SIG$1 came before the payload was started, and does not reach it" ;;
    esac
}

catch_signals() {
    local signal
    # shellcheck disable=SC2064  # the name of the signal is meant to be expanded now
    for signal in TERM INT HUP $forwarded_signals; do trap "pass_on $signal" "$signal"; done
}

# What the payload writes goes through pipes. The log itself it could cut off: `> /dev/stderr` opens the file anew, and
# empties it (benchexec#535). On a full disk the payload waits for space. One Perl does it for both streams: to start a second
# one costs 2 ms. 4 is EINTR: its name costs as much to load as Perl itself, and so it is loaded when there is an error; and
# the locale costs a third of Perl. A pipe of a hook's, by which others know that this shell lives, is not to be held open by
# what outlives it; in bash, to look for them costs 0.6 ms. At its end it wakes who waits for that.
pump() {
    # shellcheck disable=SC2016  # the variables are Perl's
    local lines='
    open MORE, "<&=3" or exit 1;
    open WAKE, ">&=5" or exit 1;
    opendir LIST, "/proc/self/fd";
    my @others = grep { $_ > 3 && $_ != 5 } grep /^\d+$/, readdir LIST;
    closedir LIST;
    for (@others) { open OTHER, "<&=$_" and close OTHER }
    my @streams = ([*STDIN, *STDOUT], [*MORE, *STDERR]);
    while (@streams) {
        my $ready = "";
        vec($ready, fileno $_->[0], 1) = 1 for @streams;
        next if select($ready, undef, undef, undef) < 0;
        my @open;
        for my $stream (@streams) {
            my ($from, $to) = @$stream;
            push @open, $stream and next if !vec($ready, fileno $from, 1);
            my $read = sysread($from, my $block, 65536);
            push @open, $stream if $read || !defined $read && $! == 4;
            for (my $at = 0; $read && $at < $read;) {
                my $written = syswrite($to, $block, $read - $at, $at);
                if (defined $written) { $at += $written; next }
                my $error = $! + 0;
                require Errno;
                if ($error == Errno::ENOSPC() || $error == Errno::EDQUOT()) { select(undef, undef, undef, 0.5) }
                elsif ($error != 4) { last }
            }
        }
        @streams = @open;
    }
    syswrite WAKE, "ended\n"'
    exec 3</proc/self/fd/9
    # shellcheck disable=SC2086  # several words
    trap '' TERM INT HUP $forwarded_signals
    unset -v PERL5OPT PERL5LIB PERL_UNICODE
    LC_ALL=C exec perl -e "$lines"
}

# Where there is no Perl, the payload lives on and what it says is lost where the log cannot be written, also for want of space.
pump_one() {
    leave_all_but_streams
    cat || { say 'the log cannot be written; what the payload says from now on is lost' && exec cat >/dev/null; }
}

# As `pump` does.
leave_all_but_streams() {
    local fd
    # shellcheck disable=SC2086  # several words
    trap '' TERM INT HUP $forwarded_signals
    for fd in /dev/fd/*; do
        # The one by which the names were read is gone.
        if [ ! -e "$fd" ]; then continue; fi
        fd=${fd##*/}
        case $fd in 0 | 1 | 2 | 3 | 255) ;; *) eval "exec $fd>&-" ;; esac
    done
}

open_streams() {
    open_pipe 5
    if command -v perl >/dev/null && open_pipe 9; then
        exec 8> >(pump)
        pumps=$!
        exec 9>/proc/self/fd/9
        return
    fi
    exec 8> >(pump_one)
    pumps=$!
    exec 9> >(exec >&2 && pump_one)
    pumps="$pumps $!"
}

# is_pumping: whether somebody may still write to the payload's streams.
is_pumping() {
    # shellcheck disable=SC2086  # several words
    [ -n "$pumps" ] && [ -z "$pumped" ] && kill -0 $pumps 2>/dev/null
}

# For a moment, or until nobody writes to them any more.
await_pumps() {
    pause_on 0.02 5
    [ "$REPLY" != ended ] || pumped=yes
}

# Sets `moved`: how much has come through the pipes, where /proc says. All of it is read: of a file that goes with its
# process, bash keeps what lies behind the first line, and gives it to the next `read` of another file (5.2, lib/sh/zread.c).
measure_pumps() {
    local pump line
    moved=
    for pump in $pumps; do
        line=
        { read -rd '' line <"/proc/$pump/io"; } 2>/dev/null
        moved="$moved ${line%%$'\n'*}"
    done
}

# What still writes when the payload has ended, as the `tee` of `exec > >(tee log)`, gets as long as something comes, and a
# second. What merely holds the streams open does not hold up the job.
drain_streams() {
    local idle=0 tries moved before=
    for ((tries = 0; tries < 500 && idle < 50; tries++)); do
        is_pumping || return
        measure_pumps
        idle=$((idle + 1))
        [ "$moved" = "$before" ] || idle=0
        before=$moved
        await_pumps
    done
}

# Nothing writes any more: what is in the pipes is in the log soon.
finish_streams() {
    local tries
    for ((tries = 0; tries < 100; tries++)); do
        is_pumping || return
        await_pumps
    done
}

# Whether the payload has ended within a quarter of a second, when nothing has to look after it: to start what does costs 2 ms,
# of a short step's 15. Its streams have ended then. Without Perl, which is one process for both, nobody tells of that; with an
# older bash, a process would wait.
ends_soon() {
    local tries
    [ "$pumps" = "${pumps% *}" ] && pauses_alone || return
    pause_on 0.25 5
    [ "$REPLY" = ended ] || return
    pumped=yes
    # The kernel closes its streams first.
    for ((tries = 0; tries < 10; tries++)); do
        kill -0 "$payload" 2>/dev/null || return 0
        pause_on 0.01 5
    done
    return 1
}

# Job control gives the payload a process group of its own. In the background, because bash runs no trap while
# it waits for a child in the foreground.
run_payload() {
    local status before
    open_streams
    before=${!:-none}
    set -m
    # 6 and 7: what batch.sh reads and measures.
    launch </dev/null >&8 2>&9 5<&- 6<&- 7>&- 8>&- 9>&- &
    payload=$!
    set +m
    exec 8>&- 9>&-
    if [ ${#hooks[@]} = 0 ] && ! ends_soon; then attend; fi
    wait_for "$payload"
    status=$?
    drain_streams
    return "$status"
}

run() {
    # These may take long.
    [ ${#hooks[@]} = 0 ] || attend
    begin_hooks && run_payload
    code=$?
    # shellcheck disable=SC2086  # several words
    trap '' TERM INT HUP $forwarded_signals
    end_hooks
    is_run=yes
    exit "$code"
}

# finish_payload STATUS: what is done when this shell exits, whatever made it. Sets `code`.
finish_payload() {
    # shellcheck disable=SC2086  # several words
    trap '' TERM INT HUP $forwarded_signals
    code=${code:-$1}
    # A hook that has called exit has failed.
    [ -n "$is_run" ] || [ "$code" != 0 ] || code=74
    end_hooks
    sweep
    finish_streams
    leave_hooks
}
