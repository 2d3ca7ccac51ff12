"""Rooms that stand without the floors above them, and rows from which everything follows."""
import ast
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LIMIT

ROOT = Path(__file__).resolve().parent.parent
NUMBERED = sorted((ROOT / "nbs").glob("[0-9]*.ipynb"))
LONGEST = 25  # code lines of an exported cell, without documented signatures


def python(code, folder=ROOT, **env):
    "Run code as a program, with the library of a folder."
    env = os.environ | dict(PYTHONPATH=str(folder), OMP_NUM_THREADS="1") | env
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, timeout=LIMIT,
                          capture_output=True, text=True)


def room(notebook):
    return notebook.stem.split("_", 1)[1]


def test_drawing_and_losses_stand_on_their_own():
    loaded = python("import fsd_sdpose.drawing, fsd_sdpose.losses, sys; print(*sys.modules)")
    assert loaded.returncode == 0, loaded.stderr
    above = {"data", "training", "experiments", "tables", "figures"}
    assert not {f"fsd_sdpose.{m}" for m in above} & set(loaded.stdout.split())


def test_every_room_has_a_number_of_its_own():
    numbers = [nb.stem.split("_")[0] for nb in NUMBERED]
    assert numbers == [f"{i:02d}" for i in range(len(numbers))]


@pytest.mark.parametrize("notebook", NUMBERED, ids=room)
def test_documents_import_only_from_rooms_above(notebook):
    "Demonstrations too, so that the first pages open when a later room is broken."
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    used = set(re.findall(r"^\s*from fsd_sdpose\.(\w+) import", code, flags=re.M))
    allowed = [room(nb) for nb in NUMBERED[:NUMBERED.index(notebook) + 1]]
    assert used <= set(allowed), f"{notebook.name} imports {sorted(used - set(allowed))}"


def code_lines(source, first, last):
    "Code lines of a stretch without comments, imports, docstrings and documented signatures."
    lines = {i for i, text in enumerate(source.splitlines(), 1)
             if first <= i <= last and text.strip() and not text.strip().startswith("#")}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            start = node.body[0].end_lineno if ast.get_docstring(node) else node.body[0].lineno - 1
            lines -= set(range(node.lineno, start + 1))
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            lines -= set(range(node.lineno, node.end_lineno + 1))
    return len(lines)


@pytest.mark.parametrize("notebook", NUMBERED, ids=room)
def test_exported_cells_are_short(notebook):
    "Cells, and functions of a class; not dataclasses and tables of data."
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    for source in (s for s in sources if re.match(r"#\|\s*exports?\b", s)):
        body = ast.parse(source).body
        classes = [node for node in body if isinstance(node, ast.ClassDef)]
        parts = [n for c in classes for n in c.body if isinstance(n, ast.FunctionDef)]
        parts += [n for n in body if isinstance(n, ast.FunctionDef)]
        for part in parts:
            length = code_lines(source, part.lineno, part.end_lineno)
            assert length <= LONGEST, f"{part.name} has {length} lines"
        if not classes and not re.search(r"^(METHODS|STUDIES|SWEEPS|POSES)\b", source, flags=re.M):
            length = code_lines(source, 1, source.count("\n") + 1)
            assert length <= LONGEST, f"{source.splitlines()[1]}: {length} lines"


