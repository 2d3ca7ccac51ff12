"""Run notebooks in place and keep their outputs, so that the rendered documents show them; then `nbdev_clean` them.

usage: python tools/run_notebooks.py nbs/04_masks.ipynb [more.ipynb ...]    (none named: all)
"""
import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent


def run(path: Path) -> None:
    "Execute one notebook in its own folder; a failing cell raises and the file stays as it was."
    nb = nbformat.read(path, as_version=4)
    cells, nb.cells = nb.cells, [c for c in nb.cells if "nbdev_export(" not in c.source]  # exporting is nbdev's own step
    NotebookClient(nb, timeout=3600, startup_timeout=900, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
    nb.cells = cells
    temporary = path.with_name("." + path.name)
    nbformat.write(nb, temporary)
    os.replace(temporary, path)


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    files = [Path(a).resolve() for a in sys.argv[1:]] or sorted(
        p for p in (ROOT / "nbs").rglob("*.ipynb") if not any(q[0] in "_." for q in p.relative_to(ROOT).parts))
    for f in files:
        run(f)
        print("ran", f.relative_to(ROOT), flush=True)
