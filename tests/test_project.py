"""What holds of the project as a whole: its shape, its notebooks, and what importing the losses costs."""
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from conftest import LIMIT

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if not any(q[0] in "_." for q in p.relative_to(ROOT).parts))
ROOMS = ["skeletons", "heatmaps", "masks", "losses", "models", "synthetic", "data", "evaluation", "comparisons", "training", "probes", "prediction",
         "experiments", "figures", "cli"]


def name(p):
    return p.relative_to(ROOT / "nbs").as_posix()


def code_cells(p):
    return [c for c in json.loads(p.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]


def source(c):
    return "".join(c["source"])


def test_default_exp_is_unique():
    "Two notebooks with one `default_exp` would silently overwrite each other's module."
    exported = Counter(m for p in NOTEBOOKS for c in code_cells(p) for m in re.findall(r"^#\|\s*default_exp\s+(\S+)", source(c), flags=re.M))
    assert exported and max(exported.values()) == 1, exported


@pytest.mark.parametrize("nb", NOTEBOOKS, ids=name)
def test_notebook_is_a_document(nb):
    "Starts with a title and a promise, keeps its outputs, holds no error and nothing of the machine it ran on."
    cells = json.loads(nb.read_text(encoding="utf-8"))["cells"]
    assert re.match(r"# .+\n\n?> .+", source(cells[0])), "the first cell is '# Title' and '> promise'"
    outputs = [o for c in code_cells(nb) for o in c["outputs"]]
    assert outputs, "no stored outputs: run tools/run_notebooks.py"
    assert not any(o["output_type"] == "error" for o in outputs)
    text = json.dumps([{k: v for k, v in o.items() if k != "data"} | {k: v for k, v in o.get("data", {}).items() if not k.startswith("image")} for o in outputs])
    assert not re.search(r"/(root|home|work|tmp|Users|var/folders)/", text), "an output names a path of the machine it ran on"
    exports = [len(source(c).splitlines()) for c in code_cells(nb) if re.match(r"#\|\s*exports?\b", source(c))]
    assert max(exports, default=0) <= 60, "an export cell is a page long: split it"


@pytest.mark.parametrize("nb", [p for p in NOTEBOOKS if "experiments" in p.parts], ids=name)
def test_experiments_have_one_parameters_cell(nb):
    "Without the tag papermill runs at the defaults, warns and exits 0."
    assert sum("parameters" in c["metadata"].get("tags", []) for c in code_cells(nb)) == 1


def test_modules_import_only_from_rooms_above():
    for i, room in enumerate(ROOMS):
        file = ROOT / "fsd_sdpose" / f"{room}.py"
        if not file.exists():
            continue
        used = set(re.findall(r"^\s*from \.(\w+) import", file.read_text(encoding="utf-8"), flags=re.M))
        used |= set(re.findall(r"^\s*from fsd_sdpose\.(\w+) import", file.read_text(encoding="utf-8"), flags=re.M))
        assert used <= set(ROOMS[:i]), f"{room} imports {used - set(ROOMS[:i])}"


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, timeout=LIMIT).stdout


def test_losses_import_without_development_tools():
    loaded = run("import sys, fsd_sdpose.losses; print(' '.join(sys.modules))").split()
    assert not {"nbdev", "fastcore", "execnb", "IPython", "papermill", "pandas", "matplotlib", "cv2", "scipy"} & set(loaded)


def test_importing_the_losses_loads_torch_and_little_else():
    "Importing the losses loads torch, the package, two of its modules, and nothing else."
    torch, losses = (set(run(f"import {module}, sys; print(*sys.modules)").split()) for module in ("torch", "fsd_sdpose.losses"))
    assert "torch" in losses and losses - torch == {"fsd_sdpose", "fsd_sdpose.losses", "fsd_sdpose.masks"}


def test_library_imports_no_development_tool():
    "nbdev and its kin are for development only."
    for file in (ROOT / "fsd_sdpose").glob("*.py"):
        if file.name != "_modidx.py":
            assert not re.search(r"^\s*(import|from) (nbdev|fastcore|execnb|papermill|jupytext|pytest|IPython)\b", file.read_text(encoding="utf-8"), flags=re.M), file.name


