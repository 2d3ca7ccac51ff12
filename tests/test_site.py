"""The rendered documents: what their HTML says, and how they behave in a browser. `make docs` builds them.

The checks in a browser need playwright and a Chromium of the system (on the path, or named by CHROMIUM); without
them they are skipped. FSD_SITE names another folder than _docs/html.
"""
import csv
import functools
import http.server
import os
import re
import shutil
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from conftest import LIMIT

ROOT = Path(__file__).resolve().parent.parent
HTML = Path(os.environ.get("FSD_SITE") or ROOT / "_docs/html").resolve()
if not (HTML / "index.html").exists(): pytest.skip(f"no site in {HTML.name}: run `make docs`", allow_module_level=True)
bs4 = pytest.importorskip("bs4", reason="beautifulsoup4 is not installed (it comes with furo)")

PAGES = sorted(p.relative_to(HTML).as_posix() for p in HTML.rglob("*.html") if "_static" not in p.parts)
SOURCES = [p for p in PAGES if p.startswith("_modules/")]
DOCUMENTS = [p for p in PAGES if p not in SOURCES and p not in ("genindex.html", "py-modindex.html", "search.html")]


@functools.cache
def soup(page): return bs4.BeautifulSoup((HTML / page).read_text(encoding="utf-8"), "html.parser")


@functools.cache
def anchors(page): return {e[k] for e in soup(page).find_all(True) for k in ("id", "name") if e.has_attr(k)} | {""}


# ------------------------------------------------------------------------------------------------ what the HTML says

def test_every_notebook_has_its_page():
    notebooks = {p.relative_to(ROOT / "nbs").with_suffix(".html").as_posix() for p in (ROOT / "nbs").rglob("*.ipynb")
                 if not any(q[0] in "_." for q in p.relative_to(ROOT).parts)}
    assert notebooks <= set(DOCUMENTS), f"no page for {sorted(notebooks - set(DOCUMENTS))}: run `make docs`"


@pytest.mark.parametrize("page", PAGES)
def test_links_and_anchors_resolve(page):
    "Every link, picture, script and style within the site leads to something; none but a link leads elsewhere."
    broken = []
    for e in soup(page).find_all(["a", "img", "script", "link", "source", "iframe"]):
        address = e.get("href") or e.get("src") or ""
        parts = urlsplit(address)
        if parts.scheme or parts.netloc:
            if e.name != "a" and parts.scheme != "data": broken.append(f"{e.name} from elsewhere: {address[:80]}")
            continue
        target = (HTML / page).parent / unquote(parts.path) if parts.path else HTML / page
        if not target.is_file(): broken.append(f"no file: {address}")
        elif target.suffix == ".html" and unquote(parts.fragment) not in anchors(target.resolve().relative_to(HTML).as_posix()):
            broken.append(f"no anchor: {address}")
    assert not broken, broken


@pytest.mark.parametrize("page", DOCUMENTS)
def test_document_is_well_formed(page):
    "A language, a title, a skip link, headings in order, pictures with words, unique anchors, no traces of notebooks."
    html = soup(page)
    assert html.html["lang"] == "en" and html.title.get_text(strip=True)
    skip = html.select_one("a.skip-to-content")
    main = html.find(id=skip["href"].lstrip("#"))
    assert main.name == "article" or main.get("role") == "main"
    levels = [int(h.name[1]) for h in main.find_all(re.compile("^h[1-6]$"))]
    assert levels[:1] == [1] and levels.count(1) == 1, f"levels of the headings: {levels}"
    assert all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False)), f"levels of the headings: {levels}"
    ids = [e["id"] for e in html.find_all(id=True)]
    assert len(ids) == len(set(ids)), sorted({i for i in ids if ids.count(i) > 1})
    for image in main.find_all("img"):
        alt = image.get("alt", "")
        assert len(alt.split()) > 2 and not re.search(r"\.(png|svg|jpe?g)$", alt), f"alternative text of {image.get('src', '')[:60]}: {alt!r}"
    for figure in main.find_all("figure"): assert figure.figcaption.get_text(strip=True), figure.get("id")
    for e in main.find_all(["p", "h1", "h2", "h3", "li"]):
        if len(re.findall("[가-힣]", e.get_text())) > len(re.findall("[A-Za-z]", e.get_text())) and e.name != "li":
            assert e.find_parent(lang="ko") or e.get("lang") == "ko" or e.find(lang="ko"), f"Korean without lang: {e.get_text()[:40]}"
    text = main.get_text()
    assert "#|" not in text and "nbdev_export" not in text and "Traceback (most recent call last)" not in text


@pytest.mark.parametrize("page", [p for p in DOCUMENTS if p.startswith("experiments/")])
def test_experiments_offer_their_notebook(page):
    (link,) = soup(page).select("article a.download")
    file = ((HTML / page).parent / link["href"]).resolve()
    assert file.read_bytes() == (ROOT / "nbs" / page).with_suffix(".ipynb").read_bytes(), "another notebook, or an old one: run `make docs`"


# The guide's AP values were measured by nobody, so none may stand alone. In prose the paragraph says that a value is expected
# or published; in a table its column, row, caption or the paragraph before says so. What a notebook prints may be measured.

