"""A hook of MkDocs: references in docstrings, ``:class:`~package.Name```, and links in notebooks, as on any page."""

import re
from typing import Any


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Replaces the references of a page, and the links of a notebook, which mkdocs-jupyter leaves as they are."""
    if page.file.src_uri.endswith(".ipynb"):
        html = re.sub(r'href="([\w-]+)\.(?:md|ipynb)(#[^"]*)?"', r'href="../\1/\2"', html)
    return re.sub(
        r":\w+:<code>(~?)([\w.]+)</code>",
        lambda found: f"<code>{found[2].rpartition('.')[2] if found[1] else found[2]}</code>",
        html,
    )
