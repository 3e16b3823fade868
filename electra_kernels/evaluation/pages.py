"""HTML pages from the templates of this package; pictures are inside the page, which needs no other file."""

import base64
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape


def render(template: str, **values: Any) -> str:
    """The page of a template in ``templates/``; every value is escaped in HTML."""
    return _ENVIRONMENT.get_template(template).render(values)


def _base64(png: bytes) -> str:
    return base64.b64encode(png).decode()


_ENVIRONMENT = Environment(
    loader=PackageLoader("electra_kernels.evaluation"),
    autoescape=select_autoescape(["html"]),
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
_ENVIRONMENT.filters |= {"base64": _base64, "number": format}
