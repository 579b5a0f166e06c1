"""What every interactive page is put together from: a template, and data and scripts that lie inside it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

from numpy.typing import NDArray

_SHARED = __name__.rpartition(".")[0]


def document(
    package: str, *, title: str, footer: str, style: Sequence[str], scripts: Sequence[str], template: str, content: Any
) -> str:
    """Write a page that needs no network: everything lies inside it.

    Args:
        package: beside whose modules the template lies; it extends ``document.html.j2``.
        title: of the document.
        footer: for the template.
        style: texts of style sheets, the later ones weigh more.
        scripts: texts of script elements, in this order.
        template: name of the template.
        content: for the scripts, as JSON.
    """
    page: str = _template_of(package, template).render(
        title=title, footer=footer, style="\n".join(style), scripts=scripts, data=json_inside(content)
    )
    return page


def plotly_page(package: str, *, title: str, footer: str, scripts: Sequence[str], content: Any) -> str:
    """Write a page that explores with plotly.

    Beside the package's modules lie its template ``explorer.html.j2``, its style ``explorer.css``, and its scripts;
    they share one scope with ``plotly_page.js``, which comes first. The page holds plotly's script: about 5 MB.
    """
    own = [text_of(_SHARED, "plotly_page.js"), *(text_of(package, name) for name in scripts)]
    return document(
        package,
        title=title,
        footer=footer,
        style=[text_of(_SHARED, "plotly_page.css"), text_of(package, "explorer.css")],
        scripts=[script_inside(_plotly()), "\n".join(own)],
        template="explorer.html.j2",
        content=content,
    )


def plain_numbers(array: NDArray[Any], digits: int = 7) -> list[Any]:
    """Rounded, as nested lists; what is not finite becomes None, which JSON can say.

    Args:
        array: of any shape.
        digits: significant ones; by default as many as float32 has.
    """
    if array.ndim > 1:
        return [plain_numbers(row, digits) for row in array]
    return [float(f"{value:.{digits}g}") if math.isfinite(value) else None for value in array.tolist()]


def json_inside(content: Any) -> str:
    """JSON for a script element: nothing in it can end the element, and it is plain ASCII."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def script_inside(text: str) -> str:
    """A script for inside a script element: within its strings, nothing may end the element or open a comment."""
    return re.sub(r"<(?=/script|script|!--)", r"\\x3c", text, flags=re.IGNORECASE)


def _plotly() -> str:
    """The whole of plotly.js, as the package brings it."""
    from plotly.offline import get_plotlyjs

    script: str = get_plotlyjs()
    return script


def text_of(package: str, name: str) -> str:
    """A file that lies beside a package's modules."""
    return files(package).joinpath(name).read_text(encoding="utf-8")


@lru_cache(maxsize=8)
def _template_of(package: str, name: str) -> Any:
    """A Jinja template that lies beside a package's modules; what is put into it is escaped."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    loader = FunctionLoader(lambda wanted: text_of(package if wanted == name else _SHARED, wanted))
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=loader
    )
    return environment.get_template(name)
