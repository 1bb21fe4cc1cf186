# shellcheck shell=sh

# In the file system of the attempts; where one has no place for it, another may.
dagster_slurm_make_part() {
    for dagster_slurm_claim; do
        dagster_slurm_part=${dagster_slurm_claim%/*/*/*}/0.part.$dagster_slurm_nonce
        dagster_slurm_make "${dagster_slurm_part%/*}" && mkdir -- "$dagster_slurm_part" && return
    done 2>/dev/null
    # For what it says.
    mkdir -p -- "$dagster_slurm_part"
}

# Twice: the removal of a neighbour takes an empty parent with it.
dagster_slurm_make() { [ -d "$1" ] || mkdir -p -- "$1" 2>/dev/null || mkdir -p -- "$1"; }

# Sets `dagster_slurm_sent`: which attempts, RUN/KEY/ATTEMPT, have come. Launches that are not there are moved to their places in
# one go for each run: a process for each was most of what a login node did for a step. What is left in the part has a launch.
dagster_slurm_place() {
    dagster_slurm_sent=' '
    for dagster_slurm_claim; do
        dagster_slurm_attempt=${dagster_slurm_claim%/*/*}
        dagster_slurm_relative=${dagster_slurm_attempt#"$dagster_slurm_base/runs/"}
        case $dagster_slurm_sent in *" $dagster_slurm_relative "*) continue ;; esac
        [ ! -d "$dagster_slurm_part/runs/$dagster_slurm_relative" ] || dagster_slurm_sent="$dagster_slurm_sent$dagster_slurm_relative "
    done
    for dagster_slurm_run in "$dagster_slurm_part"/runs/*; do
        dagster_slurm_runs=$dagster_slurm_base/runs/${dagster_slurm_run##*/}
        if ! [ -d "$dagster_slurm_run" ] || ! dagster_slurm_make "$dagster_slurm_runs"; then continue; fi
        set --
        for dagster_slurm_launch in "$dagster_slurm_run"/*; do
            [ -e "$dagster_slurm_runs/${dagster_slurm_launch##*/}" ] || set -- "$@" "$dagster_slurm_launch"
        done
        [ "$#" = 0 ] || mv -t "$dagster_slurm_runs" -- "$@"
    done
} 2>/dev/null

# bring RELATIVE CLAIM: 0: this request has brought the attempt, and with it this claim; 1: it was there; 74. That it is gone from
# the part is no proof: who removes a launch takes the part in it. What has come with the claim is.
dagster_slurm_bring() {
    case $dagster_slurm_sent in *" $1 "*) ;; *) return 1 ;; esac
    if [ -d "$dagster_slurm_part/runs/$1" ] || ! dagster_slurm_is_ours "$2"; then
        if [ -d "$dagster_slurm_attempt" ]; then return 1; fi
        dagster_slurm_make "${dagster_slurm_attempt%/*}"
        # mv -T refuses to move into a directory that appeared meanwhile.
        if ! mv -T -- "$dagster_slurm_part/runs/$1" "$dagster_slurm_attempt"; then
            if [ -d "$dagster_slurm_attempt" ]; then return 1; else return 74; fi
        fi
    fi
    # Of two requests for one claim, the first.
    dagster_slurm_sent="${dagster_slurm_sent%%" $1 "*} ${dagster_slurm_sent#*" $1 "}"
}

dagster_slurm_is_ours() {
    read -r dagster_slurm_line <"$1/stdout" && [ "$dagster_slurm_line" = "$dagster_slurm_nonce" ]
} 2>/dev/null

# The newest attempt for an asset. Links that have come with the attempts are moved together.
dagster_slurm_link_asset() {
    [ -e "$1/asset" ] && read -r dagster_slurm_asset <"$1/asset" || return
    if [ -n "$dagster_slurm_part" ] && [ -L "$dagster_slurm_part/assets/$dagster_slurm_asset" ]; then
        dagster_slurm_assets="$dagster_slurm_assets $dagster_slurm_asset"
        return
    fi
    dagster_slurm_make "$dagster_slurm_base/assets"
    ln -sfT -- "../runs/${1#"$dagster_slurm_base/runs/"}" "$dagster_slurm_base/assets/$dagster_slurm_asset"
} 2>/dev/null

dagster_slurm_link_assets() {
    [ -n "$dagster_slurm_assets" ] && dagster_slurm_make "$dagster_slurm_base/assets" || return
    # shellcheck disable=SC2086  # several words
    (cd -- "$dagster_slurm_part/assets" && exec mv -f -t "$dagster_slurm_base/assets" -- $dagster_slurm_assets)
} 2>/dev/null

