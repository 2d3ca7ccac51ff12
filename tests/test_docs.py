"""The bridge from notebooks to Sphinx, the README made from the start page, and a small site built strictly."""
import base64
import json
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from conftest import LIMIT

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))

import nbdev_sphinx as bridge  # noqa: E402
import readme  # noqa: E402

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII=")
FIGURE = {"output_type": "display_data", "metadata": {},
          "data": {"image/png": base64.b64encode(PNG).decode(), "text/plain": "<Figure>"}}
TWO = {"output_type": "execute_result", "metadata": {}, "data": {"text/plain": "2"}, "execution_count": 1}
FUNCTION = '''
#| export
def scale(
    x: float,  # a length, px
    by: float = 2.,  # the factor, above 0
    *rest,  # ignored
    unit: str = 'px',  # noqa: E501
) -> "Length":  # the scaled length
    "Scale `x`, @eq-scale; see `Length`."
    return Length(x * by)
'''.strip()
CLASS = '''
#| export
@dataclass
class Length:
    "A length [@lin2014coco]."
    value: float  # its size, px
    tags: list = field(default_factory=list)  # names
    _hidden: int = 0

    @property
    def half(self) -> float:
        "Half of it."
        return self.value / 2

    def add(self, other: Length) -> Length:
        "The sum."
        return Length(self.value + other.value)

    def undocumented(self): pass
'''.strip()


def code(source, *outputs, tags=()):
    return dict(cell_type="code", id=cell_id(source), metadata={"tags": list(tags)} if tags else {}, source=source,
                execution_count=None, outputs=list(outputs))


def prose(source): return dict(cell_type="markdown", id=cell_id(source), metadata={}, source=source)


def cell_id(source): return f"c{zlib.crc32(source.encode())}"


def notebook(*cells):
    return {"cells": list(cells), "nbformat": 4, "nbformat_minor": 5,
            "metadata": {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}}


SCALING = """## Scaling

As [@lin2014coco] has it,

$$ y = s x $$ {#eq-scale}

so `scale` doubles; @fig-one shows it."""
LENGTHS = notebook(
    prose("# Lengths\n\n> Lengths and their scaling."), code("#| default_exp lengths"), code("#| export\nimport math"),
    prose(SCALING), code(FUNCTION), code(CLASS), code("#| exports\ndef _secret(x): return x"),
    code("#| export\nUNIT = 'px'  # the unit of every length"), code("study: str = 'demo'", tags=["parameters"]),
    code("#| label: fig-one\n#| fig-cap: A point of $x$ pixels.\nplot_it()", FIGURE),
    code("#| hide\nimport nbdev; nbdev.nbdev_export()"))


def converted(nb=LENGTHS, **links):
    return bridge.convert(nb, "lib", bridge.link_table([nb], "lib") | links, {"lin2014coco"})["cells"]


def test_directives_are_split_from_code():
    assert bridge.split_directives("#| export\n#|label: fig-x\n\n#| fig-cap: \"A: b\"\nx = 1\n#| hide\n") == (
        {"export": "", "label": "fig-x", "fig-cap": "A: b"}, "x = 1\n#| hide")
    assert bridge.split_directives("# a comment\nx = 1") == ({}, "# a comment\nx = 1")
    assert bridge.split_directives("") == ({}, "")


def test_docments_become_parameters():
    (e,) = bridge.entries(bridge.split_directives(FUNCTION)[1], {"Length": "lib.lengths.Length"})
    assert e.signature == "(x: float, by: float=2.0, *rest, unit: str='px') -> lib.lengths.Length"
    assert e.params == [("x", "float", "a length, px"), ("by", "float", "the factor, above 0"), ("rest", "", "ignored"),
                        ("unit", "str", "")]
    assert e.returns == "the scaled length"


@pytest.mark.parametrize("source, params, returns", [
    ("def f(a, b): return a  # body", {"a": "", "b": ""}, ""),
    ("def f(a, b) -> int:  # a sum\n    return a", {"a": "", "b": ""}, "a sum"),
    ("def f(\n    a,  # first\n):  # nothing\n    pass", {"a": "first"}, "nothing"),
    ("def f(\n    a=(1,\n       2),  # a pair\n    *, b=3,  # three\n):\n    pass", {"a": "a pair", "b": "three"}, ""),
])
def test_comments_belong_to_what_they_follow(source, params, returns):
    (e,) = bridge.entries(source)
    assert ({n: c for n, _, c in e.params}, e.returns) == (params, returns)


