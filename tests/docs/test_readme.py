"""The two commands, and that every page can be reached."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.docs.links import LIST, external_links
from tests.docs.markdown import PAGES, ROOT, blocks_of, name_of, prose_of

COMMANDS = ["make demo", "make test"]


def test_readme_names_exactly_the_two_commands() -> None:
    shell = [block.text.strip() for block in blocks_of(ROOT / "README.md") if block.language in ("sh", "bash")]
    assert shell == COMMANDS


def test_continuous_integration_runs_exactly_the_test_command() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    code = [line for line in lines if line.strip() and not line.startswith("#")]
    # What it sets up is the shell, the place and the variable CI; the one command that does anything is the last.
    assert code[0] == "set -euo pipefail"
    assert [line for line in code if re.match(r"(make|sh|bash|python|pip|pytest|apt)\b", line)] == [COMMANDS[1]]
    assert code[-1] == COMMANDS[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_make_knows_the_command(command: str) -> None:
    done = subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_readme_links_every_page_of_the_documentation() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pages = [name_of(page) for page in PAGES if re.fullmatch(r"docs/[^/]+\.md", name_of(page))]
    assert [page for page in pages if page != "docs/index.md" and f"({page})" not in readme] == []


def test_the_index_links_every_other_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    names = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert sorted(name for name in names if f"({name}" not in index) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if "://" not in target:
            path, _, heading = target.partition("#")
            linked = (page.parent / path) if path else page
            assert linked.exists(), f"{name_of(page)} links {target}"
            assert not heading or heading in _anchors(linked), f"{name_of(page)} links {target}"


def test_links_to_other_sites_are_listed() -> None:
    listed = LIST.read_text(encoding="utf-8").splitlines()
    assert listed == external_links(), "write the list: python -m tests.docs.links"
    assert [line for line in listed if line.startswith("http://")] == []


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
