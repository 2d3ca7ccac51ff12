"""The rendered documents: what their HTML says, and how they behave in a browser.

`make docs` builds them; FSD_SITE names another folder than _docs/html. The checks in a browser need
playwright and a Chromium (on the path, or named by CHROMIUM); without them they are skipped.
"""
import csv
import os
import re
import sys
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from conftest import LIMIT, NOTEBOOKS, ROOT

sys.path.insert(0, str(ROOT / "tools"))

from screenshots import CHROMIUM, SETTLE, served  # noqa: E402

HTML = Path(os.environ.get("FSD_SITE") or ROOT / "_docs/html").resolve()
if not (HTML / "index.html").exists():
    pytest.skip(f"no site in {HTML.name}: run `make docs`", allow_module_level=True)
bs4 = pytest.importorskip("bs4", reason="beautifulsoup4 is not installed (it comes with furo)")

PAGES = sorted(p.relative_to(HTML).as_posix() for p in HTML.rglob("*.html")
               if "_static" not in p.parts)
SOURCES = [p for p in PAGES if p.startswith("_modules/")]
LISTS = ["genindex.html", "py-modindex.html", "search.html"]
DOCUMENTS = [p for p in PAGES if p not in SOURCES + LISTS]


@cache
def soup(page):
    return bs4.BeautifulSoup((HTML / page).read_text(encoding="utf-8"), "html.parser")


@cache
def anchors(page):
    return {e.get(key, "") for e in soup(page).find_all(True) for key in ("id", "name")}


# ------------------------------------------------------------------------------ what the HTML says

def test_every_notebook_has_its_page():
    pages = {p.relative_to(ROOT / "nbs").with_suffix(".html").as_posix() for p in NOTEBOOKS}
    missing = sorted(pages - set(DOCUMENTS))
    assert not missing, f"no page for {missing}: run `make docs`"


@pytest.mark.parametrize("page", PAGES)
def test_links_and_anchors_resolve(page):
    "What the site refers to is there; none but a link leads elsewhere."
    broken = []
    for element in soup(page).find_all(["a", "img", "script", "link", "source", "iframe"]):
        address = element.get("href") or element.get("src") or ""
        parts = urlsplit(address)
        target = (HTML / page).parent / unquote(parts.path) if parts.path else HTML / page
        if parts.scheme or parts.netloc:
            resolves = element.name == "a" or parts.scheme == "data"
        elif target.suffix == ".html" and target.is_file():
            name = target.resolve().relative_to(HTML).as_posix()
            resolves = unquote(parts.fragment) in anchors(name)
        else:
            resolves = target.is_file()
        if not resolves:
            broken.append(f"{element.name}: {address[:80]}")
    assert not broken, broken


def is_korean(text):
    return len(re.findall("[가-힣]", text)) > len(re.findall("[A-Za-z]", text))


@pytest.mark.parametrize("page", DOCUMENTS)
def test_document_is_well_formed(page):
    "A language, a title, a skip link, headings in order, pictures with words, unique anchors."
    html = soup(page)
    assert html.html["lang"] == "en" and html.title.get_text(strip=True)
    main = html.find(id=html.select_one("a.skip-to-content")["href"].lstrip("#"))
    assert main.name == "article" or main.get("role") == "main"
    levels = [int(h.name[1]) for h in main.find_all(re.compile("^h[1-6]$"))]
    assert levels[:1] == [1] and levels.count(1) == 1, f"levels of the headings: {levels}"
    assert all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False)), levels
    ids = [e["id"] for e in html.find_all(id=True)]
    assert len(ids) == len(set(ids)), sorted({i for i in ids if ids.count(i) > 1})
    alts = [image.get("alt", "") for image in main.find_all("img")]
    wordless = [a for a in alts if len(a.split()) < 3 or re.search(r"\.(png|svg|jpe?g)$", a)]
    assert not wordless, f"alternative texts: {wordless}"
    assert all(f.figcaption.get_text(strip=True) for f in main.find_all("figure"))
    for e in main.find_all(["p", "h1", "h2", "h3"]):
        marked = e.get("lang") == "ko" or e.find_parent(lang="ko") or e.find(lang="ko")
        assert marked or not is_korean(e.get_text()), f"Korean without lang: {e}"
    traces = re.findall(r"#\||nbdev_export|Traceback \(most recent call last\)", main.get_text())
    assert not traces, f"traces of the notebook: {traces}"


@pytest.mark.parametrize("page", [p for p in DOCUMENTS if p.startswith("experiments/")])
def test_experiments_offer_their_notebook(page):
    (link,) = soup(page).select("article a.download")
    offered = ((HTML / page).parent / link["href"]).resolve().read_bytes()
    notebook = (ROOT / "nbs" / page).with_suffix(".ipynb").read_bytes()
    assert offered == notebook, "another notebook, or an old one: run `make docs`"


# The guide's AP values were measured by nobody, so none may stand alone. In prose the paragraph
# says that a value is expected or published; in a table its column, row, caption or the paragraph
# before says so. What a notebook prints may be measured.

