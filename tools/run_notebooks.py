"""Run notebooks in place and keep their outputs, which the documents show; `nbdev_clean` them then.

usage: python tools/run_notebooks.py nbs/04_masks.ipynb [more.ipynb ...]    (none named: all)
"""
import os
import sys
from pathlib import Path

import nbformat
from check import NOTEBOOKS, ROOT
from nbclient import NotebookClient
from pictures import shrink

from fsd_sdpose.files import replacing


def run(path: Path) -> None:
    "Execute one notebook in its own folder; a failing cell raises and the file stays as it was."
    nb = nbformat.read(path, as_version=4)
    cells = nb.cells
    nb.cells = [c for c in cells if "nbdev_export(" not in c.source]  # this is nbdev's own step
    NotebookClient(nb, timeout=3600, startup_timeout=900, kernel_name="python3",
                   resources={"metadata": {"path": str(path.parent)}}).execute()
    nb.cells = cells
    shrink(nb)
    with replacing(path) as temporary:
        nbformat.write(nb, temporary)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    for file in [Path(argument).resolve() for argument in sys.argv[1:]] or NOTEBOOKS:
        run(file)
        print("ran", file.relative_to(ROOT), flush=True)
