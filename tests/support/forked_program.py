"""Stands in a test's PATH for `python`, `dg`, `dagster` and `dagster-slurm`: the forking server runs what is asked for.

It is itself as good as the process it asks for: it has its exit code, passes its signals on, and takes it along when
it is killed. It imports next to nothing. `forked.programs` fills in SERVER, the socket, and PYTHON, which is executed
where Dagster is not what is run.
"""

# ruff: noqa: PTH100, PTH109, PTH118, PTH119, PTH120, PTH123, PTH208
# With pathlib it would take twice as long.

import array
import os
import re
import sys

SERVER = ""
PYTHON = ""

MODULES = {"dagster": "dagster", "dagster-slurm": "dagster_slurm.cli"}
DG = "from dagster_dg_cli.cli import main; main()"
IMPORTS_DAGSTER = re.compile(r"^(import|from) dagster(_slurm)?\b", re.MULTILINE)


def forked(argv: list[str]) -> list[str] | None:
    """What the server is to run, as kind, name and arguments; None for what is not worth it."""
    name, arguments = os.path.basename(argv[0]), argv[1:]
    if name == "dg":
        return ["text", DG, *arguments]
    if name in MODULES:
        return ["module", MODULES[name], *arguments]
    if arguments[:1] == ["-B"]:  # which multiprocessing passes on
        arguments = arguments[1:]
    if arguments[:1] == ["-m"] and arguments[1:2] and arguments[1].startswith("dagster"):
        return ["module", *arguments[1:]]
    if arguments[:1] == ["-c"] and arguments[-1:] == ["--multiprocessing-fork"]:
        return ["text", *arguments[1:]]
    if arguments and arguments[0].endswith(".py") and imports_dagster(arguments[0]):
        return ["script", *arguments]
    return None


def imports_dagster(path: str) -> bool:
    """Whether a script does so; a payload does not."""
    try:
        with open(path, encoding="utf-8") as file:
            return IMPORTS_DAGSTER.search(file.read()) is not None
    except (OSError, ValueError):
        return False


def ask(program: list[str]) -> int:
    """Have it run by the server, and return how it has ended."""
    import json
    import signal
    import socket

    fds = inherited()
    request = {
        "program": program,
        "cwd": os.getcwd(),
        "env": dict(os.environ),
        "session": True,
        "bound": True,
        "fds": fds,
        "executable": os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "python"),
    }
    data = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(SERVER)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
        connection.sendmsg([f"{len(data):8}".encode()], [rights])
        connection.sendall(data)
        with connection.makefile("r") as answers:
            pid = int(answers.readline())
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, lambda number, _: os.kill(pid, number))
            # Whoever waits for a pipe's end is not to wait for this process's end of it.
            for fd in fds:
                os.close(fd)
            return int(answers.readline())


def inherited() -> list[int]:
    """What this process was given: its streams, and the pipes of multiprocessing."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            os.fstat(int(name))
        except OSError:
            continue  # that of the listing itself
        if int(name) < 3 or os.get_inheritable(int(name)):
            found.append(int(name))
    return sorted(found)


def end_as(status: int) -> None:
    """With the same exit code, or by the same signal."""
    if os.WIFSIGNALED(status):
        import signal

        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status))


def main() -> None:
    """Ask the server, or be Python."""
    program = forked(sys.argv)
    if program is None:
        os.execv(PYTHON, [PYTHON, *sys.argv[1:]])
    end_as(ask(program))


if __name__ == "__main__":
    main()
