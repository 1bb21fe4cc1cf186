# shellcheck shell=sh
# Verbs: what is kept by its content, inputs and results, and environments.

# content_missing DIRECTORY: of the lines on stdin, `content SHA256 SIZE` or `path PATH`, prints those that are not there.
# SIZE is `-` if any will do. What is there was used just now: whoever clears up by age leaves it.
content_missing() {
    umask 077
    mkdir -p -- "$1/.incoming" && cd -- "$1" || exit 74
    asked=.asked.$$
    trap 'rm -f -- "$asked" "$asked.there"' EXIT
    cat >"$asked" || exit 74
    # One of another size was cut off by whoever cleared up, or by a crash of the file system. One process for all.
    sed -n 's/^content \([0-9a-f]*\) .*/\1/p' "$asked" |
        xargs -r stat --printf 'content %n %s\ncontent %n -\n' -- 2>/dev/null >"$asked.there"
    grep '^content ' "$asked" | grep -vxF -f "$asked.there"
    sed -n 's/^path //p' "$asked" | while IFS= read -r path; do
        [ -e "$path" ] || printf 'path %s\n' "$path"
    done
    sed -n 's/^content \([0-9a-f]*\) -$/\1/p' "$asked.there" | {
        xargs -r sh -c 'touch -c -- "$@" && chmod 0400 -- "$@"' sh
    }
}

# content_store DIRECTORY NAME: what has arrived as DIRECTORY/.incoming/NAME, a directory of files named by their SHA-256, becomes
# content. Another process may be at the same. Prints the names of those that are something else, and removes them.
content_store() {
    cd -- "$1/.incoming/$2" 2>/dev/null || exit 0
    odd=$(find . -type f ! -name '.*' -printf '%f\0' | xargs -0 -r sha256sum -- | awk '$1 != $2 { print $2 }')
    for name in $odd; do
        printf '%s\n' "$name"
        rm -f -- "$name" || exit 74
    done
    # What is gone, the other process has moved: both go on with the rest.
    said=$(find . -type f ! -name '.*' -printf '%f\0' | xargs -0 -r sh -c 'chmod 0400 -- "$@"; mv -f -t ../.. -- "$@"' sh 2>&1)
    if [ -n "$(find . -type f ! -name '.*' | head -n 1)" ]; then
        printf '%s\n' "$said" >&2
        exit 74
    fi
    # In place of an empty directory another process may have put its own (rename(2)), which that one stores; whoever removes
    # all then removes what was not looked at, or fails with "Directory not empty".
    cd / || exit 74
    rmdir -- "$1/.incoming/$2" 2>/dev/null || :
}