def test_dataclass_fields_become_parameters():
    (e,) = bridge.entries(bridge.split_directives(CLASS)[1], {"Length": "lib.lengths.Length"})
    assert e.signature == "(value: float, tags: list = list())"
    assert [p[2] for p in e.params] == ["its size, px", "names"]
    assert [(m.kind, m.name, m.signature) for m in e.members] == [
        ("property", "Length.half", ""), ("method", "Length.add", "(other: lib.lengths.Length) -> lib.lengths.Length")]


def test_init_gives_the_arguments_of_a_class():
    source = "class A:\n    n: int = 3\n    def __init__(self,\n        a: int = 1,  # a number\n    ) -> None: pass"
    (e,) = bridge.entries(source)
    assert (e.signature, e.params) == ("(a: int=1)", [("a", "int", "a number")])


def test_private_names_and_imports_have_no_entry():
    assert bridge.entries("import os\nfrom x import y\n_A = 1\ndef _f(): pass\nclass _C: pass") == []


def test_link_table():
    table = bridge.link_table([LENGTHS], "lib")
    assert {table[k] for k in ("scale", "lengths.scale", "lib.lengths.scale")} == {"lib.lengths.scale"}
    assert table["Length.half"] == "lib.lengths.Length.half" and table["UNIT"] == "lib.lengths.UNIT"
    assert "_secret" not in table and "math" not in table


@pytest.mark.parametrize("markdown, myst", [
    ("see [@a; @b2020]", "see {cite:p}`a,b2020`"),
    ("as @key says", "as {cite:t}`key` says"),
    ("@patch and me@key stay", "@patch and me@key stay"),
    ("in @fig-x, @eq-y-1.", "in {numref}`fig-x`, {eq}`eq-y-1`."),
    ("$$ a\n= b $$ {#eq-y}", "$$ a\n= b $$ (eq-y)"),
    ("$$ [@a] $$", "$$ [@a] $$"),
    ("`f`, `f()`, `g`", "{py:obj}`f <lib.m.f>`, {py:obj}`f() <lib.m.f>`, `g`"),
    ("(N, h*w*C) of $a*b$, *so*", "(N, h\\*w\\*C) of $a*b$, *so*"),
    ("# The `f` @eq-y", "# The `f` @eq-y"),
    ("[the `f`](m.ipynb) ``f`` {math}`f`", "[the `f`](m.ipynb) ``f`` {math}`f`"),
    ("```python\n`f` @fig-x\n```\n`f`", "```python\n`f` @fig-x\n```\n{py:obj}`f <lib.m.f>`"),
])
def test_prose_is_rewritten(markdown, myst): assert bridge.rewrite(markdown, {"f": "lib.m.f"}, {"key"}) == myst


def test_placeholders_are_not_tags():
    assert bridge.rewrite("a/<run>/b < 1, `<x>`", {}, html=False) == "a/\\<run>/b < 1, `<x>`"
    assert bridge.rewrite("one<br>two", {}) == "one<br>two"


def test_hidden_cells_go_and_definitions_stay():
    cells = converted()
    text = "\n".join(c["source"] for c in cells)
    for gone in ("nbdev", "#|", "default_exp", "import math", "def scale"): assert gone not in text
    assert "{py:function} scale(" in text and ":param x: a length, px" in text and ":returns: the scaled length" in text
    assert "{py:obj}`Length <lib.lengths.Length>`" in text and "{eq}`eq-scale`" in text
    assert "{py:data} UNIT" in text and ":value: \"'px'\"" in text and "the unit of every length" in text
    (shown,) = [c for c in cells if "_secret" in c["source"]]
    assert shown["metadata"]["tags"] == ["hide-input"]
    (parameters,) = [c for c in cells if "study" in c["source"]]
    assert parameters["metadata"]["tags"] == ["parameters"] and parameters["cell_type"] == "code"


def test_figures_have_a_caption_a_label_and_an_alternative_text():
    (figure,) = [c for c in converted() if "plot_it" in c["source"]]
    assert figure["source"] == "plot_it()"
    assert figure["metadata"]["mystnb"] == {"figure": {"caption": "A point of $x$ pixels.", "name": "fig-one"},
                                            "image": {"alt": "A point of x pixels."}}


@pytest.mark.parametrize("directive, tag", [
    ("echo: false", "remove-input"), ("output: false", "remove-output"), ("code-fold: true", "hide-input")])
def test_display_directives_become_tags(directive, tag):
    (cell,) = converted(notebook(code(f"#| {directive}\nx = 1")))
    assert cell["metadata"]["tags"] == [tag]


