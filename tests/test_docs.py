"""The bridge from notebooks to Sphinx, the README made from the start page, and a small site."""
import base64
import copy
import json
import re
import subprocess
import sys

import pytest
from conftest import LIMIT, ROOT
from nbformat.v4 import new_code_cell, new_notebook, new_output
from nbformat.v4 import new_markdown_cell as prose

sys.path.insert(0, str(ROOT / "docs"))

import nbdev_sphinx as bridge  # noqa: E402
import readme  # noqa: E402

PIXEL = ("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5C"
         "YII=")
FIGURE = new_output("display_data", {"image/png": PIXEL, "text/plain": "<Figure>"})
TWO = new_output("execute_result", {"text/plain": "2"}, execution_count=1)
FUNCTION = '''#| export
def scale(
    x: float,  # a length, px
    by: float = 2.,  # the factor, above 0
    *rest,  # ignored
    unit_of_length: str = 'px',  # noqa: E501
) -> "Length":  # the scaled length
    "Scale `x`, @eq-scale; see `Length`."
    return Length(x * by)'''
CLASS = '''#| export
@dataclass
class Length:
    "A length [@lin2014coco]."
    value: float  # its size, px
    tags: list = field(default_factory=list)  # names
    _hidden: int = 0
    @property
    def half(self) -> float: "Half of it."
    def add(self, other: Length) -> Length: "The sum."
    def undocumented(self): pass'''


def code(source, *outputs, **metadata):
    return new_code_cell(source, outputs=list(outputs), metadata=metadata)


def notebook(*cells):
    kernel = dict(name="python3", display_name="python3", language="python")
    return new_notebook(cells=list(cells), metadata=dict(kernelspec=kernel))


SCALING = "As [@lin2014coco] has it,\n\n$$ y = s x $$ {#eq-scale}\n\n`scale` doubles; see @fig-one."
PLOT = "#| label: fig-one\n#| fig-cap: A point of $x$ pixels.\nplot_it()"
LENGTHS = notebook(
    prose("# Lengths\n\n> Lengths and their scaling."), code("#| default_exp lengths"),
    code("#| export\nimport math"), prose(SCALING), code(FUNCTION), code(CLASS),
    code("#| exports\ndef _formula(x): return x"),
    code("#| export\nUNIT = 'px'  # the unit of every length"),
    code("study: str = 'demo'", tags=["parameters"]), code(PLOT, FIGURE),
    code("#| hide\nimport nbdev; nbdev.nbdev_export()"))


def converted(*cells):
    "The cells after conversion, which leaves its input alone."
    before = copy.deepcopy(cells)
    after = bridge.convert(notebook(*cells), "lib", {"lin2014coco"})["cells"]
    assert cells == before
    return after


@pytest.mark.parametrize("source, directives, rest", [
    ("#| export\n#|label: fig-x\n\n#| fig-cap: \"A: b\"\nx = 1\n#| hide\n",
     {"export": "", "label": "fig-x", "fig-cap": "A: b"}, "x = 1\n#| hide"),
    ("# a comment\nx = 1", {}, "# a comment\nx = 1"),
    ("", {}, ""),
])
def test_directives_are_split_from_code(source, directives, rest):
    assert bridge.split_directives(source) == (directives, rest)


@pytest.mark.parametrize("source, signature, fields", [
    (FUNCTION, "(x: float, by: float=2.0, *rest, unit_of_length: str='px') -> Length",
     {"param float x": "a length, px", "param float by": "the factor, above 0",
      "param  rest": "ignored", "param str unit_of_length": "", "returns": "the scaled length"}),
    ("def f(a, b): return a  # body", "(a, b)", {}),
    ("def f(a, b) -> int:  # a sum\n    return a", "(a, b) -> int", {"returns": "a sum"}),
    ("def f(\n    a,  # first\n):  # nothing\n    pass", "(a)",
     {"param  a": "first", "returns": "nothing"}),
    ("def f(\n    a=(1,\n       2),  # a pair\n    *, b=3,  # three\n):\n    pass",
     "(a=(1, 2), *, b=3)", {"param  a": "a pair", "param  b": "three"}),
    ("class A:\n    n: int = 3\n    def __init__(self,\n        a: int = 1,  # a number\n"
     "    ) -> None: pass", "(a: int=1)", {"param int a": "a number"}),
])
def test_docments_belong_to_the_argument_before_them(source, signature, fields):
    (entry,) = bridge.entries(source)
    assert (entry.signature, entry.fields) == (signature, fields)


