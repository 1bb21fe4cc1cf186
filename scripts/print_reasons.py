"""Print every reason of a job's that a library of Slurm has a code for, one a line. Usage: print_reasons.py LIBRARY."""

from __future__ import annotations

import ctypes
import sys

# The first is the library's function from 24.11 on.
FUNCTIONS = ("slurm_job_state_reason_string", "slurm_job_reason_string")


def main() -> None:
    """Print them."""
    library = ctypes.CDLL(sys.argv[1])
    name = next(getattr(library, each) for each in FUNCTIONS if hasattr(library, each))
    name.restype = ctypes.c_char_p
    codes = [name(number).decode("ascii") for number in range(400)]
    # Beyond its last reason it prints the number, or always the same.
    print(*dict.fromkeys(code for code in codes if not code.isdecimal()), sep="\n")


if __name__ == "__main__":
    main()
