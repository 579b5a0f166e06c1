"""What every interactive page is put together from: a template, and data and scripts that lie inside it."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from importlib.resources import files
from typing import Any


def json_inside(content: Any) -> str:
    """JSON for a script element: nothing in it can end the element, and it is plain ASCII."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def script_inside(text: str) -> str:
    """A script for inside a script element: within its strings, nothing may end the element or open a comment."""
    return re.sub(r"<(?=/script|script|!--)", r"\\x3c", text, flags=re.IGNORECASE)


def plotly_script() -> str:
    """The whole of plotly.js, as the package brings it."""
    from plotly.offline import get_plotlyjs

    script: str = get_plotlyjs()
    return script


def text_of(package: str, name: str) -> str:
    """A file that lies beside a package's modules."""
    return files(package).joinpath(name).read_text(encoding="utf-8")


@lru_cache(maxsize=8)
def template_of(package: str, name: str) -> Any:
    """A Jinja template that lies beside a package's modules; what is put into it is escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(text_of(package, name))
