"""The site: the pages of this folder, parts of the README files, and the docstrings."""

import fusednorm

project = "fusednorm"
release = fusednorm.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "numpydoc"]
html_theme = "alabaster"
html_theme_options = {"description": fusednorm.__doc__, "page_width": "1000px"}
html_copy_source = False
default_role = "py:obj"
numpydoc_show_class_members = False
autodoc_typehints = "none"
# What is optional is imported where it is used.
autodoc_mock_imports = ["mpi4py"]
myst_heading_anchors = 3
