"""Which lines of the library run when all notebooks and tests run?

usage: python tools/covered.py    (everything: writes results/reliability/coverage.json)
       python tools/covered.py nbs/04_masks.ipynb tests/test_data.py    (parts: _runs/coverage.json)

Tests run two at a time; FSD_TEST_JOBS says otherwise.

A notebook defines what it exports, so its own demonstrations would run its cells and not the
library. Here its exported cells load the library instead. Kernels, and the programs that tests
start, are measured as well.
"""
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import coverage
import nbformat
from check import NOTEBOOKS, ROOT
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from fsd_sdpose.files import write_json

CONFIG = """[run]
source = {root}/fsd_sdpose
omit = */_modidx.py
data_file = {folder}/data
parallel = true
patch = subprocess
    fork
    _exit
sigterm = true
disable_warnings = no-data-collected, module-not-measured, module-not-imported
"""
LOADS = "import fsd_sdpose.{0}\nglobals().update(vars(fsd_sdpose.{0}))\n"


def with_library(nb):
    "A notebook whose exported cells load the library's module instead of defining it again."
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    modules = [c.source.split()[2] for c in code if c.source.startswith("#| default_exp")]
    exported = [c for c in code if c.source.startswith("#| export")]
    for cell in exported:
        cell.source = LOADS.format(modules[0]) if modules else cell.source
    nb.cells = [c for c in nb.cells if "nbdev_export(" not in c.source]
    return nb


def run_notebook(path):
    "Whether a notebook ran from top to bottom; it is not changed."
    nb = with_library(nbformat.read(path, as_version=4))
    where = {"metadata": {"path": str(path.parent)}}
    try:
        NotebookClient(nb, timeout=None, startup_timeout=900, kernel_name="python3",
                       resources=where).execute()
    except CellExecutionError as e:
        print(str(e)[-2000:], file=sys.stderr)
        return False
    return True


def run_tests(files):
    "Whether tests passed."
    command = [sys.executable, "-m", "pytest", "-q", "-n", os.environ.get("FSD_TEST_JOBS", "2")]
    return subprocess.run([*command, *files], cwd=ROOT).returncode == 0


def ranges(lines):
    "Numbers as text: 3-5, 8."
    parts = []
    for n in lines:
        if parts and n == parts[-1][1] + 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def count(config):
    "Lines, covered lines and their share, by module."
    measured = coverage.Coverage(config_file=str(config))
    measured.combine()
    modules = {}
    for file in sorted((ROOT / "fsd_sdpose").glob("*.py")):
        if file.name != "_modidx.py":
            _, lines, _, missing, _ = measured.analysis2(str(file))
            covered = len(lines) - len(missing)
            modules[file.stem] = dict(lines=len(lines), covered=covered,
                                      share=round(covered / max(len(lines), 1), 4),
                                      missing=ranges(missing))
    return modules


def main(parts):
    if unknown := [p for p in parts if not (ROOT / p.split("::")[0]).exists()]:
        sys.exit(f"no file {', '.join(unknown)}")
    notebooks = [ROOT / p for p in parts if p.endswith(".ipynb")] if parts else NOTEBOOKS
    tests = [p for p in parts if not p.endswith(".ipynb")] if parts else ["tests"]
    failed, start = [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "config")
        config.write_text(CONFIG.format(root=ROOT, folder=folder), encoding="utf-8")
        os.environ["COVERAGE_PROCESS_START"] = str(config)
        for path in notebooks:
            name = path.relative_to(ROOT).as_posix()
            print(name, flush=True)
            failed += [] if run_notebook(path) else [name]
        if tests and not run_tests(tests):
            failed.append("tests")
        del os.environ["COVERAGE_PROCESS_START"]
        modules = count(config)
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    lines, covered = (sum(m[k] for m in modules.values()) for k in ("lines", "covered"))
    out = ROOT / ("_runs" if parts else "results/reliability") / "coverage.json"
    write_json(out, dict(
        what="lines of the library that run in notebooks and tests", command="make coverage",
        parts=parts or "all notebooks and tests", failed=failed, commit=git.stdout.strip(),
        versions=dict(python=platform.python_version(),
                      **{p: version(p) for p in ("coverage", "pytest", "torch", "numpy")}),
        minutes=round((time.monotonic() - start) / 60, 1), lines=lines, covered=covered,
        share=round(covered / lines, 4), modules=modules), indent=1)
    for name, m in modules.items():
        print(f"{name:>12} {m['covered']:5} of {m['lines']:5} {m['share']:7.1%}")
    print(f"{covered} of {lines} lines ({covered / lines:.1%}), in {out.relative_to(ROOT)}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("FSD_CACHE", str(ROOT / "_data"))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    main(sys.argv[1:])
