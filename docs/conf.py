"""How Sphinx builds the site (`make docs`): the pages as they are, and a reference from the docstrings."""

import re

import dlm

project, author, copyright = "dlm", "the dlm contributors", "the dlm contributors"
version = release = dlm.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme, html_title = "furo", "dlm"
html_show_copyright = False

source_suffix = {".md": "markdown"}
myst_heading_anchors = 3  # as GitHub makes them: links to headings are checked
myst_enable_extensions = ["colon_fence"]

autodoc_default_options = {"members": True, "member-order": "groupwise", "show-inheritance": True}
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
napoleon_custom_sections = [("Class attributes", "params_style")]
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes are told in the text of a class, and not once more


def prepared(app, name, source):
    """Files outside are downloads. The navigation is the index: its headings, and the pages linked to below them."""
    source[0] = re.sub(r"\]\((\.\./[^)]+)\)", r"](path:\1)", source[0])
    if name == "index":
        for heading, rows in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", source[0], re.DOTALL | re.MULTILINE):
            pages = "\n".join(dict.fromkeys(re.findall(r"\]\(([\w/-]+)\.md\)", rows)))
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {heading}\n\n{pages}\n```\n"


def setup(app):
    app.connect("source-read", prepared)