# data_place WORK DATA: three lines on stdin for each input: `content` or `path`, its SHA-256 or its path, and its name in
# WORK. What is there is left as it is: it was put there by an earlier try, and its job may be running.
data_place() {
    work=$1 data=$2
    mkdir -p -- "$work" && cd -- "$work" || exit 74
    while IFS= read -r kind && IFS= read -r target && IFS= read -r name; do
        [ ! -e "$name" ] || continue
        case $name in */*) mkdir -p -- "${name%/*}" || exit 74 ;; esac
        if [ "$kind" = content ]; then
            # Gone since it was asked for.
            [ -f "$data/$target" ] || exit 65
            ln -T -- "$data/$target" "$name" 2>/dev/null || ln -s -T -- "$data/$target" "$name" || [ -e "$name" ] || exit 74
        else
            ln -s -T -- "$target" "$name" || [ -e "$name" ] || exit 74
        fi
    done
}

# data_links BASE: unpacks a tar stream of links in BASE: one process for thousands. What is there is left as it is.
data_links() { cd -- "$1" && tar -x --skip-old-files -f -; }

# data_list DIRECTORY: size, time of the last change and name of every file below it, links to files as well; each ends with
# a NUL. To open a directory makes NFS look again (nfs(5), close-to-open).
data_list() {
    cd -- "$1" 2>/dev/null || exit 0
    find . -xtype f -exec stat -L --printf '%s %Y %n\0' -- {} +
}

# data_sums DIRECTORY: the SHA-256 of each file named on stdin, in their order; names end with a NUL.
data_sums() { cd -- "$1" && xargs -0 -r sha256sum --; }

# data_read DIRECTORY: the content of each file named on stdin, one behind the other; names end with a NUL.
data_read() { cd -- "$1" && xargs -0 -r cat --; }

# data_keep WORK RESULT: the files and directories of WORK that are named on stdin become the directory RESULT, read-only, as a
# whole or not at all. WORK stays as it is, so that this may be done again; what is in RESULT already stays, too.
data_keep() {
    work=$1 result=$2 part=${2%/*}/.part.${2##*/}.$$
    trap 'rm -rf -- "$part"' EXIT
    mkdir -p -- "$part" && cd -- "$work" || exit 74
    while IFS= read -r name; do
        [ ! -e "$result/$name" ] || continue
        case $name in */*) mkdir -p -- "$part/${name%/*}" || exit 74 ;; esac
        # Without a copy, where the file system has hard links.
        cp -alH -T -- "$name" "$part/$name" 2>/dev/null && continue
        rm -rf -- "${part:?}/$name"
        cp -aH -T -- "$name" "$part/$name" || exit 74
    done
    find "$part" -type f -exec chmod a-w -- {} + || exit 74
    mv -T -- "$part" "$result" 2>/dev/null && exit
    # It was published before. mv -T refuses to move into it.
    [ -d "$result" ] && { cp -aln -T -- "$part" "$result" 2>/dev/null || cp -an -T -- "$part" "$result"; }
}

# environment_begin CACHE KEY OWNER STALE_SECONDS HOW DEAD: prints `ready ENTRY` if there is one for KEY, `mine` if OWNER
# may build it, or `busy HOLDER`. With HOW `build` one that is there does not count, with `find` and `peek` it prints `none`
# otherwise; `peek` changes nothing at all. A lease that was not touched for STALE_SECONDS is void, and so is that of DEAD, a
# holder that the caller knows to be gone.
environment_begin() {
    cache=$1 key=$2 owner=$3 stale=$4 how=$5 dead=$6
    leases=$cache/.leases
    if [ "$how" != build ] && [ -e "$cache/$key/.complete" ] && [ -e "$cache/$key/activate.sh" ]; then
        # A link to nothing: the interpreter that it was made with is gone.
        if [ -x "$cache/$key/env/bin/python" ] || [ ! -L "$cache/$key/env/bin/python" ]; then
            # When it was used last.
            [ "$how" = peek ] || touch -c -- "$cache/$key/.complete"
            echo "ready $(readlink -- "$cache/$key")"
            exit
        fi
    fi
    case $how in find | peek)
        echo none
        exit
        ;;
    esac
    umask 077
    mkdir -p -- "$leases" "$cache/parts" || exit 74
    if ln -s -T -- "$owner" "$leases/$key" 2>/dev/null; then
        echo mine
        exit
    fi
    holder=$(readlink -- "$leases/$key") || holder=
    # By the file system's own clock.
    : >"$leases/.now.$$" || exit 74
    age=$(($(stat -c %Y -- "$leases/.now.$$") - $(stat -c %Y -- "$leases/$key" 2>/dev/null || stat -c %Y -- "$leases/.now.$$")))
    rm -f -- "$leases/.now.$$"
    if [ "$holder" = "$owner" ]; then
        echo mine
    elif [ "$holder" = "$dead" ] || [ "$age" -gt "$stale" ]; then
        # One after the other, or two would take it over, each from the other.
        (
            flock -w 5 9 || exit 1
            [ "$(readlink -- "$leases/$key")" = "$holder" ] || exit 1
            rm -f -- "$leases/$key" && ln -s -T -- "$owner" "$leases/$key"
        ) 9>"$leases/.takeover" && echo mine || echo "busy $holder"
    else
        echo "busy $holder"
    fi
}

# environment_lease CACHE KEY OWNER HOW: with HOW `touch` keeps OWNER's lease from becoming stale, with `leave` gives it up.
environment_lease() {
    lease=$1/.leases/$2
    [ "$(readlink -- "$lease")" = "$3" ] || exit 0
    case $4 in
    touch) touch -h -c -- "$lease" ;;
    leave) rm -f -- "$lease" ;;
    esac
}

# environment_install CACHE KEY TOKEN PYTHON SETUP INSTALL CHECK DESCRIPTION: installs the entry KEY.TOKEN from the parts on
# stdin, lines of a digest and a name, by the lines of bash INSTALL; then it becomes the entry for KEY, by the rename of a
# link. Ends with 65 if a
# part is damaged, which is then removed, with 70 if INSTALL does, with 75 if it fails otherwise, and with 76 if what it has made does not work.
environment_install() {
    cache=$1 key=$2 entry=$1/$2.$3 name=$2.$3 python=$4 setup=$5 install=$6 check=$7 description=$8
    umask 077
    trap 'rm -rf -- "$entry"' EXIT
    # Login nodes have small ones, of memory.
    mkdir -p -- "$entry/.parts" "$entry/.tmp" && cd -- "$entry" || exit 74
    while read -r digest part; do
        case $part in */*) [ -d ".parts/${part%/*}" ] || mkdir -p -- ".parts/${part%/*}" ;; esac
        # Beside each other in one directory, under their own names, without a copy.
        ln -- "$cache/parts/$digest" ".parts/$part" 2>/dev/null || ln -s -- "$cache/parts/$digest" ".parts/$part" || exit 74
        printf '%s  %s\n' "$digest" "$part"
    done >.digests
    # They were checked when they came; since then others may have been at them, or the disk.
    damaged=$(cd .parts && sha256sum --check --quiet ../.digests 2>/dev/null | sed -n 's/: FAILED.*//p')
    if [ -n "$damaged" ]; then
        printf '%s\n' "$damaged" | while read -r part; do
            rm -f -- "$cache/parts/$(awk -v part="$part" 'substr($0, 67) == part { print $1 }' .digests)"
        done
        echo "Damaged on the cluster: $damaged" >&2
        exit 65
    fi
    # shellcheck disable=SC2016 # bash expands them
    parts=$entry/.parts python=$python TMPDIR=$entry/.tmp bash -c 'set -e; eval "$1"; eval "$2"' bash \
        "$setup" "$install" >&2 </dev/null
    status=$?
    [ "$status" != 70 ] || exit 70
    [ "$status" = 0 ] || exit 75
    rm -rf -- .parts .tmp .digests
    [ -f activate.sh ] || {
        echo 'It has no activate.sh' >&2
        exit 76
    }
    if [ "$check" = yes ] && [ -e env/bin/python ]; then
        # shellcheck disable=SC2016 # bash expands them
        bash -c 'eval "$1"; . ./activate.sh; exec env/bin/python -B -c "import sys"' bash "$setup" >&2 </dev/null || exit 76
    fi
    find . -type f -printf '%s %P\n' -o -type l -printf 'link %P\n' | LC_ALL=C sort >.listing || exit 74
    {
        printf 'name %s\nmade %s\nfiles %s\n' "$name" "$(date +%s)" "$(wc -l <.listing)"
        printf 'size_bytes %s\nlisting %s\n' "$(awk '$1 != "link" { sum += $1 } END { print sum + 0 }' .listing)" "$(cksum <.listing)"
        printf 'description %s\n' "$description"
    } >.complete.part || exit 74
    # After a crash of the file system a link must not point to what was never written.
    sync -f . 2>/dev/null
    mv -- .complete.part .complete && ln -s -T -- "$name" "$cache/.$name" && mv -f -T -- "$cache/.$name" "$cache/$key" || exit 74
    trap - EXIT
}

