"""Pictures of the rendered pages, to look at, in _docs/screenshots: at 1280 px, dark, at 390 px.

usage: python tools/screenshots.py [PAGE ...]    (as index or experiments/fsd; none named: all)
"""
import os
import shutil
import sys
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HTML, OUT = ROOT / "_docs/html", ROOT / "_docs/screenshots"
LIMIT = 900_000  # ms that a browser may take: the machine may be busy
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
# a page as a reader sees it who waits: all pictures there, formulas typeset
SETTLE = """async theme => {
  document.body.dataset.theme = theme;
  for (const image of document.images) image.loading = 'eager';
  await window.MathJax?.startup?.promise;
  await Promise.all([...document.images].map(image => image.decode().catch(() => 0)));
}"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@contextmanager
def served(folder: Path):
    "Address of a folder's files, which are served as long as the context lasts."
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def main(names: list[str]):
    "Show the pages named, or all."
    from playwright.sync_api import sync_playwright
    found = {p.relative_to(HTML).with_suffix("").as_posix() for p in HTML.rglob("*.html")
             if not {"_static", "_modules"} & {*p.parts}}
    if not found:
        sys.exit("no site: run `make docs` first")
    if unknown := ", ".join(sorted(set(names) - found)):
        sys.exit(f"no page {unknown}")
    if not CHROMIUM:
        sys.exit("no Chromium: install one, or name it by CHROMIUM=/path/to/it")
    wanted = sorted(names or found)
    OUT.mkdir(parents=True, exist_ok=True)
    with served(HTML) as address, sync_playwright() as p:
        options = ["--no-sandbox", "--disable-gpu"]
        browser = p.chromium.launch(executable_path=CHROMIUM, args=options, timeout=LIMIT)
        for width, theme in ((1280, "light"), (1280, "dark"), (390, "light")):
            viewport = {"width": width, "height": 1000}
            page = browser.new_page(viewport=viewport, reduced_motion="reduce")
            page.set_default_timeout(LIMIT)
            for name in wanted:
                page.goto(f"{address}/{name}.html")
                page.evaluate(SETTLE, theme)
                file = OUT / f"{name.replace('/', '-')}-{width}-{theme}.png"
                page.screenshot(path=file, full_page=True)
    print(f"{3 * len(wanted)} pictures in {OUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main(sys.argv[1:])
