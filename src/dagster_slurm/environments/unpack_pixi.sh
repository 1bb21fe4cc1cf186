# shellcheck shell=bash
# unpack_pixi FORM [PROGRAM]: makes `env` and `activate.sh` from the files of a pack, below "$parts/pack". FORM is how the
# unpacking program takes them: as a `directory`, or as a `tar`. PROGRAM is that one; without it, it is "$parts/pixi-unpack".
# shellcheck disable=SC2154 # parts is the installing script's
unpack_pixi() {
    local pack=$parts/pack program=${2-} file packed
    # The files about packages change with each of these; they were sent compressed.
    for file in "$pack"/*.gz "$pack"/channel/*/repodata.json.gz; do
        if [ -e "$file" ]; then gzip -dc <"$file" >"${file%.gz}" && rm -f -- "$file"; fi
    done
    if [ -z "$program" ]; then
        # Not the part itself: others link to it.
        program=$PWD/.pixi-unpack
        cp -- "$parts/pixi-unpack" "$program"
        chmod 700 -- "$program"
    fi
    packed=$pack
    if [ "$1" = directory ]; then
        # Packages that another environment has are not extracted again.
        mkdir -p ../unpacked
        ln -s -- "$(cd ../unpacked && pwd -P)" "$pack/cache"
    else
        # Before 0.7.6 it takes no directory.
        packed=$PWD/.pack.tar
        (cd -- "$pack" && tar -chf "$packed" -- *)
    fi
    "$program" -o "$PWD" -e env "$packed"
    rm -rf -- .pixi-unpack .pack.tar
}