# claim CLAIM: 0, made; 1, found; 74; 76. An attempt comes with its claim: whoever brings it has made that.
dagster_slurm_claim() {
    dagster_slurm_attempt=${1%/*/*}
    dagster_slurm_bring "${dagster_slurm_attempt#"$dagster_slurm_base/runs/"}" "$1"
    dagster_slurm_code=$?
    if [ "$dagster_slurm_code" != 1 ]; then return "$dagster_slurm_code"; fi
    if [ ! -d "${1%/*}" ]; then mkdir -p -- "${1%/*}" || return 74; fi
    if mkdir -- "$1"; then return 0; fi
    if [ -L "$1" ]; then return 76; fi
    if [ -d "$1" ]; then return 1; else return 74; fi
}

# Detached: a connection that dies now takes nothing with it. The jobs inherit the login's settings. Who reads the other end
# of the pipe knows when all of them have been answered.
dagster_slurm_submit() {
    for dagster_slurm_code in $dagster_slurm_codes; do
        [ "$dagster_slurm_code" != 0 ] || set -- "$@" "$1"
        shift
    done
    [ "$#" -gt 0 ] || return 0
    (
        # The cron that the users know looks at the time of the run's directory.
        for dagster_slurm_each; do
            shift
            set -- "$@" "${dagster_slurm_each%/*/*/*/*}"
        done
        exec touch -c -- "$@"
    )
    # shellcheck disable=SC2016,SC2154
    {
        (
            if [ -n "$login_language" ]; then LANGUAGE=$login_language; else unset LANGUAGE; fi
            [ -z "$login_cdpath" ] || export CDPATH="$login_cdpath"
            [ -z "$login_tar" ] || export TAR_OPTIONS="$login_tar"
            exec setsid sh -c '
                umask 077
                dagster_slurm_umask=$1 dagster_slurm_sbatch=$2
                shift 2
                # What has no mailbox any more has ended, as mail.sh has it.
                dagster_slurm_refuse() {
                    dagster_slurm_gone=$1
                    shift
                    for dagster_slurm_claim; do
                        read -r dagster_slurm_session _ <"${dagster_slurm_claim%/*/*}/session" || continue
                        [ "$dagster_slurm_session" = "$dagster_slurm_gone" ] || continue
                        echo 76 >"$dagster_slurm_claim/status.part"
                        mv -- "$dagster_slurm_claim/status.part" "$dagster_slurm_claim/status"
                    done
                } 2>/dev/null
                dagster_slurm_sessions=
                for dagster_slurm_claim; do
                    : >"$dagster_slurm_claim/stdout" >"$dagster_slurm_claim/stderr"
                    dagster_slurm_attempt=${dagster_slurm_claim%/*/*}
                    [ -e "$dagster_slurm_attempt/session" ] || continue
                    read -r dagster_slurm_session _ <"$dagster_slurm_attempt/session"
                    case " $dagster_slurm_sessions " in
                    *" $dagster_slurm_session "*) ;;
                    *) dagster_slurm_sessions="$dagster_slurm_sessions $dagster_slurm_session" ;;
                    esac
                done
                # All that are asked of one session, under one lock.
                for dagster_slurm_session in $dagster_slurm_sessions; do
                    dagster_slurm_session=${dagster_slurm_claim%/runs/*}/runs/$dagster_slurm_session
                    if [ -e "$dagster_slurm_session/work/mail.sh" ]; then
                        sh "$dagster_slurm_session/work/mail.sh" "$dagster_slurm_session" add "$@" &
                    else
                        dagster_slurm_refuse "${dagster_slurm_session##*/runs/}" "$@" &
                    fi
                done
                for dagster_slurm_claim; do
                    dagster_slurm_attempt=${dagster_slurm_claim%/*/*}
                    [ ! -e "$dagster_slurm_attempt/session" ] || continue
                    (
                        # As RunDirectory.job_name.
                        dagster_slurm_try=${dagster_slurm_claim##*/}
                        dagster_slurm_name=${dagster_slurm_attempt%/*} dagster_slurm_try=${dagster_slurm_attempt##*/}.$dagster_slurm_try
                        dagster_slurm_name=${dagster_slurm_name##*/}
                        [ "$dagster_slurm_try" = 0.0 ] || dagster_slurm_name=$dagster_slurm_name.$dagster_slurm_try
                        cd -- "$dagster_slurm_attempt/work" 2>/dev/null || :
                        umask "$dagster_slurm_umask"
                        $dagster_slurm_sbatch "--job-name=$dagster_slurm_name" "$dagster_slurm_attempt/job.sh" \
                            "${dagster_slurm_claim##*/}" \
                            >"$dagster_slurm_claim/stdout" 2>"$dagster_slurm_claim/stderr" </dev/null
                        echo $? >"$dagster_slurm_claim/status.part" &&
                            sync -- "$dagster_slurm_claim/stdout" "$dagster_slurm_claim/status.part" &&
                            mv -- "$dagster_slurm_claim/status.part" "$dagster_slurm_claim/status"
                    ) &
                done
            ' sh "$login_umask" "$dagster_slurm_sbatch" "$@"
        ) </dev/null 2>/dev/null &
    } | timeout "$dagster_slurm_patience" cat >/dev/null || dagster_slurm_patience=0
}

