"""A hook of the site: of a fence's info string readers see the language, the rest is for tests.

```console run```, ```console shop``` and ```console not-run``` are all console to a reader;
tests/test_readmes.py, tests/test_shop.py and tests/test_own_parts.py type in what is theirs.
"""

from __future__ import annotations

import re
from typing import Any

INFO = re.compile(r"^(```[a-z]+) \S+$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A page as readers see it."""
    return INFO.sub(r"\1", markdown)
