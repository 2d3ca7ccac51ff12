"""Pictures of the rendered pages, to look at: light and dark at 1280 px, light at 390 px.

usage: python tools/screenshots.py [PAGE ...]    (as index or experiments/fsd; none named: all)

They go to _docs/screenshots. Needs playwright and a Chromium, on the path or named by CHROMIUM.
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


def pages(names: list[str]) -> list[str]:
    "Paths of the pages to show; stops where one does not exist."
    found = {p.relative_to(HTML).with_suffix("").as_posix() for p in HTML.rglob("*.html")
             if not {"_static", "_modules"} & set(p.parts)}
    if not found:
        sys.exit("no site: run `make docs` first")
    if unknown := set(names) - found:
        sys.exit(f"no page {', '.join(sorted(unknown))}")
    return sorted(names or found)


def main(names: list[str]):
    "Show the pages named, or all."
    from playwright.sync_api import sync_playwright
    wanted = pages(names)
    if not CHROMIUM:
        sys.exit("no Chromium: install one, or name it by CHROMIUM=/path/to/it")
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
