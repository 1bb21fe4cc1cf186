# shellcheck shell=sh
# partitions.sh: every partition with its settings, and its nodes by state. With scontrol's status and stderr.
listed=$(scontrol --all --oneliner show partition) || exit
printf '%s\n' "$listed" | sed -n 's/^PartitionName=/partition &/p'
sinfo --all --noheader --format='%R|%D|%T' 2>/dev/null | sed 's/^/nodes /'
