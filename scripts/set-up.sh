#!/bin/sh
# Make .venv with the python3 on PATH and install the project with its development tools into it.
set -eu
cd -- "$(dirname -- "$0")/.."

say() { printf '%s\n' "$*"; }
die() { printf 'set-up: %s\n' "$*" >&2; exit 1; }

# install_package NAME: with apt-get, by root on Debian; anybody else is told by the caller what is missing.
install_package() {
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        return 1
    fi
    say "Installing the Debian package $1 ..."
    log=$(mktemp)
    if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$1"; } \
        >"$log" 2>&1 </dev/null; then
        cat -- "$log" >&2
        rm -f -- "$log"
        return 1
    fi
    rm -f -- "$log"
}

command -v python3 >/dev/null 2>&1 || install_package python3 || die 'There is no python3. Install Python 3.10 to 3.14.'

version=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
case $version in
    3.10 | 3.11 | 3.12 | 3.13 | 3.14) ;;
    *) die "python3 is Python $version, and 3.10 to 3.14 is needed. Put one of these first on PATH." ;;
esac

# Debian keeps ensurepip in a package of its own.
venv_works() { python3 -c 'import ensurepip, venv' >/dev/null 2>&1; }
if ! venv_works; then
    install_package python3-venv || true
    venv_works || die 'python3 -m venv does not work. Install python3-venv (Debian), or a Python with its venv module.'
fi

# The one tool of `make check` that is no Python package; what checks the shell scripts says so if it is missing.
command -v shellcheck >/dev/null 2>&1 || install_package shellcheck ||
    say 'shellcheck is missing and cannot be installed from here; the demo does without it.'

# One test of the doctor plays a clock that is off.
command -v faketime >/dev/null 2>&1 || install_package faketime ||
    say 'faketime is missing and cannot be installed from here; one test is left out.'

if ! .venv/bin/python -c 'import pip, sys; sys.exit(sys.version_info[:2] > (3, 14))' >/dev/null 2>&1; then
    say "Making the virtual environment .venv with Python $version ..."
    python3 -m venv --clear .venv
fi

say 'Installing the project, its development tools and what the example needs into .venv ...'
set -- --editable '.[dev]' --requirement examples/lookouts/requirements.txt
# Over a fresh cache uv takes 25 s for these 180 packages where pip takes 5 minutes. It reads no settings of pip, so that an index of
# the site's own is passed on; with what else there is, pip has to do.
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
index=$(pip config list | sed -n "s/^[a-z:]*\.index-url='\(.*\)'\$/\1/p" | tail -n 1)
with_uv() {
    pip install --quiet --quiet uv && UV_SYSTEM_CERTS=1 UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index} \
        .venv/bin/uv pip install --quiet --compile-bytecode --python .venv/bin/python "$@"
}
with_uv "$@" || {
    say 'uv could not; pip takes a few minutes ...'
    pip install --quiet --quiet "$@"
}
# Where Python is told to write no bytecode, every process of the tests would compile the package again.
.venv/bin/python -m compileall -q src tests
: >.venv/bin/.installed
