# shellcheck shell=sh
# names.sh partition|account|qos: what this user may name there, one a line. Names hold no white space, as a site's notices do.
case $1 in
partition) sinfo --noheader --format=%R ;;
account) sacctmgr --noheader --parsable2 show associations user="$(id -un)" format=account ;;
qos) sacctmgr --noheader --parsable2 show associations user="$(id -un)" format=qos | tr , '\n' ;;
esac 2>/dev/null | grep -v '[[:space:]]' | sort -u
