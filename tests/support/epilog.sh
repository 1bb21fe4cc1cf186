#!/bin/sh
# Slurm's epilog on the nodes of the sandbox: a job whose payload asked for it stays in COMPLETING for a while.
home=$(getent passwd "$SLURM_JOB_USER" | cut -d: -f6)
[ ! -e "$home/slow-end/$SLURM_JOB_ID" ] || sleep 10