def test_dataclass_fields_become_parameters():
    (e,) = bridge.entries(CLASS)
    assert e.signature == "(value: float, tags: list = list())"
    assert e.fields == {"param float value": "its size, px", "param list tags": "names"}
    assert [(m.kind, m.name, m.signature) for m in e.members] == [
        ("property", "Length.half", ""), ("method", "Length.add", "(other: Length) -> Length")]


def test_private_names_and_imports_have_no_entry():
    source = "import os\nfrom x import y\n_A = 1\ndef _f(): pass\nclass _C: pass"
    assert bridge.entries(source) == []


@pytest.mark.parametrize("markdown, myst", [
    ("see [@a; @b2020]", "see {cite:p}`a,b2020`"),
    ("as @key says", "as {cite:t}`key` says"),
    ("@patch and me@key stay", "@patch and me@key stay"),
    ("in @fig-x, @eq-y-1.", "in {numref}`fig-x`, {eq}`eq-y-1`."),
    ("$$ a\n= b $$ {#eq-y}", "$$ a\n= b $$ (eq-y)"),
    ("$$ [@a] $$", "$$ [@a] $$"),
    ("`f`, `m.f()`, `f(x)`", "{py:obj}`f`, {py:obj}`m.f()`, `f(x)`"),
    ("(N, h*w*C) of $a*b$, *so*", "(N, h\\*w\\*C) of $a*b$, *so*"),
    ("# The `f` @eq-y", "# The `f` @eq-y"),
    ("one<br>two", "one<br>two"),
    ("[the `f`](m.ipynb) ``f`` {math}`f`", "[the `f`](m.ipynb) ``f`` {math}`f`"),
    ("```python\n`f` @fig-x\n```\n`f`", "```python\n`f` @fig-x\n```\n{py:obj}`f`"),
])
def test_prose_is_rewritten(markdown, myst):
    assert bridge.rewrite(markdown, {"key"}) == myst
    assert bridge.rewrite("a/<run>/b < 1, `<x>`", html=False) == "a/\\<run>/b < 1, `<x>`"


def test_hidden_cells_go_and_definitions_stay():
    cells = converted(*LENGTHS.cells)
    text = "\n".join(c["source"] for c in cells)
    assert not re.search(r"nbdev|#\||default_exp|import math|def scale", text)
    for part in ("{py:module} lib.lengths\n", "{py:function} scale(", ":returns: the scaled length",
                 ":param float x: a length, px", "{py:obj}`Length`", "{eq}`eq-scale`",
                 "{py:data} UNIT", ":value: \"'px'\"", "the unit of every length"):
        assert part in text, part
    tags = {c["source"]: c["metadata"]["tags"] for c in cells if c["cell_type"] == "code"}
    assert tags == {"def _formula(x): return x": [],
                    "study: str = 'demo'": ["parameters"], "plot_it()": []}


@pytest.mark.parametrize("directive, alt", [("", "A point of x pixels."),
                                            ("#| fig-alt: One dot.\n", "One dot.")])
def test_figures_have_a_caption_a_label_and_an_alternative_text(directive, alt):
    (cell,) = converted(code(directive + PLOT))
    assert cell["source"] == "plot_it()"
    assert cell["metadata"]["mystnb"] == {
        "figure": {"caption": "A point of $x$ pixels.", "name": "fig-one"}, "image": {"alt": alt}}


@pytest.mark.parametrize("directive, tag", [
    ("echo: false", "remove-input"), ("output: false", "remove-output"),
    ("code-fold: true", "hide-input")])
def test_display_directives_become_tags(directive, tag):
    (cell,) = converted(code(f"#| {directive}\nx = 1"))
    assert cell["metadata"]["tags"] == [tag]