with open(ROOT / "results/expected.csv", encoding="utf-8", newline="") as f:
    GUIDE = {v for row in csv.DictReader(f) for k, v in row.items()
             if k.startswith("expected_AP") and v}
VALUE = re.compile(rf"(?<![\d.\w])(?:{'|'.join(map(re.escape, sorted(GUIDE)))})"
                   r"(?!\d|\.\d|\s*(?:px|ms|s|M|G|MB|GB|°)\b)")
LABEL = r"expect|publish|기대값|발표"  # also in Korean
AP_COLUMN = re.compile(r"\bAP\b|(?<![a-z])AP(?=_)|expected|guide")


def words(element):
    return " ".join(element.get_text(" ").split()) if element else ""


def words_before(element):
    "The last paragraph, item or caption before an element."
    return words(element.find_previous(["p", "li", "figcaption", "caption"]))


def around(cell):
    "The heads of a cell's columns; its row, and the caption and paragraph of its table."
    table = cell.find_parent("table")
    rows = [[c for c in row.find_all(["td", "th"]) for _ in range(int(c.get("colspan") or 1))]
            for row in table.find_all("tr")]  # a cell stands in every column that it spans
    columns = {i for row in rows for i, c in enumerate(row) if c is cell}
    heads = [words(row[i]) for row in rows for i in columns
             if i < len(row) and row[i].name == "th" and row[i] is not cell]
    beside = [words(c) for row in rows if cell in row for c in row]
    return heads, [*beside, words(table.caption), words_before(table)]


def printed_lines(pre):
    "Lines of a printed text, each with the column names above it where it is a table."
    lines = pre.get_text().strip().splitlines()
    columns = "" if re.search(r"\d", lines[0]) else lines[0]
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if re.fullmatch(r"\|[\s:|-]+\|", below):  # of a Markdown table
            columns = line
        yield line, columns


def is_labelled(text):
    "Whether something near a value calls it expected or published."
    printed, pre = text.find_parent(class_="cell_output"), text.find_parent("pre")
    label = re.compile(f"{LABEL}|measured" if printed else LABEL, re.I)
    if cell := text.find_parent(["td", "th"]):
        heads, near = around(cell)
        if heads and not any(map(AP_COLUMN.search, heads)):
            return True  # another quantity, such as AP50
        near += heads
    elif pre and printed:
        return all(label.search(line + columns) for line, columns in printed_lines(pre)
                   if VALUE.search(line))
    elif pre:
        near = [pre.get_text(), words_before(pre)]
    else:
        blocks = ["p", "li", "figcaption", "dd", "h1", "h2", "h3", "figure"]
        near = [words(text.find_parent(blocks) or text.parent)]
    return any(map(label.search, near))


def unlabelled(html):
    "The guide's values in a page that nothing near them calls expected or published."
    main = html.find("article") or html
    found = [f"{VALUE.findall(text)} in: {words(text.parent)[:100]}"
             for text in main.find_all(string=VALUE)
             if not text.find_parent(["script", "style"]) and not is_labelled(text)]
    alts = [image["alt"] for image in main.find_all("img", alt=VALUE)]
    return found + [alt for alt in alts if not re.search(LABEL, alt, re.I)]


@pytest.mark.parametrize("page", PAGES)
def test_the_guides_numbers_are_called_expected(page):
    assert not unlabelled(soup(page)), "AP values without 'expected' or 'published' beside them"


OUTPUT = "<div class='cell_output'>{}</div>"
TABLE = ("<table><thead><tr><th>method</th><th>{}</th></tr></thead>"
         "<tbody><tr><th>fsd</th><td><p>{}</p></td></tr></tbody></table>")


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
    (OUTPUT.format(TABLE.format("AP, measured", "73.3")), True),
    (OUTPUT.format(TABLE.format("AP", "73.3")), False),
    (OUTPUT.format("<pre>expected: 73.3\nmeasured: AP50 73.3</pre>"), True),
    (OUTPUT.format("<pre>expected: 70.0\nfsd 73.3</pre>"), False),
    (OUTPUT.format("<pre>$ table 1\n| run | expected AP |\n|:-|-:|\n| fsd | 73.3 |</pre>"), True),
    (OUTPUT.format("<pre>$ table 1\n| run | AP |\n|:-|-:|\n| fsd | 73.3 |</pre>"), False),
    ("<p>기대값(가이드): AP 73.3</p>", True),
    ("<p>가이드: AP 73.3</p>", False),
    ("<pre>EXPECTED = {'fsd': 73.3}</pre>", True),
    ("<pre>ap = 73.3</pre>", False),
    ("<figure><img alt='Bars at 73.3 AP'></figure>", False),
])
def test_the_check_of_numbers_itself(html, good):
    assert (unlabelled(bs4.BeautifulSoup(html, "html.parser")) == []) is good


# ------------------------------------------------------------------------------------ in a browser

@pytest.fixture(scope="module")
def browser():
    "A browser's context, and the address of the site."
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM:
        pytest.skip("no Chromium on this machine: install one, or name it by CHROMIUM=/path/to/it")
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with served(HTML) as site, api.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=options, timeout=1000 * LIMIT)
        viewport = {"width": 1280, "height": 900}
        context = chromium.new_context(viewport=viewport, reduced_motion="reduce")
        context.set_default_timeout(1000 * LIMIT)
        yield context, site
        chromium.close()


