# shellcheck shell=sh
# Serves requests on stdin until it ends. A request is a line "NONCE SCRIPT_BYTES STDIN_BYTES", the script, and
# the script's stdin. The answer is the script's output, then on stdout "NEWLINE NONCE STATUS NEWLINE" and on
# stderr "NEWLINE NONCE NEWLINE". Sent as a whole before anything else: dash reads ahead on its stdin, `read`
# and `head -c` do not.
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
    printf '\n%s ready\n' "$1" >&2
    while IFS=' ' read -r nonce script_bytes stdin_bytes; do
        script=$(head -c "$script_bytes")
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
        status=$?
        printf '\n%s %s\n' "$nonce" "$status"
        printf '\n%s\n' "$nonce" >&2
    done
    exit 0
}
