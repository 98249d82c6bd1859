"""How the documentation is built: `sphinx-build -W -b html docs docs/_build`, offline, in about a minute."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

import figures  # noqa: E402

import neuralgraph  # noqa: E402  (documented from this checkout, installed or not)
from neuralgraph.inference import files as inference_files  # noqa: E402
from neuralgraph.training import checkpoint  # noqa: E402

# the modules that users know by another name than their file's
sys.modules["neuralgraph.wirings"] = neuralgraph.wirings
sys.modules["neuralgraph.plots"] = neuralgraph.plots

project = "neuralgraph"
author = "the authors of neuralgraph"
copyright = "the authors of neuralgraph, MIT licence"
release = version = neuralgraph.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon",
              "made", "mathml", "names"]
exclude_patterns = ["_build", "_made"]
nitpicky = True
nitpick_ignore = [("py:class", "Watched"),  # what a Watcher is told of, said in its own words
                  ("py:class", "DGLGraph"), ("py:class", "Graph")]  # imported for type checkers only

myst_enable_extensions = ["deflist", "dollarmath", "substitution"]
myst_substitutions = {
    "epochs": figures.EPOCHS,
    "checkpoint_format": checkpoint.FORMAT,
    "compiled_format": inference_files.FORMAT,
    "compiled_readable": ", ".join(map(str, inference_files.READABLE)),
    "number_of_selectors": len(neuralgraph.selectors.SELECTORS),
    "hero": f"A wiring of {figures.HERO_EDGES} edges that training chose among those of {len(figures.HERO_BLOCKS)} blocks; "
            f"it reads handwritten digits ({figures.HERO_EPOCHS} epochs, drawn when this page was built).",
}
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_type_aliases = {  # imported for type checkers only
    "Figure": "matplotlib.figure.Figure", "nx.DiGraph": "networkx.DiGraph", "nx.Graph": "networkx.Graph"}
autosummary_generate = False
napoleon_numpy_docstring = False
napoleon_use_rtype = False
python_maximum_signature_line_length = 88
add_module_names = False
autodoc_inherit_docstrings = False
autodoc_default_options = {"show-inheritance": True}
toc_object_entries_show_parents = "hide"
highlight_language = "text"

html_math_renderer = "mathml"
html_theme = "furo"
html_title = f"neuralgraph {release}"
html_static_path = ["_static"]
html_css_files = ["neuralgraph.css"]
html_extra_path = ["_made/site"]
(HERE / "_made" / "site").mkdir(parents=True, exist_ok=True)  # it is looked for before anything is drawn into it
html_copy_source = False
html_show_sphinx = False