# Others submit in what was found.
dagster_slurm_are_answered() {
    for dagster_slurm_code in $dagster_slurm_codes; do
        [ "$dagster_slurm_code" -gt 1 ] || [ -s "$1/status" ] || return
        shift
    done
}

dagster_slurm_print() {
    while IFS= read -r dagster_slurm_line || [ -n "$dagster_slurm_line" ]; do printf '%s\n' "$dagster_slurm_line"; done <"$1"
} 2>/dev/null

# submit NONCE PATIENCE_SECONDS SBATCH CHECKSUMS CLAIM...: puts the trees of attempts and submits each, once, however
# often this is asked for. Whoever makes the directory CLAIM submits; everybody then reads the outcome that lies in it.
# The trees are one tar stream on stdin, in which that of an attempt lies below runs/RUN/KEY/ATTEMPT, and in it its claim
# with NONCE in the file stdout; the links for assets lie in assets/. An attempt that is there needs no tree. CHECKSUMS is the
# name, within the stream, of a file in sha256sum's format that lists every other one; empty without a stream. SBATCH is that
# command with the options that all have, words without white space.
# NONCE is of digits. An attempt with a file `session` is a step of a session: it is asked for in the mailbox of the allocation that
# its first word names, RUN/KEY/ATTEMPT, in the place of sbatch (session/mail.sh).
# Output, of each: "made STATUS" or "found STATUS" by who made the claim, what sbatch printed, and "NEWLINE NONCE SPACE CODE
# NEWLINE"; the same with sbatch's stderr on stderr. CODE 0; 74: it could not be written; 75: no outcome yet; 76: the
# attempt is closed.
# Status 65: what arrived is not what was sent; 74: it could not be written. Nothing was submitted then.
submit() {
    dagster_slurm_nonce=$1 dagster_slurm_patience=$2 dagster_slurm_sbatch=$3 dagster_slurm_checksums=$4 dagster_slurm_part=''
    shift 4

    dagster_slurm_base=${1%/*/*/*/*/*/*} dagster_slurm_sent='' dagster_slurm_assets=''

    if [ -n "$dagster_slurm_checksums" ]; then
        trap '[ -z "$dagster_slurm_part" ] || rm -rf -- "$dagster_slurm_part"' EXIT
        dagster_slurm_make_part "$@" || exit 74
        # -m: with the time of today, or a site that purges old files takes them at once. -p: with the modes as sent;
        # without it, tar applies the umask for everybody but root.
        tar -xmpf - -C "$dagster_slurm_part" || exit 74
        (cd -- "$dagster_slurm_part" && sha256sum --check --quiet --strict -- "$dagster_slurm_checksums" >&2) || exit 65
        dagster_slurm_place "$@"
    fi

    dagster_slurm_number=0 dagster_slurm_codes=''
    for dagster_slurm_each; do
        dagster_slurm_number=$((dagster_slurm_number + 1))
        dagster_slurm_claim "$dagster_slurm_each" 2>/dev/null
        dagster_slurm_code=$?
        if [ "$dagster_slurm_code" = 74 ]; then
            # For what it says.
            eval "dagster_slurm_said_$dagster_slurm_number=\$(dagster_slurm_claim \"\$dagster_slurm_each\" 2>&1)"
            dagster_slurm_code=$?
        fi
        if [ "$dagster_slurm_code" = 0 ]; then
            dagster_slurm_link_asset "${dagster_slurm_each%/*/*}"
            # Slurm's record of the job then names this directory.
            [ -d "${dagster_slurm_each%/*/*}/work" ] || mkdir -p -- "${dagster_slurm_each%/*/*}/work"
        fi
        dagster_slurm_codes="$dagster_slurm_codes $dagster_slurm_code"
    done
    dagster_slurm_link_assets
    [ -z "$dagster_slurm_part" ] || rm -rf -- "$dagster_slurm_part"

    dagster_slurm_submit "$@"

    while [ "$dagster_slurm_patience" -gt 0 ] && ! dagster_slurm_are_answered "$@"; do
        dagster_slurm_patience=$((dagster_slurm_patience - 1))
        sleep 1
    done

    dagster_slurm_number=0
    for dagster_slurm_code in $dagster_slurm_codes; do
        dagster_slurm_number=$((dagster_slurm_number + 1))
        case $dagster_slurm_code in
        0 | 1)
            [ "$dagster_slurm_code" = 0 ] && printf 'made ' || printf 'found '
            dagster_slurm_code=75
            if [ -s "$1/status" ]; then
                dagster_slurm_code=0
                dagster_slurm_print "$1/status"
                dagster_slurm_print "$1/stdout"
            fi
            # Also what it has said by now.
            dagster_slurm_print "$1/stderr" >&2
            ;;
        74) eval "printf '%s\n' \"\$dagster_slurm_said_$dagster_slurm_number\"" >&2 ;;
        esac
        printf '\n%s %s\n' "$dagster_slurm_nonce" "$dagster_slurm_code"
        printf '\n%s %s\n' "$dagster_slurm_nonce" "$dagster_slurm_code" >&2
        shift
    done
    exit 0
}
