"""A hook of MkDocs: shows the references in docstrings, ``:class:`~package.Name```, as ``Name``."""

import re
from typing import Any


def on_page_content(html: str, **_: Any) -> str:
    """Replaces the references of a page."""
    return re.sub(
        r":\w+:<code>(~?)([\w.]+)</code>",
        lambda found: f"<code>{found[2].rpartition('.')[2] if found[1] else found[2]}</code>",
        html,
    )
