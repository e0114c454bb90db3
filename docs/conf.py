"""Sphinx builds the site from this folder: `make docs`."""

import os
import sys
import tomllib
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS), str(DOCS.parent / "src")]

import equipoise  # noqa: E402 - of this folder

_project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]
project, description, release = _project["name"], _project["description"], equipoise.__version__
author, copyright = "The equipoise authors", "The equipoise authors"
extensions = ["myst_parser", "sphinx_copybutton", "sphinx.ext.githubpages", "equipoise_docs"]
exclude_patterns = ["_build", "_ext", "_templates"]
templates_path = ["_templates"]
nitpicky = True

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
highlight_language = "text"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title, html_short_title = f"{project} {release}", project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_baseurl = os.environ.get("DOCS_URL", "")  # set where the site is published
html_math_renderer = "mathml"
html_copy_source = False  # the Markdown of each page is beside it
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1d5fbf", "color-brand-content": "#1d5fbf"},
    "dark_css_variables": {"color-brand-primary": "#7fb2f7", "color-brand-content": "#7fb2f7"},
    "top_of_page_buttons": ["view"],
}
pygments_dark_style = "github-dark"

linkcheck_timeout = 20
linkcheck_retries = 2
