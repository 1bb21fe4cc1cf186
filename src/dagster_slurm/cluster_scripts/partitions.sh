# shellcheck shell=sh
# partitions.sh: what a partition is chosen by, one thing a line: `partition` and what scontrol says of it; `nodes` and
# "PARTITION|COUNT|CPUS|MIB|GRES|FEATURES|STATE" of those that are alike; `groups` of the user; `charge` and
# "DEFAULT_ACCOUNT|ACCOUNT|PARTITION|DEFAULT_QOS", where the accounting tells. With scontrol's status and stderr.
listed=$(scontrol --oneliner show partition) || exit
printf '%s\n' "$listed" | sed -n 's/^PartitionName=/partition &/p'
sinfo --exact --noheader --format='%R|%D|%c|%m|%G|%f|%T' 2>/dev/null | sed 's/^/nodes /'
printf 'groups %s\n' "$(id -Gn)"
sacctmgr --noheader --parsable2 show user "$(id -un)" withassoc format=defaultaccount,account,partition,defaultqos 2>/dev/null |
    sed -n 's/^[^|]*|[^|]*|[^|]*|[^|]*$/charge &/p'
exit 0
