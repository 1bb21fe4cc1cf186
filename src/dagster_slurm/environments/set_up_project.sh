# shellcheck shell=bash
# set_up_project COMMAND...: runs a command in a copy of the project, $DAGSTER_SLURM_REMOTE_PROJECT_DIR; what it makes below
# $DAGSTER_SLURM_ENV_BASE_DIR are environments by their names. One alone is also called `default`.
# shellcheck disable=SC2154 # parts is the installing script's
set_up_project() {
    local here=$PWD made
    mkdir project environments
    tar -xzf "$parts/project.tar.gz" -C project
    export DAGSTER_SLURM_REMOTE_PROJECT_DIR=$here/project DAGSTER_SLURM_ENV_BASE_DIR=$here/environments
    (cd project && "$@")
    made=$(ls environments)
    [ -n "$made" ] || {
        echo "The command has made nothing in \$DAGSTER_SLURM_ENV_BASE_DIR ($DAGSTER_SLURM_ENV_BASE_DIR)" >&2
        return 1
    }
    case $made in
    default | *[[:space:]]*) ;;
    *) ln -s -- "$made" environments/default ;;
    esac
    # Nobody enters all of them: each has an activation of its own.
    echo ':' >activate.sh
}