def copy_of_the_repository(folder):
    "What git lists, without history, as files of their own."
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def run_notebook(path, folder):
    "Execute a notebook with the library of a folder; the text of its outputs."
    code = ("import nbformat, sys; from nbclient import NotebookClient; "
            "nb = nbformat.read(sys.argv[1], as_version=4); "
            "where = dict(metadata=dict(path=sys.argv[2])); "
            "NotebookClient(nb, timeout=None, resources=where).execute(); "
            "print(nbformat.writes(nb))")
    env = os.environ | dict(PYTHONPATH=str(folder), OMP_NUM_THREADS="1")
    command = [sys.executable, "-c", code, str(path), str(path.parent)]
    done = subprocess.run(command, env=env, timeout=LIMIT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_first_pages_open_when_training_is_broken(tmp_path):
    folder = copy_of_the_repository(tmp_path)
    (folder / "fsd_sdpose/training.py").write_text("raise ImportError('broken')\n")
    for notebook in sorted((folder / "nbs").glob("0[0-6]_*.ipynb")):
        run_notebook(notebook, folder)


ROW = """
METHODS['fsd_gentle'] = Method(
    'Gentle weights', 'Foreground half as much again.', 'The claim: a little is enough.', '#123456',
    visual=FSD | dict(foreground_weight=1.5, background_weight=0.7), against=PLACE)
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    "A copy with one more row of METHODS, and records as if it had been run."
    folder = copy_of_the_repository(tmp_path_factory.mktemp("house"))
    module = folder / "fsd_sdpose/studies.py"
    text = module.read_text(encoding="utf-8")
    place = text.index("def guide_methods")
    module.write_text(text[:place] + ROW.lstrip() + "\n" + text[place:], encoding="utf-8")
    for source in (folder / "results/demo/runs").glob("fsd-seed*"):
        copy = source.with_name(source.name.replace("fsd-", "fsd_gentle-"))
        shutil.copytree(source, copy)
        record = (copy / "record.json").read_text(encoding="utf-8")
        record = record.replace('"method": "fsd"', '"method": "fsd_gentle"')
        (copy / "record.json").write_text(record, encoding="utf-8")
    return folder


@pytest.mark.slow
def test_a_row_is_a_page(house):
    "The template with the row's words, not yet run."
    tool = house / "tools/pages.py"
    env = os.environ | dict(PYTHONPATH=str(house))
    done = subprocess.run([sys.executable, tool, "--check"], env=env, timeout=LIMIT,
                          capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("the templates do not say: fsd_gentle")
    code = "from pages import page, pages; print(page('fsd_gentle', pages()['fsd_gentle']))"
    text = python(code, house, PYTHONPATH=f"{house}{os.pathsep}{tool.parent}").stdout
    assert "# Gentle weights" in text and "method: str = 'fsd_gentle'" in text


@pytest.mark.slow
def test_a_row_is_a_job_in_the_grid(house):
    command = [sys.executable, "-m", "snakemake", "--snakefile", "workflow/Snakefile",
               "--profile", "workflow/profiles/local", "--dry-run",
               "--config", "study=demo", "results=_new", "--", "runs"]
    done = subprocess.run(command, cwd=house, env=os.environ | dict(PYTHONPATH=str(house)),
                          timeout=LIMIT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "_new/demo/runs/fsd_gentle-seed0/record.json" in done.stdout + done.stderr


@pytest.mark.slow
def test_a_row_is_a_line_in_table_plot_index_and_help(house):
    code = ("from fsd_sdpose.tables import *; from fsd_sdpose.figures import forest;"
            "labels = forest(contrasts(gather())).axes[0].get_yticklabels();"
            "print(*ap_table().method, '|', *[label.get_text() for label in labels])")
    done = python(code, house)
    assert done.returncode == 0, done.stderr
    table, plot = done.stdout.split("|")
    assert "fsd_gentle" in table.split() and "fsd_gentle" in plot.split()
    index = run_notebook(house / "nbs/index.ipynb", house)
    assert "[fsd gentle](experiments/fsd_gentle.ipynb)" in index and "| fsd_gentle |" in index
    command = ("import sys; sys.argv[1:] = ['train', '--help'];"
               "from fsd_sdpose.cli import main; main()")
    assert "fsd_gentle" in python(command, house).stdout


@pytest.mark.slow
def test_a_row_has_its_place_in_the_menu(house):
    "The order of the pages on the site follows the rows."
    groups = dict(runpy.run_path(str(ROOT / "docs/conf.py"))["nbdev_groups"])["Experiments"]
    code = ("import runpy; groups = runpy.run_path('docs/conf.py')['nbdev_groups'];"
            "print(dict(groups)['Experiments'])")
    there = ast.literal_eval(python(code, house).stdout)
    assert [p for p in there if p not in groups] == ["experiments/fsd_gentle"]
