# shellcheck shell=sh
# poll.sh BASE MAX_BYTES SECONDS OFFSET NAME [OFFSET NAME ...]: what is new in each file, all in one go. While nothing is,
# it may wait so long for something.
# Output for each file that grew: "NAME OFFSET LENGTH NEWLINE" and that many bytes. Names hold no white space. A `status`,
# which is made with its directory, has the length 0 where it is not there any more.
# What becomes of jobs without their directories, Slurm tells.
cd -- "$1" 2>/dev/null || cd /dev || exit 0
shift
# One process opens every file, and opening is what makes NFS look again; `stat` alone would show what it knew
# seconds ago (nfs(5), close-to-open). Files that are not there yet are left out.
# Login nodes have Perl, since Slurm's own `seff` is written in it; where not, each file that grew costs a process, and
# nothing waits. There are ten looks a second at most, fewer of those that take longer, and of those that take a tenth of
# the time, as on a slow NFS, no other. A finer clock than that of proc(5) costs more to load than all the looks, and so do
# the names of ENOENT and ENOTDIR, 2 and 20.
unset PERL5OPT PERL5LIB
# shellcheck disable=SC2016
perl -e '
    my ($max, $wait, @asked) = @ARGV;
    my $uptime = sub { open my $file, "<", "/proc/uptime" or return; (split " ", <$file>)[0] };
    my $until = $wait > 0 && $uptime->();
    $until += $wait if $until;
    my $found;
    binmode STDOUT;
    while (1) {
        my $began = $until && $uptime->();
        for (my $at = 0; $at < @asked; $at += 2) {
            my ($offset, $name) = @asked[$at, $at + 1];
            my $file;
            if (!open $file, "<:unix", $name) {
                $found = print "$name $offset 0\n" if $name =~ m{/status$} && ($! == 2 || $! == 20);
                next;
            }
            next if -d $file || -s _ <= $offset;
            sysseek $file, $offset, 0 or next;
            my ($data, $got) = ("", 1);
            $got = sysread $file, $data, $max - length $data, length $data while $got && length $data < $max;
            $found = printf "%s %d %d\n%s", $name, $offset, length $data, $data if length $data;
        }
        last if $found || !$until;
        my $now = $uptime->();
        my ($took, $left) = ($now - $began, $until - $now);
        last if $left <= 0 || 10 * $took > $wait;
        my $pause = 0.1 + 40 * $took;
        select undef, undef, undef, $pause < $left ? $pause : $left;
    }
' "$@" 2>/dev/null && exit
max_bytes=$1
shift 2
names=
count=0
for word in "$@"; do
    count=$((count + 1))
    [ $((count % 2)) = 1 ] || names="$names $word"
    case $word in */status) [ -e "$word" ] || printf '%s 0 0\n' "$word" ;; esac
done
# shellcheck disable=SC2086
wc -c -- $names 2>/dev/null | while read -r size name; do
    while [ $# -gt 0 ] && [ "$2" != "$name" ]; do shift 2; done
    # The line with the total comes last.
    [ $# -gt 0 ] || break
    length=$((size - $1))
    if [ "$length" -gt 0 ]; then
        [ "$length" -le "$max_bytes" ] || length=$max_bytes
        printf '%s %s %s\n' "$name" "$1" "$length"
        # One process for each file, where `tail` and `head` would be two.
        dd if="$name" bs=65536 iflag=skip_bytes,count_bytes skip="$1" count="$length" status=none
    fi
    shift 2
done