def test_conversion_leaves_its_input_alone():
    before = json.dumps(LENGTHS)
    converted()
    assert json.dumps(LENGTHS) == before


def test_contents_follow_the_groups_and_miss_nothing():
    groups = [("A", ["0[1-5]_*"]), ("None", ["99_*"]), ("X", ["x/two", "x/*"])]
    text = bridge.toctrees({"10_data", "01_a", "02_b", "odd", "x/two", "x/one"}, groups)
    assert re.findall(r"^:caption: .*|^\w.*", text, flags=re.M) == [
        ":caption: A", "01_a", "02_b", ":caption: X", "x/two", "x/one", ":caption: More", "10_data", "odd"]


@pytest.mark.parametrize("repository, colab", [
    ("", False), ("https://github.com/who/what", True), ("https://github.com/who/what.git", True),
    ("https://github.com/who/what/", True), ("https://example.org/who/what", False)])
def test_notebooks_are_offered_under_their_promise(repository, colab):
    before = json.dumps(LENGTHS)
    nb = notebook(prose("# Title\n\n> Promise,\n> on two lines.\n\nText."), code("1"))
    first, second = bridge.offer(nb, "experiments/fsd", repository, "trunk/nbs")["cells"]
    title, promise, links, rest = first["source"].split("\n\n")
    assert (title, promise, rest) == ("# Title", "> Promise,\n> on two lines.", "Text.") and second == code("1")
    assert links.startswith(":::{div} notebook-links\n{download}`Download this notebook <fsd.ipynb>`") and links.endswith("\n:::")
    address = "https://colab.research.google.com/github/who/what/blob/trunk/nbs/experiments/fsd.ipynb"
    assert (f"[Open in Colab]({address})" in links) is colab and ("git+https://github.com/who/what`" in links) is colab
    bridge.offer(LENGTHS, "01_lengths", repository)
    assert json.dumps(LENGTHS) == before


def test_html_is_repaired():
    signature = "<dt>f(<dl>\n<dd><em>a</em>,</dd>\n<dd>b</dd>\n</dl>\n)</dt>"
    assert bridge.repaired(signature) == (
        '<dt>f(<div class="sig-params">\n<div><em>a</em>,</div>\n<div>b</div>\n</div>\n)</dt>')
    for other in ('<dl class="field-list"><dt>a</dt><dd>b</dd></dl>', "<dl><dt>a</dt><dd>b</dd></dl>"):
        assert bridge.repaired(other) == other
    equation = '<div class="math-wrapper" id="eq-a">\n<div class="math" id="eq-a">x</div></div>'
    assert bridge.repaired(equation) == equation.replace(' id="eq-a"', "", 1)


INDEX = notebook(
    prose("# Title\n\n> Lead.\n\nSee [one](01_lengths.ipynb), [licence](../LICENSE), [web](https://x.org/a), "
          "[here](#part), @fig-one and [@lin2014coco].\n\n`[a](b)`\n\n:::{note}\nMind it.\n:::"),
    code("#| hide\nimport os"), code("1 + 1", TWO),
    code("#| label: fig-one\n#| fig-cap: A dot.\n#| echo: false\nplot()", FIGURE))


@pytest.fixture
def repository(tmp_path):
    for name in ("nbs", "docs"): (tmp_path / name).mkdir()
    (tmp_path / "nbs/index.ipynb").write_text(json.dumps(INDEX))
    (tmp_path / "docs/refs.bib").write_text((ROOT / "docs/refs.bib").read_text(encoding="utf-8"))
    readme.main(["--root", str(tmp_path)])
    return tmp_path


def test_readme(repository):
    text = (repository / "README.md").read_text(encoding="utf-8")
    assert text.startswith("# Title\n\n> Lead.")
    for part in ("[one](nbs/01_lengths.ipynb)", "[licence](LICENSE)", "[web](https://x.org/a)", "[here](#part)",
                 "Figure 1 and ([Lin et al., 2014](https://arxiv.org/abs/1405.0312))", "`[a](b)`",
                 "> [!NOTE]\n> Mind it.", "```python\n1 + 1\n```\n\n```text\n2\n```",
                 "![Figure 1. A dot.](index_files/fig-one.png)"):
        assert part in text, part
    assert "import os" not in text and "plot()" not in text and "#|" not in text
    assert (repository / "index_files/fig-one.png").read_bytes() == PNG


def checked(root):
    with pytest.raises(SystemExit) as e: readme.main(["--check", "--root", str(root)])
    return e.value.code


