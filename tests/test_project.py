"""What holds of the project as a whole: its shape, its notebooks, and what importing it loads."""
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import nbformat
import pytest
from conftest import LIMIT, NOTEBOOKS, ROOT

from fsd_sdpose.checkpoints import STARTS, load_start
from fsd_sdpose.models import sdpose
from fsd_sdpose.studies import STUDIES, SWEEPS, run_folder
from fsd_sdpose.tables import gather, gather_sweep

TOOLS = {"nbdev", "fastcore", "execnb", "papermill", "jupytext", "pytest", "IPython"}
WEIGHTS = (".ipynb", ".pth", ".pt", ".safetensors", ".ckpt", ".npz")
RECORDS = sorted((ROOT / "results").rglob("record.json"))


def load(file):
    return json.loads(Path(file).read_text(encoding="utf-8"))


def name(path):
    return path.relative_to(ROOT / "nbs").as_posix()


def code_cells(path):
    return [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]


def test_default_exp_is_unique():
    "Two notebooks with one `default_exp` would silently overwrite each other's module."
    code = "\n".join(c.source for path in NOTEBOOKS for c in code_cells(path))
    exported = Counter(re.findall(r"^#\|\s*default_exp\s+(\S+)", code, flags=re.M))
    assert exported and max(exported.values()) == 1, exported


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebook_is_a_document(path):
    "A title and a promise, outputs without error or paths of the machine."
    title, cells = nbformat.read(path, 4).cells[0].source, code_cells(path)
    assert re.match(r"# .+\n\n?> .+", title), "the first cell is '# Title' and '> promise'"
    outputs = [o for c in cells for o in c["outputs"]]
    assert outputs, "no stored outputs: run tools/run_notebooks.py"
    assert not any(o["output_type"] == "error" for o in outputs)
    for output in outputs:
        data = {k: v for k, v in output.get("data", {}).items() if not k.startswith("image")}
        machine = r"/(root|home|work|tmp|Users|var/folders)/"
        assert not re.search(machine, json.dumps(output | {"data": data})), "a path of the machine"


def test_notebooks_are_small():
    "Stored pictures have few colours (tools/pictures.py), and all notebooks together stay small."
    sizes = {path: path.stat().st_size for path in NOTEBOOKS}
    assert sum(sizes.values()) < 6e6, sorted(sizes.items(), key=lambda item: -item[1])[:5]


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if "experiments" in p.parts], ids=name)
def test_experiments_have_one_parameters_cell(path):
    "Without the tag papermill runs at the defaults, warns and exits 0."
    tags = [tag for c in code_cells(path) for tag in c["metadata"].get("tags", [])]
    assert tags.count("parameters") == 1


@pytest.mark.parametrize("path", sorted(ROOT.glob("fsd_sdpose/[a-z]*.py")), ids=lambda p: p.stem)
def test_modules_import_no_development_tool(path):
    code = path.read_text(encoding="utf-8")
    assert not set(re.findall(r"^\s*(?:import|from) (\w+)", code, flags=re.M)) & TOOLS


def loaded_by(module):
    command = [sys.executable, "-c", f"import {module}, sys; print(*sys.modules)"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT,
                          timeout=LIMIT)
    return set(done.stdout.split())


def test_importing_the_losses_loads_torch_and_little_else():
    "torch, the package, three of its modules, and nothing else."
    torch, losses = loaded_by("torch"), loaded_by("fsd_sdpose.losses")
    rooms = {f"fsd_sdpose.{room}" for room in ("files", "masks", "losses")}
    assert losses - torch == {"fsd_sdpose", *rooms}
    assert not {*TOOLS, "pandas", "matplotlib", "cv2", "scipy"} & losses


def tracked(*folders):
    done = subprocess.run(["git", "ls-files", *folders], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / f for f in done.stdout.split() if (ROOT / f).is_file()]


def test_text_files_have_unix_line_endings_and_no_machine_paths():
    binary = (".png", ".woff2", ".ico", ".jpg", ".safetensors")
    for path in tracked():
        if path.suffix not in binary:
            data = path.read_bytes()
            assert b"\r\n" not in data and not re.search(rb"/(root|home/\w+)/\w", data), path


def test_no_weights_are_committed_among_the_results():
    assert not [path for path in tracked("results") if path.suffix in WEIGHTS]


@pytest.mark.parametrize("record", RECORDS, ids=lambda p: p.parent.name)
def test_every_run_record_is_whole(record):
    "It names commit, device, seed and metrics, and lies where its settings say."
    r = load(record)
    assert {"study", "method", "seed", "config", "data", "metrics", "environment", "untrained",
            "initial_weights"} <= r.keys()
    assert record.with_name("history.csv").exists()
    sweep = record.parents[1].name if record.parents[2].name == "sweeps" else ""
    points = SWEEPS[sweep].points if sweep else ()
    points = {f"{p.label}-seed{r['seed']}": p for p in points}
    point = points[record.parent.name] if sweep else None
    assert r["overrides"] == (json.loads(json.dumps(point.overrides)) if point else {})
    place = (r["study"], r["method"], r["seed"], sweep, point.label if point else "")
    assert record.parent == run_folder(ROOT / "results", *place)
    assert re.fullmatch(r"[0-9a-f]{40}", r["environment"]["commit"] or "")
    assert r["environment"]["changed"] is False
    if r["study"].startswith("lspet"):  # real photographs: training has brought at least this
        gain = {key: r["metrics"][key] - r["untrained"][key] for key in ("AP", "AP50")}
        assert gain["AP"] > 1.5 and gain["AP50"] > 8


def test_other_records_say_where_they_are_from():
    "Benchmarks: made from committed code, device named."
    files = [*ROOT.glob("results/benchmarks/*.json")]
    assert len(files) >= 3
    for environment in (load(file)["environment"] for file in files):
        assert re.fullmatch("[0-9a-f]{40}", environment["commit"])
        assert environment["changed"] is False and environment["device"] and environment["versions"]


@pytest.mark.parametrize("study", [s for s in STUDIES if (ROOT / f"results/{s}/table.md").exists()])
def test_committed_grids_are_complete(study):
    "Methods that have a record at all have one at every seed, and are compared with a baseline."
    runs = gather(study, ROOT / "results")
    seeds = runs.groupby("method").seed.apply(set)
    assert (seeds == seeds["baseline"]).all(), seeds
    if study in ("demo", "clutter_and_crowd"):
        assert len(seeds["baseline"]) == STUDIES[study].seeds
        assert runs[runs.method == "baseline"].AP.mean() >= 30


@pytest.mark.parametrize("sweep", SWEEPS)
def test_committed_sweeps_are_complete(sweep):
    seeds = gather_sweep(sweep, "demo", ROOT / "results").groupby("label").seed.nunique()
    assert (seeds.reindex([p.label for p in SWEEPS[sweep].points]) >= 3).all()


def test_the_shared_start_is_the_one_recorded():
    "The shipped weights have their record, and the demo's runs began from this very file."
    start = load_start(sdpose("n"), "demo")
    run = f"{start['study']}/runs/{start['method']}-seed{start['seed']}"
    shipped = load(STARTS / "demo.json")
    assert shipped.pop("weights_sha256") == start["sha256"]
    assert load(ROOT / f"results/{run}/record.json") == shipped
    for folder in gather("demo", ROOT / "results").folder:
        assert load(Path(folder, "record.json"))["start"] == start, folder
