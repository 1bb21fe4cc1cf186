# shellcheck shell=sh
# associations.sh: what this user may charge, "CLUSTER|ACCOUNT|PARTITION|QOS,QOS". With sacctmgr's status and stderr.
listed=$(sacctmgr --noheader --parsable2 show associations user="$(id -un)" format=cluster,account,partition,qos) ||
    exit
printf '%s\n' "$listed" | sed -n 's/^./association &/p'
