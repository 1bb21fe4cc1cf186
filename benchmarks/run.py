"""Runs every benchmark on the sandbox cluster, one after the other, and prints their tables.

make bench
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import common

HERE = Path(__file__).resolve().parent
BENCHMARKS = sorted(path for path in HERE.glob("*.py") if path.name not in ("common.py", "run.py"))


def main() -> int:
    """Run them all; the exit code is 1 if one of them failed."""
    failed = []
    with common.running_sandbox():
        for path in BENCHMARKS:
            print(f"\n# {path.stem}", flush=True)
            done = subprocess.run([sys.executable, path], capture_output=True, text=True, check=False)
            tables = [line for line in done.stdout.splitlines() if line.startswith(("|", "##"))]
            print("\n".join(tables), flush=True)
            if done.returncode:
                print(done.stderr[-3000:], file=sys.stderr)
                failed.append(path.name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
