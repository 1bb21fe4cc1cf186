"""A STAND-IN for pixi-unpack 0.7.10, for tests: not the real program, and no code of it. Needs py-rattler.

It takes the same steps over the same Rust crates, and leaves the same: `env`, and `activate.sh` with absolute paths.
PIXI_PACK_STAND_IN_VERSION is the version.
"""

import argparse
import asyncio
import json
import os
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from rattler import Channel, RepoData, Subdir, install
from rattler.shell import ActivationVariables, PathModificationBehavior, Shell, activate

VERSION = os.environ.get("PIXI_PACK_STAND_IN_VERSION", "0.7.10")


class FailedError(Exception):
    """What the real program prints behind `Error: `."""


def options():
    parser = argparse.ArgumentParser(prog="pixi-unpack", description="A stand-in, for tests.", allow_abbrev=False)
    parser.add_argument("-o", "--output-directory", type=Path, default=Path.cwd())
    parser.add_argument("-e", "--env-name", default="env")
    parser.add_argument("-s", "--shell", default="bash")
    parser.add_argument("-V", "--version", action="version", version=f"pixi-unpack {VERSION}")
    parser.add_argument("pack_file", nargs="?", type=Path, default=Path("environment.tar"))
    return parser.parse_args()


def say(line):
    print(line, file=sys.stderr, flush=True)


def unpack(asked, pack):
    try:
        about = json.loads((pack / "pixi-pack.json").read_text())
    except OSError as error:
        raise FailedError(f"Could not read metadata file: {error.strerror} (os error {error.errno})") from error
    if about["version"] != "1":
        raise FailedError(f"Unsupported pixi-pack version: {about['version']}")
    if about["platform"] != str(Subdir.current()):
        raise FailedError("The pack was created for a different platform")
    prefix = (asked.output_directory / asked.env_name).absolute()
    install_conda(pack, prefix)
    install_wheels(pack, prefix)
    # py-rattler takes this process's PATH in place of an empty one; the real program has none. No entry is "-".
    variables = ActivationVariables(None, ["-"], PathModificationBehavior.Prepend)
    script = activate(prefix, variables, Shell.bash, Subdir.current()).script
    (asked.output_directory / "activate.sh").write_text(script.replace("/bin:-:", "/bin:", 1))


def install_conda(pack, prefix):
    records = []
    for directory in sorted(path for path in (pack / "channel").iterdir() if path.is_dir()):
        index = RepoData.from_path(directory / "repodata.json")
        records += index.into_repo_data(Channel((pack / "channel").resolve().as_uri()))
    say(f"⏳ Extracting and installing {len(records)} packages to {pack / 'cache'}...")
    try:
        asyncio.run(install(records, prefix, cache_dir=pack / "cache", show_progress=False))
    except Exception as error:
        raise FailedError(f"Could not create prefix: could not install packages: {error}") from error
    (prefix / "conda-meta" / "history").write_text("// not relevant for pixi but for `conda run -p`")


def install_wheels(pack, prefix):
    wheels = sorted((pack / "pypi").glob("*.whl"))
    if not wheels:
        return
    library = next(prefix.glob("lib/python3.*"), None)
    if library is None:
        raise FailedError("Could not install all pypi packages: No python record found.")
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as content:
            content.extractall(library / "site-packages")


def main():
    asked = options()
    try:
        if asked.pack_file.is_dir():
            if tuple(map(int, VERSION.split("."))) < (0, 7, 6):
                raise FailedError("Could not unarchive: Is a directory (os error 21)")
            unpack(asked, asked.pack_file)
        else:
            with tempfile.TemporaryDirectory() as work:
                try:
                    with tarfile.open(asked.pack_file) as tar:
                        tar.extractall(work)
                except (tarfile.TarError, EOFError, OSError) as error:
                    raise FailedError(f"Could not unarchive: could not unpack archive: {error}") from error
                unpack(asked, Path(work))
    except FailedError as error:
        say(f"Error: {error}")
        return 1
    say(f"💫 Finished unpacking to {asked.output_directory}.")
    return 0


try:
    status = main()
except SystemExit as error:
    status = error.code if isinstance(error.code, int) else 0
sys.stdout.flush()
# py-rattler 0.28.0 ends one process in six by a signal as the interpreter is taken down.
os._exit(status)
