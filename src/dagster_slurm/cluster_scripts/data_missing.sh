# shellcheck shell=sh
# data_missing.sh DATA: of the lines on stdin, `content SHA256 SIZE` or `path PATH`, prints those that are not there. What is
# there was used just now: whoever clears up by age leaves it.
umask 077
mkdir -p -- "$1/.incoming" && cd -- "$1" || exit 74
while IFS= read -r line; do
    case $line in
    content\ *)
        size=${line##* } digest=${line#content } digest=${digest%% *}
        # One of another size was cut off by whoever cleared up, or by a crash of the file system.
        if [ "$(stat -c %s -- "$digest" 2>/dev/null)" = "$size" ]; then echo "$digest" >&3; else printf '%s\n' "$line"; fi
        ;;
    path\ *) [ -e "${line#path }" ] || printf '%s\n' "$line" ;;
    esac
done 3>".there.$$"
xargs -r touch -c -- <".there.$$"
xargs -r chmod 0400 -- <".there.$$"
rm -f -- ".there.$$"
