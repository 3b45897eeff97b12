"""HTML pages that hold all they need: templates of the package, with its styles and scripts put into them."""

from __future__ import annotations

from importlib.resources import files
from typing import Any


def rendered(package: str, name: str, **values: Any) -> str:
    """The page of a template beside a package's modules; what is put into it is text unless it says that it is markup.

    In a template ``file(NAME)`` is another file of the package as it stands, and ``|tojson`` is JSON that cannot end a
    script element.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    def read(name: str) -> str:
        return files(package).joinpath(name).read_text(encoding="utf-8")

    environment = Environment(
        loader=FunctionLoader(read), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.globals["file"] = lambda name: Markup(read(name))
    return environment.get_template(name).render(values)