@pytest.mark.parametrize("spoil, named", [
    (lambda r: (r / "README.md").write_text("old"), "README.md"),
    (lambda r: (r / "README.md").unlink(), "README.md"),
    (lambda r: (r / "index_files/fig-one.png").write_bytes(b"old"), "fig-one.png"),
    (lambda r: (r / "index_files/other.png").write_bytes(b"stray"), "other.png"),
])
def test_stale_readme_is_caught(repository, spoil, named):
    assert checked(repository) == 0
    spoil(repository)
    assert named in checked(repository)
    readme.main(["--root", str(repository)])
    assert checked(repository) == 0


def test_citation_keys_are_unique_and_complete():
    bib = (ROOT / "docs/refs.bib").read_text(encoding="utf-8")
    keys = re.findall(r"^@\w+\{([^,]+),", bib, flags=re.M)
    assert len(keys) == len(set(keys)) == len(readme.bibliography(bib))


def build(root, *options):
    command = [sys.executable, "-m", "sphinx", "-c", str(ROOT / "docs"), "-q", "-E", "-W", "--keep-going", "-b", "html",
               "-D", "nbdev_library=toy", *options, "-d", str(root / "doctrees"), str(root / "nbs"), str(root / "html")]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)


@pytest.mark.slow
def test_site(tmp_path):
    pytest.importorskip("myst_nb")
    pytest.importorskip("furo")
    nbs = tmp_path / "nbs"
    (nbs / "experiments").mkdir(parents=True)
    korean = "# 실험\n\n> 한 줄 약속.\n\n전경 토큰에 weight를 더 줍니다.\n\nPlain English."
    (nbs / "experiments/one.ipynb").write_text(json.dumps(notebook(prose(korean))))
    (nbs / "01_lengths.ipynb").write_text(json.dumps(LENGTHS))
    start = "# Start\n\n> A start.\n\nSee `scale` in [lengths](01_lengths.ipynb)."
    (nbs / "index.ipynb").write_text(json.dumps(notebook(prose(start))))
    (nbs / "references.md").write_text("# References\n\n```{bibliography}\n```\n")
    done = build(tmp_path)
    assert done.returncode == 0, done.stderr
    page, start = ((tmp_path / "html" / name).read_text(encoding="utf-8") for name in ("01_lengths.html", "index.html"))
    assert 'id="toy.lengths.scale"' in page and 'id="toy.lengths.Length.half"' in page
    assert 'href="01_lengths.html#toy.lengths.scale"' in start and "Definitions" in start
    assert """<span class="pre">'px'</span>""" in page.replace("&#39;", "'")
    assert 'alt="A point of x pixels."' in page and "Figure 1" in page and "Equation (1)" in page
    assert 'href="references.html#' in page and "Microsoft COCO" in (tmp_path / "html/references.html").read_text(encoding="utf-8")
    for html in (page, start):
        assert "#|" not in html and "nbdev_export" not in html
        assert not re.findall(r"""(?:src|<link[^>]*href)=["'](?:https?:)?//[^"']*""", html)
    assert "notebook-links" not in page and 'role="heading">' not in page and 'aria-level="2"' in page
    assert '<div class="sig-params">' in page and not re.search(r"<dl>\s*<dd>", page)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    one = (tmp_path / "html/experiments/one.html").read_text(encoding="utf-8")
    (file,) = re.findall(r'class="reference download internal"[^>]* href="([^"]+)"', one)
    assert (tmp_path / "html/experiments" / file).read_bytes() == (nbs / "experiments/one.ipynb").read_bytes()
    assert "Colab" not in one and '<p lang="ko">전경' in one and "<p>Plain English." in one and re.search('<h1[^>]* lang="ko"', one)
    css = (tmp_path / "html/_static/custom.css").read_text(encoding="utf-8")
    for asset in re.findall(r"url\(([^)]+)\)", css): assert (tmp_path / "html/_static" / asset).exists(), asset



def test_broken_references_fail_the_build(tmp_path):
    pytest.importorskip("myst_nb")
    pytest.importorskip("furo")
    (tmp_path / "nbs").mkdir()
    start = "# Start\n\nSee [nothing](02_gone.ipynb), @fig-none and [@nobody1900]."
    (tmp_path / "nbs/index.ipynb").write_text(json.dumps(notebook(prose(start))))
    done = build(tmp_path)
    assert done.returncode != 0
    for name in ("02_gone.ipynb", "fig-none", "nobody1900"): assert name in done.stderr
