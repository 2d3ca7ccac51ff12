"""Sphinx settings: `sphinx-build -c docs nbs _docs/html` renders the notebooks as stored."""
import sys
from configparser import ConfigParser
from importlib.util import find_spec
from pathlib import Path

from fsd_sdpose.studies import pages

here = Path(__file__).parent
sys.path.insert(0, str(here))
ini = ConfigParser(delimiters=["="])
ini.read(here.parent / "settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]

project, author, release = cfg["lib_name"], cfg["author"], cfg["version"]
copyright = author
extensions = ["myst_nb", "sphinx_copybutton", "sphinxcontrib.bibtex", "nbdev_sphinx"]
exclude_patterns = ["_*", "**/_*", "**/.*"]

# the notebooks
nbdev_library = cfg["lib_path"]
nbdev_groups = [
    ("Guide", ["guide/quickstart", "guide/train*", "guide/*data*", "guide/use*", "guide/*"]),
    ("Definitions", ["0[0-6]_*"]),
    ("People and pictures", ["0[7-9]_*", "10_*"]),
    ("Evaluation and training", ["1[1-6]_*"]),
    ("Studies and results", ["1[7-9]_*", "20_*"]),
    ("Use", ["2[1-9]_*"]),
    ("Experiments", ["experiments/ap_table", *(f"experiments/{p}" for p in pages()),
                     "experiments/*"]),
    ("Measurements", ["benchmarks*", "determinism*", "reliability*"]),
    ("Reference", ["references"]),
]
# these pages offer their notebook, in Colab too where the repository is on GitHub
nbdev_downloads = ["experiments/*", "guide/*"]
nbdev_repository = (cfg.get("git_url", ""), f"{cfg['branch']}/{cfg['nbs_path']}")
nb_execution_mode = "off"
nb_merge_streams = True
nb_output_stderr = "remove"
nb_render_markdown_format = "myst"
nb_code_prompt_show = nb_code_prompt_hide = "Source"
myst_enable_extensions = ["alert", "amsmath", "attrs_inline", "deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 3
numfig = True
numfig_format = {"figure": "Figure %s"}
math_eqref_format = "Equation ({number})"
bibtex_bibfiles = ["refs.bib"]
bibtex_reference_style = "author_year"

# API entries
add_module_names = False
maximum_signature_line_length = 70
python_display_short_literal_types = True
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"
viewcode_follow_imported_members = False
nitpicky = True
# types of other libraries have no page here
nitpick_ignore_regex = [("py:.*", rf"(?!{nbdev_library}).*")]

# the site: one MathJax file, local fonts, nothing from elsewhere
mathjax_path = "tex-svg-full.js"
mathjax_files = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static/mathjax"
html_static_path = ["_static", str(mathjax_files / mathjax_path)]
html_theme = "furo"
html_title = project
html_logo = html_favicon = "_static/logo.svg"
html_css_files = ["custom.css"]
html_js_files = ["keyboard.js"]
html_show_sourcelink = html_copy_source = html_show_sphinx = False
pygments_style, pygments_dark_style = "default", "github-dark"
fonts = {"font-stack": "'Inter Variable', system-ui, sans-serif",
         "font-stack--monospace": "'JetBrains Mono Variable', ui-monospace, monospace"}
brand = ["color-brand-primary", "color-brand-content", "color-brand-visited"]
html_theme_options = {"navigation_with_keys": True, "footer_icons": [],
                      "light_css_variables": dict.fromkeys(brand, "#0b6e6e") | fonts,
                      "dark_css_variables": dict.fromkeys(brand, "#4fc3c3") | fonts}
