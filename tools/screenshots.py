"""Pictures of the rendered pages, to look at: light and dark at 1280 px, light at 390 px, whole pages, into _docs/screenshots.

usage: python tools/screenshots.py [PAGE ...]    (as index or experiments/fsd; none named: all)

Needs playwright and a Chromium of the system, on the path or named by CHROMIUM.
"""
import functools
import http.server
import os
import shutil
import sys
import threading
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
HTML, OUT = ROOT / "_docs/html", ROOT / "_docs/screenshots"
LIMIT = 900_000  # ms that a browser may take: the machine may be busy


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


def pages(names):
    "Paths of the pages to show; stops where one does not exist."
    found = {p.relative_to(HTML).with_suffix("").as_posix() for p in HTML.rglob("*.html") if not {"_static", "_modules"} & set(p.parts)}
    if not found: sys.exit("no site: run `make docs` first")
    if unknown := set(names) - found: sys.exit(f"no page {', '.join(sorted(unknown))}")
    return sorted(names or found)


def main(names):
    wanted, chromium = pages(names), os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not chromium: sys.exit("no Chromium: install one, or name it by CHROMIUM=/path/to/it")
    OUT.mkdir(parents=True, exist_ok=True)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=HTML))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"], timeout=LIMIT)
        for width, theme in ((1280, "light"), (1280, "dark"), (390, "light")):
            page = browser.new_page(viewport={"width": width, "height": 1000}, reduced_motion="reduce")
            page.set_default_timeout(LIMIT)
            for name in wanted:
                page.goto(f"http://127.0.0.1:{server.server_port}/{name}.html")
                page.evaluate("theme => { document.body.dataset.theme = theme; for (const i of document.images) i.loading = 'eager' }", theme)
                page.evaluate("() => window.MathJax?.startup?.promise?.then(() => 0)")
                page.evaluate("() => Promise.all([...document.images].map(i => i.decode().catch(() => 0)))")
                page.screenshot(path=OUT / f"{name.replace('/', '-')}-{width}-{theme}.png", full_page=True)
        browser.close()
    server.shutdown()
    print(f"{3 * len(wanted)} pictures in {OUT.relative_to(ROOT)}")


if __name__ == "__main__": main(sys.argv[1:])