# environment_share CACHE ENTRY: lets the group read an environment, and nobody but its owner write to it. The directories
# above it up to that of CACHE can be passed through; what else lies in them stays as it is. Status 74 if that cannot be done.
environment_share() {
    cache=$1 entry=$1/$2
    chmod -R g+rX,go-w -- "$entry" && chmod g+x,go-w -- "$cache" "${cache%/*}" || exit 74
}

# environment_list CACHE: what lies there.
#   now EPOCH                       by the file system's clock
#   entry NAME KIND USED BYTES TEXT KIND is `current`, `superseded`, `deployed` or `partial`; USED is when it was used last; TEXT
#                                   is what was noted when it was installed, in JSON
#   parts COUNT BYTES
environment_list() {
    cd -- "$1" 2>/dev/null || exit 0
    : >".now.$$" || exit 74
    echo "now $(stat -c %Y ".now.$$")"
    rm -f ".now.$$"
    for name in *.*; do
        if [ ! -d "$name" ] || [ -L "$name" ]; then continue; fi
        if [ ! -e "$name/.complete" ]; then
            echo "entry $name partial $(stat -c %Y "$name") 0 {}"
            continue
        fi
        kind=superseded
        [ "$(readlink "${name%.*}")" != "$name" ] || kind=current
        [ ! -e "$name/.deployed" ] || kind=deployed
        sed -n "s/^size_bytes //p; s/^description //p" "$name/.complete" | {
            read -r bytes && read -r text
            echo "entry $name $kind $(stat -c %Y "$name/.complete") $bytes $text"
        }
    done
    [ ! -d parts ] || echo "parts $(find parts -type f -printf '%s\n' | awk '{ n++; sum += $1 } END { print n + 0, sum + 0 }')"
}