@pytest.fixture
def visit(browser):
    "Opens a page of the site; at the end of the test nothing may have gone wrong on it."
    context, site = browser
    page, events = context.new_page(), []
    local = (site, "data:", "blob:")
    page.on("console", lambda e: events.append((e.type == "error", f"console: {e.text}")))
    page.on("pageerror", lambda e: events.append((True, f"script: {e}")))
    page.on("requestfailed", lambda e: events.append((True, f"failed: {e.url}")))
    page.on("request", lambda e: events.append((not e.url.startswith(local), f"left: {e.url}")))
    page.on("response", lambda e: events.append((e.status >= 400, f"{e.status}: {e.url}")))

    def go(name):
        page.goto(f"{site}/{name}")
        page.evaluate(SETTLE, "light")
        return page
    yield go
    page.close()
    wrong = [about for is_wrong, about in events if is_wrong]
    assert not wrong, wrong


# one of each kind of coloured word in code is enough for axe, which takes milliseconds for each
FEWER = """() => {
  const seen = new Set();
  for (const e of document.querySelectorAll(':is(.highlight, .sig) span:not(:has(*))')) {
    const block = e.closest('.cell_input, .cell_output, .sig')?.className;
    const kind = [block, e.parentElement.className, e.className].join();
    if (seen.has(kind)) e.replaceWith(e.textContent);
    seen.add(kind);
  }
}"""


@pytest.mark.slow
@pytest.mark.parametrize("name", [*DOCUMENTS, *SOURCES[:2], "genindex.html", "search.html"])
def test_page_loads(visit, name):
    "Formulas typeset, pictures there, and nothing wider than a telephone or a desk."
    page = visit(name)
    formulas, typeset, faulty = (page.locator(selector).count() for selector in
                                 (".math", ".math mjx-container", "mjx-merror"))
    assert typeset >= formulas and not faulty, f"{typeset} of {formulas} formulas, {faulty} faulty"
    assert page.evaluate("() => [...document.images].every(image => image.naturalWidth > 0)")
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 844})
        wide = page.evaluate("() => Math.max(document.documentElement.scrollWidth,"
                             " document.body.scrollWidth)")
        assert wide <= width, f"{wide} px wide in a window of {width} px"


@pytest.mark.slow
@pytest.mark.parametrize("name", DOCUMENTS)
def test_code_does_not_scroll_sideways(visit, name):
    "Lines of 100 characters fit in a window of 1280 px, folded source too."
    page = visit(name)
    page.evaluate("() => document.querySelectorAll('details').forEach(e => { e.open = true })")
    wide = page.evaluate("() => [...document.querySelectorAll('.cell_input pre')]"
                         ".filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.innerText)")
    longest = [max(code.splitlines(), key=len) for code in wide]
    assert not wide, f"code is wider than its block, by its longest lines: {longest}"


@pytest.mark.slow
@pytest.mark.parametrize("name", [*DOCUMENTS, *SOURCES[-1:], "search.html"])
def test_page_is_accessible(visit, name):
    "axe finds nothing serious or critical; contrast in the light and in the dark."
    axe = pytest.importorskip("axe_playwright_python.sync_playwright",
                              reason="axe-playwright-python is not installed").Axe()
    page, found = visit(name), []
    page.evaluate(FEWER)
    contrast = {"runOnly": {"type": "rule", "values": ["color-contrast"]}}
    for look, only in (("light", {}), ("dark", contrast)):
        page.evaluate(SETTLE, look)
        options = {"resultTypes": ["violations"], **only}
        report = axe.run(page, {"exclude": ["mjx-container"]}, options).response
        found += [f"{look}, {violation['id']}: {node['html'][:160]}"
                  for violation in report["violations"] for node in violation["nodes"][:3]
                  if violation["impact"] in ("serious", "critical")]
    assert not found, found


def test_dark_is_dark(visit):
    page = visit("index.html")

    def brightness(look):
        page.evaluate(SETTLE, look)
        colour = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3]))
    light = brightness("light")
    assert light > 600 and brightness("dark") < 150
    page.emulate_media(color_scheme="light")
    assert brightness("auto") == light


def test_search_finds(visit):
    page = visit("search.html?q=foreground")
    page.wait_for_selector("#search-results li a")
    found = page.inner_text("#search-results")
    assert "mask" in found.lower(), found[:400]


def test_keyboard_reaches_the_text_and_what_scrolls(visit):
    page = visit("05_losses.html")
    link = page.locator("a.skip-to-content:focus")
    for _ in range(6):
        if not link.count():
            page.keyboard.press("Tab")
    assert link.count(), "no skip link among the first stops"
    page.wait_for_function("() => document.activeElement.getBoundingClientRect().top >= 0")
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_function("() => [...document.querySelectorAll('pre')].every("
                           "e => (e.scrollWidth > e.clientWidth) === (e.tabIndex === 0))")
