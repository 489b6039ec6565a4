"""Configuration of the documentation site. `make docs` builds it; every warning is an error."""

from importlib import metadata

project = "gh_assets"
release = metadata.version("gh_assets")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
exclude_patterns = ["images"]
html_theme = "furo"
html_title = f"gh_assets {release}"
html_static_path: list[str] = []
pygments_style = "default"
pygments_dark_style = "monokai"

# Headings may be linked from other pages, as on GitHub.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

napoleon_google_docstring = False
napoleon_use_rtype = False
autodoc_typehints = "none"  # numpydoc sections give the types
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
