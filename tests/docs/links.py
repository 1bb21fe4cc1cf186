"""The links of pages to other sites: listed in docs/external-links.txt, since nothing here fetches them.

`python -m tests.docs.links` writes the list.
"""

from __future__ import annotations

import re

from tests.docs.markdown import PAGES, ROOT, name_of, prose_of

LIST = ROOT / "docs" / "external-links.txt"
_LINK = re.compile(r"\]\((https?://[^)\s]+)\)|<(https?://[^>\s]+)>")
_OTHER_PAGES = (ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md")


def external_links() -> list[str]:
    """A line for each link and page, sorted: the address, a tab, the page."""
    found = {
        f"{marked or bare}\t{name_of(page)}"
        for page in (*PAGES, *_OTHER_PAGES)
        for marked, bare in _LINK.findall(prose_of(page))
    }
    return sorted(found)


if __name__ == "__main__":
    LIST.write_text("".join(f"{line}\n" for line in external_links()), encoding="utf-8")
