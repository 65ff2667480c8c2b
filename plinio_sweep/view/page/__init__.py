"""A study as one page that needs no network: text, style, program and data in one file.

Drawn by a program of our own instead of plotly's: that is fifty times as large, and knows neither
keyboards nor phones nor patterns.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from importlib import resources
from string import Template
from typing import Any

# In the order in which they use each other.
SCRIPTS = (
    *("data.js", "plot.js", "layers.js", "front.js", "table.js"),
    *("tables.js", "seeds.js", "course.js", "main.js"),
)


def page(data: dict[str, Any]) -> str:
    """The page of what `page_data` says."""
    style, script = _file("report.css"), '"use strict";\n' + "\n".join(map(_file, SCRIPTS))
    return Template(_file("report.html")).substitute(
        title=html.escape(data["name"]),
        sentence=html.escape(data["sentence"]),
        # Only what was written here runs or dresses the page, and it loads nothing.
        policy=f"default-src 'none'; img-src data:; script-src {_hash(script)}; "
        f"style-src {_hash(style)}",
        style=style,
        script=script,
        data=embedded(data),
    )


def embedded(data: Any) -> str:
    """`data` as JSON that no HTML parser takes for anything else.

    >>> embedded({"name": "</script>"})
    '{"name":"\\\\u003c/script\\\\u003e"}'
    """
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