with open(ROOT / "results/expected.csv", encoding="utf-8", newline="") as f:
    GUIDE = {v for row in csv.DictReader(f) for k, v in row.items() if k.startswith("expected_AP") and v}
VALUE = re.compile(rf"(?<![\d.\w])(?:{'|'.join(map(re.escape, sorted(GUIDE)))})(?!\d|\.\d|\s*(?:px|ms|s|M|G|MB|GB|°)\b)")
SAID = re.compile(r"expect|publish|기대값|발표", re.I)  # also in Korean
SAID_OR_MEASURED = re.compile(SAID.pattern + "|measured", re.I)


def words(element): return " ".join(element.get_text(" ").split()) if element else ""


def before(element):
    "The last paragraph, item or caption before an element."
    return words(element.find_previous(["p", "li", "figcaption", "caption"]))


def table_rows(table):
    "Rows as lists of cells, where a cell stands in every column that it spans."
    return [[c for c in row.find_all(["td", "th"]) for _ in range(int(c.get("colspan") or 1))] for row in table.find_all("tr")]


def printed_lines(pre):
    "Lines of a printed text, each with the column names above it: those of a Markdown table, or a first line without numbers."
    lines = pre.get_text().strip().splitlines()
    columns = "" if re.search(r"\d", lines[0]) else lines[0]
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if re.fullmatch(r"\|[\s:|-]+\|", below): columns = line
        yield line, columns


def unlabelled(html):
    "The guide's values in a page that nothing near them calls expected or published."
    main, found = html.find("article") or html, []
    for text in main.find_all(string=VALUE):
        if text.find_parent(["script", "style"]): continue
        printed = bool(text.find_parent(class_="cell_output"))
        said = SAID_OR_MEASURED if printed else SAID
        if cell := text.find_parent(["td", "th"]):
            table = text.find_parent("table")
            rows = table_rows(table)
            columns = {i for row in rows for i, c in enumerate(row) if c is cell}
            heads = [words(row[i]) for row in rows for i in columns if i < len(row) and row[i].name == "th" and row[i] is not cell]
            if heads and not any(re.search(r"\bAP\b|(?<![a-z])AP(?=_)|expected|guide", h) for h in heads): continue  # another quantity, such as AP50
            near = [*heads, *(words(c) for row in rows if cell in row for c in row), words(table.caption), before(table)]
        elif pre := text.find_parent("pre"):
            near = [pre.get_text(), before(pre)]
            if printed: near = ["expected"] if all(said.search(line + columns) for line, columns in printed_lines(pre) if VALUE.search(line)) else []
        else:
            near = [words(text.find_parent(["p", "li", "figcaption", "dd", "h1", "h2", "h3", "figure"]) or text.parent)]
        if not any(said.search(n) for n in near): found.append(f"{VALUE.findall(text)} in: {words(text.parent)[:100]}")
    for image in main.find_all("img", alt=VALUE):
        if not SAID.search(image["alt"]): found.append(f"alternative text: {image['alt'][:100]}")
    return found


@pytest.mark.parametrize("page", PAGES)
def test_the_guides_numbers_are_called_expected(page):
    assert not unlabelled(soup(page)), "the guide's AP values without 'expected' or 'published' beside them"


TABLE = "<table><thead><tr><th>method</th><th>{}</th></tr></thead><tbody><tr><th>fsd</th><td><p>{}</p></td></tr></tbody></table>"


@pytest.mark.parametrize("html, good", [
    ("<p>FSD reaches 73.3 AP.</p>", False),
    ("<p>FSD is expected to reach <b>73.3</b> AP.</p>", True),
    ("<p>Expected values follow.</p><p>FSD reaches 73.3 AP.</p>", False),
    ("<p>S-V2 scores 73.5, as its authors published.</p>", True),
    ("<p>We measured 73.3 AP.</p>", False),
    ("<p>173.3, 73.31, 2.73.3 and 73.3 ms</p>", True),
    (TABLE.format("AP", "73.3"), False),
    (TABLE.format("AP, measured", "73.3"), False),
    (TABLE.format("expected AP", "73.3 (73.3 to 73.5)"), True),
    (TABLE.format("AP50", "73.3"), True),
    ("<p>Expected by the guide:</p>" + TABLE.format("AP", "73.3"), True),
    ('<div class="cell_output">' + TABLE.format("AP, measured", "73.3") + "</div>", True),
    ('<div class="cell_output">' + TABLE.format("AP", "73.3") + "</div>", False),
    ("<div class='cell_output'><pre>expected: 73.3\nmeasured: AP50 73.3</pre></div>", True),
    ("<div class='cell_output'><pre>expected: 70.0\nfsd 73.3</pre></div>", False),
    ("<div class='cell_output'><pre>$ table 1\n| method | expected AP |\n|:--|--:|\n| fsd | 73.3 |</pre></div>", True),
    ("<div class='cell_output'><pre>$ table 1\n| method | AP |\n|:--|--:|\n| fsd | 73.3 |</pre></div>", False),
    ("<p>기대값(가이드): AP 73.3</p>", True),
    ("<p>가이드: AP 73.3</p>", False),
    ("<pre>EXPECTED = {'fsd': 73.3}</pre>", True),
    ("<pre>ap = 73.3</pre>", False),
    ("<figure><img alt='Bars at 73.3 AP'></figure>", False),
])
def test_the_check_of_numbers_itself(html, good):
    assert (unlabelled(bs4.BeautifulSoup(html, "html.parser")) == []) is good