def test_text_files_have_unix_line_endings_and_no_machine_paths():
    files = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT)
    if files.returncode:
        pytest.skip("not a git checkout")
    for f in files.stdout.split():
        path = ROOT / f
        if path.suffix in (".png", ".woff2", ".ico", ".jpg", ".safetensors") or not path.is_file():
            continue
        data = path.read_bytes()
        assert b"\r\n" not in data, f
        assert not re.search(rb"/(root|home/\w+)/\w", data), f


def test_every_run_record_is_whole():
    "Committed results are records: each names its commit, device, seed and metrics, lies where its settings say, and nothing else lies in results/."
    from fsd_sdpose.studies import SWEEPS, run_folder
    records = sorted((ROOT / "results").rglob("record.json"))
    assert records
    for record in records:
        r = json.loads(record.read_text(encoding="utf-8"))
        assert {"study", "method", "seed", "config", "data", "metrics", "environment", "untrained", "initial_weights"} <= r.keys(), record
        assert record.with_name("history.csv").exists()
        sweep = record.parents[1].name if record.parents[2].name == "sweeps" else ""
        point = next((p for p in SWEEPS[sweep] if record.parent.name == f"{p.label}-seed{r['seed']}"), None) if sweep else None
        assert r["overrides"] == (json.loads(json.dumps(point.overrides)) if sweep else {}), record
        assert record.parent == run_folder(ROOT / "results", r["study"], r["method"], r["seed"], sweep, point.label if sweep else ""), record
        assert re.fullmatch(r"[0-9a-f]{40}", r["environment"]["commit"] or "") and r["environment"]["changed"] is False, record
        if r["study"].startswith("lspet"):  # real photographs: a trained network is this much better than an untrained one
            assert r["metrics"]["AP"] > r["untrained"]["AP"] + 1.5 and r["metrics"]["AP50"] > r["untrained"]["AP50"] + 8, record
    tracked = subprocess.run(["git", "ls-files", "results"], capture_output=True, text=True, cwd=ROOT).stdout.split()  # a grid run here leaves weights, which git ignores
    assert not [p for p in tracked if Path(p).suffix in (".ipynb", ".pth", ".pt", ".safetensors", ".ckpt", ".npz")]


def test_other_records_say_where_they_are_from():
    "Benchmarks and the evaluation against clutter and crowding: made from committed code, device named."
    files = [*ROOT.glob("results/benchmarks/*.json"), ROOT / "results/demo/clutter_and_crowd.json"]
    assert len(files) >= 4
    for f in files:
        environment = json.loads(f.read_text())["environment"]
        assert re.fullmatch("[0-9a-f]{40}", environment["commit"]) and environment["changed"] is False and environment["device"] and environment["versions"], f.name


def test_committed_grid_is_complete():
    "The demo: five seeds of every method of the guide and of the controls that are read with it; three seeds of every sweep. The baseline finds people."
    from fsd_sdpose.studies import METHODS, SWEEPS
    from fsd_sdpose.tables import gather, gather_sweep
    runs = gather("demo", ROOT / "results")
    assert (runs.groupby("method").seed.nunique().reindex(list(METHODS)) >= 5).all()
    assert runs[runs.method == "baseline"].AP.mean() >= 30
    for sweep, points in SWEEPS.items():
        seeds = gather_sweep(sweep, "demo", ROOT / "results").groupby("label").seed.nunique()
        assert (seeds.reindex([p.label for p in points]) >= 3).all(), sweep


def test_the_shared_start_is_the_one_recorded():
    "The weights that ship with the package have their record, and the demo's runs began from this very file."
    from fsd_sdpose.experiments import STARTS, load_start
    from fsd_sdpose.models import sdpose
    from fsd_sdpose.tables import gather
    begin = load_start(sdpose("n"), "demo")
    made = json.loads((ROOT / f"results/{begin['study']}/runs/{begin['method']}-seed{begin['seed']}/record.json").read_text(encoding="utf-8"))
    assert made == json.loads((STARTS / "demo.json").read_text(encoding="utf-8"))
    for folder in gather("demo", ROOT / "results").folder:
        assert json.loads(Path(folder, "record.json").read_text(encoding="utf-8"))["start"] == begin, folder
