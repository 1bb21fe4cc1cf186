"""Build the documentation site into build/site: a warning, or a link or an anchor that leads nowhere, fails it."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Build it; 0 also where Sphinx's Markdown cannot be installed."""
    if find_spec("myst_parser") is None:
        print("Left out: the documentation site, whose tools need Python 3.11 or later.")
        return 0
    from sphinx.cmd.build import main as build  # noqa: PLC0415 - a tool of developers, which may be missing

    # What was built before would hide the warnings of pages that have not changed.
    anew = ["--fail-on-warning", "--keep-going", "--fresh-env", "--quiet", "--conf-dir", str(ROOT / "docs" / "site")]
    code = build([*anew, "--doctree-dir", str(ROOT / "build" / "doctrees"), str(ROOT), str(ROOT / "build" / "site")])
    if code == 0:
        print(f"The documentation: {ROOT / 'build' / 'site' / 'index.html'}")
    return code


if __name__ == "__main__":
    sys.exit(main())
