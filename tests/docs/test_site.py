"""The documentation site: what is in its navigation and its reference, and that a bad link would fail it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import dagster_slurm
from dagster_slurm import errors
from tests.docs.markdown import PAGES, ROOT, name_of

SITE = ROOT / "docs" / "site"
# By a pattern, or not for readers.
ELSEWHERE = re.compile(r"README\.md|docs/adr/.*")


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r"^   (/?[\w/-]+)$", (SITE / "index.rst").read_text(encoding="utf-8"), re.MULTILINE)
    pages = {f"/{name_of(page).removesuffix('.md')}" for page in PAGES if not ELSEWHERE.fullmatch(name_of(page))}
    assert sorted(pages - set(listed)) == [], (
        "list the page in docs/site/index.rst, below the heading that it belongs to"
    )
    assert len(listed) == len(set(listed))


def test_every_public_name_is_in_the_reference() -> None:
    text = (SITE / "api.rst").read_text(encoding="utf-8")
    assert [name for name in dagster_slurm.__all__ if f"dagster_slurm.{name}" not in text] == []


@pytest.mark.process
@pytest.mark.skipif(find_spec("myst_parser") is None, reason="its tools need Python 3.11")
def test_a_link_that_leads_nowhere_fails_the_build(tmp_path: Path) -> None:
    """With the settings of the site, for one page."""
    shutil.copy(SITE / "conf.py", tmp_path)
    (tmp_path / "extra").mkdir()
    links = ["index.md#here", "missing.md", "index.md#nowhere", "#astray"]
    text = "# Start\n\n## Here\n\n" + "\n\n".join(f"[There]({link})" for link in links)
    (tmp_path / "index.md").write_text(text)
    argv = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-c", str(tmp_path)]
    argv += ["-D", "root_doc=index", "-D", "include_patterns=index.md", "-D", "html_theme=basic"]
    done = subprocess.run(
        [*argv, str(tmp_path), str(tmp_path / "site")], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode != 0
    warned = [line for line in done.stderr.splitlines() if "WARNING" in line]
    assert len(warned) == 3, done.stderr
    assert all(word in "".join(warned) for word in ("missing.md", "nowhere", "astray"))


TABLES = (ROOT / "docs" / "tables.md").read_text(encoding="utf-8")
# What our own shell tells our own programs.
INTERNAL = {f"DAGSTER_SLURM_{name}" for name in ("ADDRESS", "NODE", "RANKS", "SANDBOX_SIGN", "SANDBOX_STATE")}


def test_every_variable_of_ours_is_in_the_tables() -> None:
    files = [file for suffix in ("py", "sh") for file in (ROOT / "src").rglob(f"*.{suffix}")]
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    found = set(re.findall(r"DAGSTER_SLURM_[A-Z_]+[A-Z]", text)) - INTERNAL
    assert found == set(re.findall(r"DAGSTER_SLURM_[A-Z_]+[A-Z]", TABLES))


def test_every_error_is_in_the_tables_as_it_is() -> None:
    classes = [each for each in vars(errors).values() if isinstance(each, type) and each.__module__ == errors.__name__]
    words = {True: "yes", False: "no"}
    expected = {(each.__name__, words[each.is_of_request], words[each.transient]) for each in classes}
    assert set(re.findall(r"^\| `(\w+Error)` \| (\w+) \| (\w+) \|$", TABLES, re.MULTILINE)) == expected


# What the documents that this project was asked for link to.
ANCHORS_OF_SEEDS = ("Laptop and one-off researcher deployments", "Dagster restarts and Slurm job survival")
TROUBLE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("heading", ANCHORS_OF_SEEDS)
def test_the_seeds_find_what_they_link_to(heading: str) -> None:
    assert f"\n## {heading}\n" in TROUBLE


def test_every_message_of_the_page_on_trouble_is_one_of_ours() -> None:
    rows = re.findall(r"^\| (`.*?`) \|", TROUBLE.partition("## By symptom")[0], re.MULTILINE)
    messages = [message for row in rows for message in re.findall(r"`([^`]+)`", row)]
    assert len(messages) > 15
    source = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "src").rglob("*.py"))
    assert [message for message in messages if message not in source] == []
