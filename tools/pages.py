"""One page per method and per sweep, from the two templates in nbs/experiments, by papermill.

usage: python tools/pages.py [NAME...]    (none named: all)
       python tools/pages.py --check      (are the pages what the templates say? nothing is run)
"""
import copy
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
import papermill
from pictures import shrink

from fsd_sdpose.files import known, replacing
from fsd_sdpose.studies import pages

FOLDER = Path(__file__).resolve().parent.parent / "nbs/experiments"


def page(name: str, row: dict) -> nbformat.NotebookNode:
    "A page before it runs: the template with the row's words, its name and labels of its own."
    notebook = copy.deepcopy(nbformat.read(FOLDER / f"{row['template']}.ipynb", as_version=4))
    notebook.cells[0].source = f"# {row['title']}\n\n> {row['promise']}"
    for cell in notebook.cells:
        cell.source = re.sub(r"^(#\| label: fig-\w+)$", rf"\1-{name}", cell.source, flags=re.M)
        if "parameters" in cell.metadata.get("tags", []):
            default = rf"^({row['parameter']}: str = )'\w*'"
            cell.source = re.sub(default, rf"\1{row['value']!r}", cell.source, flags=re.M)
    return notebook


def run(name: str, row: dict):
    "Write and execute a page; papermill stores what it shows."
    with tempfile.TemporaryDirectory() as folder:  # a page that fails leaves the old one as it is
        draft = Path(folder, f"{name}.ipynb")
        nbformat.write(page(name, row), draft)
        executed = papermill.execute_notebook(draft, draft, cwd=FOLDER, progress_bar=False,
                                              start_timeout=900)
    shrink(executed)
    with replacing(FOLDER / f"{name}.ipynb") as temporary:
        nbformat.write(executed, temporary)
    print(f"made {name}", flush=True)


def wrong() -> list[str]:
    "Pages that are missing, that no row asks for, or whose cells are not the template's."
    wanted, found = pages(), {p.stem for p in FOLDER.glob("[!_]*.ipynb")}
    by_hand = {p.stem for p in (FOLDER / "_py").glob("[!_]*.py")}
    stale = []
    for name, row in wanted.items():
        cells = page(name, row).cells
        stored = nbformat.read(FOLDER / f"{name}.ipynb", 4).cells if name in found else []
        if [c.source for c in stored] != [c.source for c in cells]:
            stale.append(name)
    return stale + sorted(found - set(wanted) - by_hand)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as the runs of the records
    names = sys.argv[1:]
    if names == ["--check"]:
        if stale := wrong():
            sys.exit(f"run `make pages` for what the templates do not say: {', '.join(stale)}")
    else:
        rows = pages()
        for name in [known(name, rows, "page") for name in names or rows]:
            run(name, rows[name])