# ------------------------------------------------------------------------------------------------ in a browser

CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


@pytest.fixture(scope="module")
def site():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=HTML))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install -e '.[dev]')")
    if not CHROMIUM: pytest.skip("no Chromium on this machine: install chromium, or name one by CHROMIUM=/path/to/it")
    with api.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"], timeout=1000 * LIMIT)
        context = chromium.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
        context.set_default_timeout(1000 * LIMIT)
        yield context
        chromium.close()


@pytest.fixture
def visit(site, browser):
    "Opens a page of the site; at the end of the test nothing may have gone wrong on it."
    page, wrong = browser.new_page(), []
    page.on("console", lambda m: wrong.append(f"console: {m.text}") if m.type == "error" else None)
    page.on("pageerror", lambda e: wrong.append(f"script: {e}"))
    page.on("requestfailed", lambda r: wrong.append(f"failed: {r.url}"))
    page.on("request", lambda r: wrong.append(f"left the site: {r.url}") if not r.url.startswith((site, "data:", "blob:")) else None)
    page.on("response", lambda r: wrong.append(f"{r.status}: {r.url}") if r.status >= 400 else None)

    def go(name):
        page.goto(f"{site}/{name}", wait_until="load")
        page.evaluate("() => window.MathJax?.startup?.promise?.then(() => 0)")
        return page
    yield go
    page.close()
    assert not wrong, wrong


# one of each kind of coloured word in code and signatures is enough for axe, which takes milliseconds for each
FEWER = """() => {
  const seen = new Set();
  for (const e of document.querySelectorAll('.highlight span:not(:has(*)), .sig span:not(:has(*))')) {
    const kind = [e.closest('.cell_input, .cell_output, .sig')?.className, e.parentElement.className, e.className].join();
    if (seen.has(kind)) e.replaceWith(e.textContent);
    seen.add(kind);
  }
}"""


def theme(page, name): page.evaluate("name => { document.body.dataset.theme = name }", name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*DOCUMENTS, *SOURCES[:2], "genindex.html", "search.html"])
def test_page_loads(visit, name):
    "Without errors or requests elsewhere, formulas typeset, pictures there, and nothing wider than a telephone or a desk."
    page = visit(name)
    formulas, set_ = page.locator(".math").count(), page.locator(".math mjx-container").count()
    assert set_ >= formulas and not page.locator("mjx-merror").count(), f"{set_} of {formulas} formulas typeset"
    page.evaluate("() => { for (const i of document.images) i.loading = 'eager' }")
    assert page.evaluate("() => Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth > 0, () => false)))"
                         ".then(all => all.every(Boolean))"), "a picture does not load"
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 844})
        wide = page.evaluate("() => Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)")
        assert wide <= width, f"{wide} px wide in a window of {width} px"


@pytest.mark.slow
@pytest.mark.parametrize("name", [*DOCUMENTS, *SOURCES[-1:], "search.html"])
def test_page_is_accessible(visit, name):
    "axe finds nothing serious or critical; contrast in the light and in the dark."
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed").Axe()
    page, found = visit(name), []
    page.evaluate(FEWER)
    for look, only in (("light", None), ("dark", {"type": "rule", "values": ["color-contrast"]})):
        theme(page, look)
        options = {"resultTypes": ["violations"], **({"runOnly": only} if only else {})}
        for v in axe.run(page, {"exclude": ["mjx-container"]}, options).response["violations"]:
            if v["impact"] in ("serious", "critical"): found += [f"{look}, {v['id']}: {n['html'][:160]}" for n in v["nodes"][:3]]
    assert not found, found


def test_dark_is_dark(visit):
    page = visit("index.html")
    def brightness():
        return sum(map(int, re.findall(r"\d+", page.evaluate("() => getComputedStyle(document.body).backgroundColor"))[:3]))
    theme(page, "light")
    light = brightness()
    theme(page, "dark")
    assert light > 600 and brightness() < 150
    page.emulate_media(color_scheme="light")
    theme(page, "auto")
    assert brightness() == light


def test_search_finds(visit):
    page = visit("search.html?q=foreground")
    page.wait_for_selector("#search-results li a")
    found = page.inner_text("#search-results")
    assert "mask" in found.lower(), found[:400]


def test_keyboard_reaches_the_text_and_what_scrolls(visit):
    page = visit("05_losses.html")
    for _ in range(6):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.className").startswith("skip-to-content"): break
    else: pytest.fail("no skip link among the first stops")
    page.wait_for_function("() => document.querySelector('a.skip-to-content').getBoundingClientRect().top >= 0")
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_function("() => [...document.querySelectorAll('pre')].every(e => (e.scrollWidth > e.clientWidth) === (e.tabIndex === 0))")
