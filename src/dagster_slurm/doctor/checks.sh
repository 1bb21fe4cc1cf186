# shellcheck shell=sh
# Verbs: what the doctor asks on a login node.

# Who and where we are.
check_login() {
    printf 'user %s\n' "$(id -un)"
    printf 'host %s\n' "$(uname -n)"
    printf 'system %s\n' "$(uname -sr)"
    printf 'home %s\n' "$HOME"
}

# The login shell, what it prints when it should print nothing, and the programs that are needed here.
check_shell() {
    shell=${SHELL:-/bin/sh}
    printf 'shell %s\n' "$shell"
    # bash reads .bashrc for ssh if it is not below another shell (bash(1), INVOCATION; SHLVL).
    printf 'noise %s\n' "$(
        unset SHLVL
        timeout 10 "$shell" -c : </dev/null 2>/dev/null | wc -c
    )"
    # shellcheck disable=SC2016
    printf 'bash %s\n' "$(bash -c 'printf %s "$BASH_VERSION"' 2>/dev/null)"
    for program in bash tar sha256sum setsid stat head tail mktemp; do
        command -v "$program" >/dev/null 2>&1 || printf 'missing %s\n' "$program"
    done
}

# The time here, in seconds since the epoch.
check_clock() {
    printf 'time %s\n' "$(date +%s.%N)"
}

# Slurm's commands, each with its path, and the version.
check_commands() {
    for program in sbatch squeue scancel sacct scontrol sinfo sacctmgr; do
        path=$(command -v "$program" 2>/dev/null) && printf '%s %s\n' "$program" "$path"
    done
    printf 'version %s\n' "$(sbatch --version 2>/dev/null | grep -m 1 '^slurm')"
}

# Does slurmctld answer? With the status and the stderr of squeue, which runs ask.
check_controller() {
    scontrol ping 2>/dev/null | sed 's/^/ping /'
    jobs=$(squeue --noheader --me --format=%A) || exit
    printf 'jobs %s\n' "$(printf '%s' "$jobs" | grep -cx '[0-9]*')"
}

# Every partition with its settings, and its nodes that are alike, as `partitions`. With scontrol's status and stderr.
check_partitions() {
    listed=$(scontrol --all --oneliner show partition) || exit
    printf '%s\n' "$listed" | sed -n 's/^PartitionName=/partition &/p'
    sinfo --all --exact --noheader --format='%R|%D|%c|%m|%G|%f|%T' 2>/dev/null | sed 's/^/nodes /'
}

# What this user may charge, "CLUSTER|ACCOUNT|PARTITION|QOS,QOS". With sacctmgr's status and stderr.
check_associations() {
    listed=$(sacctmgr --noheader --parsable2 show associations user="$(id -un)" format=cluster,account,partition,qos) ||
        exit
    printf '%s\n' "$listed" | sed -n 's/^./association &/p'
}

# DIRECTORY: file system, free space, inodes and quota there, or of the nearest directory that exists.
check_space() {
    directory=$1
    until [ -d "$directory" ]; do
        directory=${directory%/*}
        directory=${directory:-/}
    done
    printf 'directory %s\n' "$directory"
    df -PTk -- "$directory" | tail -n 1 | sed 's/^/blocks /'
    df -Pi -- "$directory" 2>/dev/null | tail -n 1 | sed 's/^/inodes /'
    # Both ask servers that may not answer; theirs is not a reason to wait.
    if command -v quota >/dev/null 2>&1; then
        timeout 10 quota -w 2>/dev/null | sed 's/^/quota /'
    fi
    if command -v lfs >/dev/null 2>&1; then
        timeout 10 lfs quota -u "$(id -un)" "$directory" 2>/dev/null | sed 's/^/quota /'
    fi
}

clean_up() {
    rm -rf -- "$probe"
    while [ -n "$made" ]; do
        rmdir -- "$base" 2>/dev/null || break
        base=${base%/*}
        made=${made%/..}
    done
}

# BASE: do there what a run does: make directories, write, rename, link, remove. Status 74: it failed.
# What it makes, it removes, BASE included if it was not there.
check_writing() {
    made=
    directory=$1
    until [ -d "$directory" ] || [ -z "$directory" ]; do
        made="$made/.."
        directory=${directory%/*}
    done
    probe=$1/.dagster-slurm-doctor.$$
    base=$1
    trap clean_up EXIT
    mkdir -p -- "$1" && mkdir -- "$probe" || exit 74
    head -c 65536 /dev/zero >"$probe/part" && mv -T -- "$probe/part" "$probe/whole" || exit 74
    ln -sT -- 1 "$probe/gate" && chmod 0600 "$probe/whole" || exit 74
    printf 'mode %s\n' "$(stat -c %a -- "$probe")"
    printf 'file %s\n' "$(stat -c %a -- "$probe/whole")"
    printf 'base %s %s\n' "$(stat -c %a -- "$1")" "$(stat -c %U -- "$1")"
    rm -r -- "$probe" || exit 74
}

# SETUP PYTHON PROGRAM: run a Python program in an environment, entered with lines of bash.
check_python() {
    # shellcheck disable=SC2016
    exec bash -c 'eval "$1"; exec "$2" -c "$3"' bash "$1" "$2" "$3" </dev/null
}
