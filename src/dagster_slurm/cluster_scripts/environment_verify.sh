# shellcheck shell=sh
# environment_verify.sh CACHE NAME: ends with 0 if the entry has every file that it was installed with, and its interpreter
# starts; says otherwise what is wrong.
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
