# shellcheck shell=sh
# dagster_slurm_serve NONCE STREAMS: serves requests on stdin until it ends. A request is a line "NONCE
# SCRIPT_BYTES STDIN_BYTES", the script, whose last line is "#NONCE", and the script's stdin; with `verb` in the place of
# STDIN_BYTES the script is a function that scripts after it may call, and has no answer. The answer is the script's
# stdout and "NEWLINE NONCE SPACE STATUS NEWLINE", and its stderr and "NEWLINE NONCE end NEWLINE": on two streams or,
# behind each other, on the one that a TTY has. What is read here, is read by `read` and `head -c`: they take no byte too
# many from a pipe, as a shell that reads its script does. What a login exports under a name of ours would reach its jobs with
# our value: all have one prefix.
dagster_slurm_serve() {
    # shellcheck disable=SC2034
    login_clusters=${SLURM_CLUSTERS:-${SBATCH_CLUSTERS-}}
    # Options that a site or an outer job put into the environment must not decide about our commands
    # (sbatch(1), INPUT ENVIRONMENT VARIABLES). SLURM_CONF says which cluster it is.
    for dagster_slurm_name in $(env | sed -n 's/^\(S[A-Z]*_[A-Za-z0-9_]*\)=.*/\1/p'); do
        case $dagster_slurm_name in
        SLURM_CONF) ;;
        SLURM_* | SBATCH_* | SQUEUE_* | SACCT_* | SCANCEL_* | SINFO_* | SCONTROL_*) unset "$dagster_slurm_name" ;;
        esac
    done
    # What a job inherits is the login's, not this channel's; requests that submit read these.
    # shellcheck disable=SC2034
    login_umask=$(umask) login_language=${LANGUAGE-} login_cdpath=${CDPATH-} login_tar=${TAR_OPTIONS-}
    umask 077
    # What people set for working by hand: with CDPATH `cd` prints, and TAR_OPTIONS decides about our archives.
    unset CDPATH TAR_OPTIONS
    # Messages are told apart by their English text.
    LANGUAGE=C
    export LANGUAGE
    if [ "$2" = 1 ]; then
        # A TTY that goes away sends a signal that would end scripts before they clean up; without it they see the end
        # of their stdin, as they do without a TTY.
        trap '' HUP
        dagster_slurm_leave_tty || exit 74
        dagster_slurm_loop "$1" dagster_slurm_answer_on_one_stream
    else
        printf '\n%s ready\n' "$1" >&2
        dagster_slurm_loop "$1" dagster_slurm_answer_on_two_streams
    fi
    exit 0
}
dagster_slurm_loop() {
    printf '\n%s ready\n' "$1"
    while IFS=' ' read -r dagster_slurm_nonce dagster_slurm_script_bytes dagster_slurm_stdin_bytes; do
        # A connection that ends, or a `head` that is killed with the session it serves, leaves part of a script, which
        # must not be run; and what follows is no request.
        dagster_slurm_script=$(head -c "$dagster_slurm_script_bytes") || exit 74
        case $dagster_slurm_script in
        *"
#$dagster_slurm_nonce") ;;
        *) exit 74 ;;
        esac
        if [ "$dagster_slurm_stdin_bytes" = verb ]; then eval "$dagster_slurm_script"; else "$2"; fi
    done
}
dagster_slurm_answer_on_two_streams() {
    dagster_slurm_answer
    printf '\n%s %s\n' "$dagster_slurm_nonce" "$?"
    printf '\n%s end\n' "$dagster_slurm_nonce" >&2
}
# What writes to a TTY makes columns and colours, and masks names: scripts write to a pipe, here as elsewhere. Stderr waits
# in a file without a name: it may hold any byte, and what is left running does not keep it open for us.
dagster_slurm_leave_tty() {
    for dagster_slurm_directory in "${TMPDIR:-/tmp}" /tmp /var/tmp /dev/shm "$HOME"; do
        dagster_slurm_directory=$(mktemp -d "$dagster_slurm_directory/.dagster-slurm.XXXXXX" 2>/dev/null) || continue
        mkfifo "$dagster_slurm_directory/stdout" || continue
        cat <"$dagster_slurm_directory/stdout" &
        exec >"$dagster_slurm_directory/stdout" 4>>"$dagster_slurm_directory/stderr"
        rm -rf -- "$dagster_slurm_directory"
        return 0
    done
    echo 'There is no directory for temporary files' >&2
    return 1
}
dagster_slurm_answer_on_one_stream() {
    : >/dev/fd/4
    dagster_slurm_answer 2>&4 4>&-
    printf '\n%s %s\n' "$dagster_slurm_nonce" "$?"
    cat /dev/fd/4
    printf '\n%s end\n' "$dagster_slurm_nonce"
}
dagster_slurm_answer() {
    if [ "$dagster_slurm_stdin_bytes" = 0 ]; then
        (eval "$dagster_slurm_script") </dev/null
    elif [ "$dagster_slurm_stdin_bytes" = own ]; then
        # The script takes what belongs to it, to the byte.
        (eval "$dagster_slurm_script")
    else
        head -c "$dagster_slurm_stdin_bytes" | {
            (eval "$dagster_slurm_script")
            dagster_slurm_status=$?
            # What the script left unread belongs to this request, not to the next.
            cat >/dev/null
            exit "$dagster_slurm_status"
        }
    fi
}
