# shellcheck shell=sh
# dagster_slurm_serve NONCE STREAMS: serves requests on stdin until it ends. A request is a line "NONCE
# SCRIPT_BYTES STDIN_BYTES", the script, and the script's stdin. The answer is the script's stdout and "NEWLINE NONCE
# SPACE STATUS NEWLINE", and its stderr and "NEWLINE NONCE end NEWLINE": on two streams or, behind each other, on the
# one that a TTY has. What is read here, is read by `read` and `head -c`: they take no byte too many from a pipe, as a
# shell that reads its script does.
dagster_slurm_serve() {
    # Options that a site or an outer job put into the environment must not decide about our commands
    # (sbatch(1), INPUT ENVIRONMENT VARIABLES). SLURM_CONF says which cluster it is.
    for name in $(env | sed -n 's/^\(S[A-Z]*_[A-Za-z0-9_]*\)=.*/\1/p'); do
        case $name in
        SLURM_CONF) ;;
        SLURM_* | SBATCH_* | SQUEUE_* | SACCT_* | SCANCEL_* | SINFO_* | SCONTROL_*) unset "$name" ;;
        esac
    done
    # What a job inherits is the login's, not this channel's; requests that submit read these.
    # shellcheck disable=SC2034
    login_umask=$(umask) login_language=${LANGUAGE-}
    umask 077
    # Messages are told apart by their English text.
    LANGUAGE=C
    export LANGUAGE
    printf '\n%s ready\n' "$1"
    [ "$2" = 1 ] || printf '\n%s ready\n' "$1" >&2
    while IFS=' ' read -r nonce script_bytes stdin_bytes; do
        script=$(head -c "$script_bytes")
        if [ "$2" = 1 ]; then
            dagster_slurm_answer_on_one_stream
        else
            dagster_slurm_answer
            printf '\n%s %s\n' "$nonce" "$?"
            printf '\n%s end\n' "$nonce" >&2
        fi
    done
    exit 0
}
dagster_slurm_answer_on_one_stream() {
    {
        # The x keeps the line breaks at the end, which $() would drop.
        errors=$(
            dagster_slurm_answer 2>&1 1>&3 3>&-
            status=$?
            printf x
            exit "$status"
        )
        status=$?
    } 3>&1
    printf '\n%s %s\n%s\n%s end\n' "$nonce" "$status" "${errors%x}" "$nonce"
}
dagster_slurm_answer() {
    if [ "$stdin_bytes" = 0 ]; then
        (eval "$script") </dev/null
    else
        head -c "$stdin_bytes" | {
            (eval "$script")
            status=$?
            # What the script left unread belongs to this request, not to the next.
            cat >/dev/null
            exit "$status"
        }
    fi
}
