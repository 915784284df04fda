"""The site: Markdown pages of this folder, and what is read from the code (commands, recipe keys, public API).

`make docs` builds it into build/site, every warning an error. Nothing is fetched, neither when it is built nor when it
is read: fonts and scripts are those of the theme's package.
"""

import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
# The help of commands is as wide as the page, and importing a module finds no GPU.
os.environ |= {"COLUMNS": "96", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "NO_COLOR": "1"}

from neuroimagen import __version__  # noqa: E402

project = "neuroimagen"
author = "The neuroimagen authors"
copyright = "The neuroimagen authors, Apache-2.0"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_design",
    "site_parts.command_pages",
    "site_parts.docstrings",
    "site_parts.notebooks",
    "site_parts.recipe_keys",
]
exclude_patterns = ["site_parts", "images"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"
python_maximum_signature_line_length = 88

html_theme = "pydata_sphinx_theme"
html_title = f"neuroimagen {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "neuroimagen"},
    "header_links_before_dropdown": 6,
    "navigation_depth": 3,
    "secondary_sidebar_items": ["page-toc"],
    "primary_sidebar_end": [],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_sidebars = {"index": []}