# environment_verify CACHE NAME: ends with 0 if the entry has every file that it was installed with, and its interpreter
# starts; says otherwise what is wrong.
environment_verify() {
    cd -- "$1/$2" || exit 74
    [ -e .complete ] || {
        echo 'it was never completed' >&2
        exit 1
    }
    # What Python compiles later belongs to nobody's listing.
    now=$(find . -type f -printf '%s %P\n' -o -type l -printf 'link %P\n' | LC_ALL=C sort)
    missing=$(printf '%s\n' "$now" | LC_ALL=C comm -13 - .listing | grep -v '[.]listing$' | head -n 5)
    [ -z "$missing" ] || {
        echo "these are missing, or have another size: $missing" >&2
        exit 1
    }
    # As a job enters it: what ends with an error in what packages bring for that is of no account.
    [ ! -e env/bin/python ] || PYTHONNOUSERSITE=1 bash -c 'unset -v PYTHONPATH PYTHONHOME; . ./activate.sh; exec env/bin/python -B -c "import sys"' >&2
}

days_before() {
    echo "@$((now - $1 * 86400))"
}

# environment_remove CACHE PART_DAYS: removes the entries on stdin, lines of a name and when it was used last, unless it
# was used since; and parts that nothing was installed from for PART_DAYS days. Prints `removed NAME`, or `kept NAME`.
environment_remove() {
    cd -- "$1" || exit 74
    while read -r name used; do
        marker=$name/.complete
        [ -e "$marker" ] || marker=$name
        if [ "$(stat -c %Y "$marker" 2>/dev/null)" != "$used" ]; then
            echo "kept $name"
            continue
        fi
        # First the link, then the name: nobody finds half of it.
        [ "$(readlink "${name%.*}")" != "$name" ] || rm -f -- "${name%.*}"
        gone=.removed.$name.$$
        if mv -T -- "$name" "$gone" && remove_tree "$gone"; then
            echo "removed $name"
        else
            echo "kept $name"
        fi
    done
    # By the clock of the files, which is not this machine's.
    : >".now.$$" && now=$(stat -c %Y -- ".now.$$") && rm -f -- ".now.$$" || exit 74
    [ ! -d parts ] || find parts -maxdepth 1 -type f ! -newermt "$(days_before "$2")" -delete
    # Packages that were extracted for environments of which none is left: those that are have their files, too. While one is
    # installed, it may be about to take them.
    if [ -d unpacked ] && [ -z "$(ls .leases 2>/dev/null)" ]; then
        find unpacked -mindepth 1 -maxdepth 1 -type d ! -newermt "$(days_before 1)" | while read -r package; do
            [ -n "$(find "$package" -type f -links +1 -print -quit)" ] || rm -rf -- "$package" "$package.lock"
        done
    fi
    # Releases days_before had the first.
    for incoming in .incoming parts/.incoming; do
        [ ! -d "$incoming" ] || find "$incoming" -mindepth 1 -maxdepth 1 ! -newermt "$(days_before 2)" -exec rm -rf {} +
    done
}