def test_contents_follow_the_groups_and_miss_nothing():
    groups = [("A", ["0[1-5]_*"]), ("None", ["99_*"]), ("X", ["x/two", "x/*"])]
    text = bridge.toctrees({"10_data", "01_a", "02_b", "odd", "x/two", "x/one"}, groups)
    assert re.findall(r"^:caption: .*|^\w.*", text, flags=re.M) == [
        ":caption: A", "01_a", "02_b", ":caption: X", "x/two", "x/one",
        ":caption: More", "10_data", "odd"]


@pytest.mark.parametrize("repository, colab", [
    ("", False), ("https://github.com/who/what", True), ("https://github.com/who/what.git", True),
    ("https://github.com/who/what/", True), ("https://example.org/who/what", False)])
def test_notebooks_are_offered_under_their_promise(repository, colab):
    cells = [prose("# Title\n\n> Promise,\n> on two lines.\n\nText."), code("1")]
    before = copy.deepcopy(cells)
    nb = bridge.offer(notebook(*cells), "experiments/fsd", repository, "trunk/nbs")
    title, promise, links, text = nb["cells"][0]["source"].split("\n\n")
    assert (title, promise, text) == ("# Title", "> Promise,\n> on two lines.", "Text.")
    assert links.startswith("```{container} notebook-links\n"
                            "{download}`Download this notebook <fsd.ipynb>`")
    address = "colab.research.google.com/github/who/what/blob/trunk/nbs/experiments/fsd.ipynb"
    assert (f"[Open in Colab](https://{address})" in links) is colab
    assert ("git+https://github.com/who/what`" in links) is colab
    assert cells == before and nb["cells"][1] == before[1]


def test_html_is_repaired():
    signature = "<dt>f(<dl>\n<dd><em>a</em>,</dd>\n<dd>b</dd>\n</dl>\n)</dt>"
    assert bridge.repaired(signature) == (
        '<dt>f(<div class="sig-params">\n<div><em>a</em>,</div>\n<div>b</div>\n</div>\n)</dt>')
    other = '<dl class="field-list"><dt>a</dt><dd>b</dd></dl><dl><dt>a</dt><dd>b</dd></dl>'
    assert bridge.repaired(other) == other
    equation = '<div class="math-wrapper" id="eq-a">\n<div class="math" id="eq-a">x</div></div>'
    assert bridge.repaired(equation) == equation.replace(' id="eq-a"', "", 1)


LINKS = ("See [one](01_lengths.ipynb), [licence](../LICENSE), [web](https://x.org/a), "
         "[here](#part), @fig-one and [@lin2014coco].\n\n`[a](b)`")
INDEX = notebook(
    prose(f"# Title\n\n> Lead.\n\n{LINKS}"), code("#| hide\nimport os"), code("1 + 1", TWO),
    code("#| label: fig-one\n#| fig-cap: A dot.\n#| echo: false\nplot()", FIGURE))


@pytest.fixture
def repository(tmp_path):
    for name in ("nbs", "docs"):
        (tmp_path / name).mkdir()
    (tmp_path / "nbs/index.ipynb").write_text(json.dumps(INDEX))
    (tmp_path / "docs/refs.bib").write_text((ROOT / "docs/refs.bib").read_text(encoding="utf-8"))
    readme.main(tmp_path)
    return tmp_path


def test_readme(repository):
    text = (repository / "README.md").read_text(encoding="utf-8")
    assert text.startswith("# Title\n\n> Lead.")
    paper = "([Lin et al., 2014](https://arxiv.org/abs/1405.0312))"
    for part in ("[one](nbs/01_lengths.ipynb)", "[licence](LICENSE)", "[web](https://x.org/a)",
                 f"[here](#part), Figure 1 and {paper}",
                 "`[a](b)`", "```python\n1 + 1\n```\n\n```text\n2\n```",
                 "![Figure 1. A dot.](index_files/fig-one.png)\n\n*Figure 1. A dot.*"):
        assert part in text, part
    assert "import os" not in text and "plot()" not in text and "#|" not in text
    assert (repository / "index_files/fig-one.png").read_bytes() == base64.b64decode(PIXEL)


