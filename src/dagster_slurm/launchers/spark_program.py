"""What spark.sh asks, run by the payload's Python: `look [HOME]`, or `wait PAGE SECONDS NODES`."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import NoReturn

# The first release of Java whose classes have the version 45.
_FIRST_CLASSES = 44
_OF_OTHER_JAVA = re.compile(r"class file version (\d+)\.\d+\).*?up to (\d+)", re.DOTALL)
# Java before 17.0.? takes the limits of some control groups for an error, and its drivers fail.
_WITHOUT_CONTAINERS = "-XX:-UseContainerSupport"


def look(given: str) -> None:
    """HOME, VERSION with that of Python, PYTHON, the site's settings, options of Java, and a free port, each a line."""
    home = spark_home(given)
    jars = sorted((home / "jars").glob("spark-core_*.jar"))
    version, scala = (jars[0].stem.rpartition("-")[2], jars[0].name.split("_")[1].split("-")[0]) if jars else ("", "")
    options = java_options(home, version, scala)
    site = os.environ.get("SPARK_CONF_DIR") or (str(home / "conf") if (home / "conf").is_dir() else "")
    python = ".".join(platform.python_version_tuple()[:2])
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
    print(home, f"{version or '?'} {python}", sys.executable, site, " ".join(options), port, sep="\n")


def refuse(reason: str) -> NoReturn:
    """Say why this node has no Spark."""
    print(reason)
    sys.exit(1)


def spark_home(given: str) -> Path:
    """The directory of Spark: the given one, or that of the package."""
    if given:
        if not (Path(given) / "bin" / "spark-class").is_file():
            refuse(f"there is no Spark in {given}: bin/spark-class is missing")
        return Path(given)
    found = importlib.util.find_spec("pyspark")
    if found is None or not found.origin:
        refuse(
            f"there is no pyspark in its environment ({sys.executable}): add it, as with `uv add pyspark` or "
            "`pixi add pyspark`, or give spark_home"
        )
    return Path(found.origin).parent


def java_options(home: Path, version: str, scala: str) -> list[str]:
    """What Java needs here to run Spark; it is tried, since its version does not tell."""
    java = str(Path(os.environ["JAVA_HOME"]) / "bin" / "java") if os.environ.get("JAVA_HOME") else "java"
    said = ""
    for options in ([], [_WITHOUT_CONTAINERS]):
        done = tried(java, options, home, scala)
        if done is None:
            refuse(f"there is no Java ({java}), which Spark needs: load a module, or add openjdk to its environment")
        if done.returncode == 0:
            refuse_without_modules(java, done.stdout, options)
            return options
        said = said or done.stderr
    refuse(reason_of(java, version, said))


def tried(java: str, options: list[str], home: Path, scala: str) -> subprocess.CompletedProcess[str] | None:
    """What Spark's own launcher makes of a daemon's name, in a Java that has to look at its control group; None: none.

    Its classes need the same Java as Spark's.
    """
    command = [java, *options, "-XX:-UsePerfData", "-Xmx128m", "-XshowSettings:system", "-cp", f"{home}/jars/*"]
    command += ["org.apache.spark.launcher.Main", "org.apache.spark.deploy.worker.Worker"]
    variables = {**os.environ, "SPARK_HOME": str(home), "SPARK_SCALA_VERSION": scala}
    try:
        return subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    except OSError:
        return None


def refuse_without_modules(java: str, command: str, options: list[str]) -> None:
    """Spark's options name modules that a small Java may not have."""
    modules = [word for word in command.split("\0") if word.startswith("--add-modules=")]
    if not modules:
        return
    done = subprocess.run([java, *options, *modules, "-version"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        refuse(f"its Java ({java}) lacks a module that Spark needs: {last_line(done.stdout + done.stderr)}")


def reason_of(java: str, version: str, said: str) -> str:
    """Why a Java does not run Spark."""
    classes = _OF_OTHER_JAVA.search(said)
    if classes:
        needed, had = (int(each) - _FIRST_CLASSES for each in classes.groups())
        return f"its Java ({java}) is Java {had}, and Spark {version} needs {needed}"
    return f"its Java ({java}) does not run Spark: {last_line(said)}"


def last_line(text: str) -> str:
    """The last that is no part of a stack."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("\t")]
    return lines[-1] if lines else "it says nothing"


def wait(page: str, seconds: float, count: int) -> None:
    """Until so many workers are alive in the master's table; else, with status 1, the addresses of those that are."""
    until = time.monotonic() + seconds
    here: set[str] = set()
    while True:
        try:
            here = alive(page)
        except (OSError, ValueError) as error:
            print(error, file=sys.stderr)
        if len(here) >= count:
            return
        if time.monotonic() > until:
            print(*sorted(here))
            sys.exit(1)
        time.sleep(0.2)


def alive(page: str) -> set[str]:
    """The addresses of the nodes whose workers are."""
    # Not through a site's proxy.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{page}/json/", timeout=5) as answer:
        workers = json.load(answer)["workers"]
    return {each["host"] for each in workers if each["state"] == "ALIVE"}


what, *given = sys.argv[1:]
if what == "look":
    look(given[0])
else:
    wait(given[0], float(given[1]), int(given[2]))