@pytest.mark.parametrize("name, content", [
    ("README.md", b"old"), ("README.md", None), ("index_files/fig-one.png", b"old"),
    ("index_files/other.png", b"stray")])
def test_stale_readme_is_caught(repository, name, content):
    readme.main(repository, check=True)
    if content:
        (repository / name).write_bytes(content)
    else:
        (repository / name).unlink()
    with pytest.raises(SystemExit, match=f"out of date: {name}; run"):
        readme.main(repository, check=True)
    readme.main(repository)
    readme.main(repository, check=True)


def build(root):
    options = ["-c", ROOT / "docs", "-q", "-E", "-W", "--keep-going", "-b", "html",
               "-D", "nbdev_library=toy", "-d", root / "doctrees", root / "nbs", root / "html"]
    return subprocess.run([sys.executable, "-m", "sphinx", *map(str, options)],
                          capture_output=True, text=True, timeout=LIMIT)


@pytest.mark.slow
def test_site(tmp_path):
    korean = "# 실험\n\n> 한 줄 약속.\n\n전경 토큰에 weight를 더 줍니다.\n\nPlain English."
    start = "# Start\n\n> A start.\n\nSee `scale` and `bend` in [lengths](01_lengths.ipynb)."
    notebooks = {"experiments/one": notebook(prose(korean)),
                 "01_lengths": LENGTHS, "index": notebook(prose(start))}
    nbs, html = tmp_path / "nbs", tmp_path / "html"
    (nbs / "experiments").mkdir(parents=True)
    for name, content in notebooks.items():
        (nbs / f"{name}.ipynb").write_text(json.dumps(content))
    (nbs / "references.md").write_text("# References\n\n```{bibliography}\n```\n")
    done = build(tmp_path)
    assert done.returncode == 0, done.stderr
    one, page, start, references = ((html / f"{name}.html").read_text(encoding="utf-8")
                                    for name in [*notebooks, "references"])
    assert 'id="toy.lengths.scale"' in page and 'id="toy.lengths.Length.half"' in page
    assert 'href="01_lengths.html#toy.lengths.scale"' in start and "Definitions" in start
    assert '<code class="docutils literal notranslate"><span class="pre">bend</span>' in start
    assert page.count('href="#toy.lengths.Length" title="toy.lengths.Length"') == 4
    assert """<span class="pre">'px'</span>""" in page.replace("&#39;", "'")
    assert 'alt="A point of x pixels."' in page and "Figure 1" in page and "Equation (1)" in page
    assert 'href="references.html#' in page and "Microsoft COCO" in references
    for text in (page, start):
        assert not re.search(r"""(src|<link[^>]*href)=["'](https?:)?//|#\||nbdev_export""", text)
    assert "notebook-links" not in page and page.count('<div class="sig-params">') == 1
    assert 'role="heading" aria-level="2">' in page and 'role="heading">' not in page
    (file,) = re.findall(r'class="reference download internal"[^>]* href="([^"]+)"', one)
    original = (nbs / "experiments/one.ipynb").read_bytes()
    assert (html / "experiments" / file).read_bytes() == original and "Colab" not in one
    assert '<p lang="ko">전경' in one and "<p>Plain English." in one
    assert re.search('<h1[^>]* lang="ko"', one)
    css = (html / "_static/custom.css").read_text(encoding="utf-8")
    assert all((html / "_static" / asset).exists() for asset in re.findall(r"url\((.+?)\)", css))


def test_broken_references_fail_the_build(tmp_path):
    (tmp_path / "nbs").mkdir()
    start = "# Start\n\nSee [nothing](02_gone.ipynb), @fig-none and [@nobody1900]."
    (tmp_path / "nbs/index.ipynb").write_text(json.dumps(notebook(prose(start))))
    done = build(tmp_path)
    assert done.returncode != 0
    for name in ("02_gone.ipynb", "fig-none", "nobody1900"):
        assert name in done.stderr
