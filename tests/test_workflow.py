"""The grid of runs: what the workflow plans, that it runs, and that it repeats what failed."""
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec

import psutil
import pytest
from conftest import LIMIT, ROOT

from fsd_sdpose.studies import SWEEPS

TINY = dict(epochs=1, train_images=24, val_images=8, start="", flip_test=False,
            scene=dict(size=[128, 96], people=1))
pytestmark = [pytest.mark.slow, pytest.mark.skipif(
    find_spec("snakemake") is None, reason="snakemake is not installed: pip install -e '.[dev]'")]


def start(folder, *targets, dry=False, env=None, root=ROOT, python=sys.executable, **config):
    "Call the workflow in a folder of its own."
    config = dict(results="_runs", overrides=json.dumps(TINY)) | config
    command = [python, "-m", "snakemake", "--snakefile", root / "workflow/Snakefile",
               "--profile", root / "workflow/profiles/local", "--directory", folder,
               *(["--dry-run", "--quiet", "host"] if dry else []),
               "--config", *(f"{k}={v}" for k, v in config.items()), "--", *targets]
    env = os.environ | dict(PYTHONPATH=str(root), OMP_NUM_THREADS="1") | (env or {})
    return subprocess.Popen(list(map(str, command)), cwd=root, env=env, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def workflow(*args, **config):
    "What a call of the workflow printed, and its exit code."
    with start(*args, **config) as process:
        return process.communicate(timeout=LIMIT)[0], process.returncode


def test_one_job_per_run_and_per_point(tmp_path):
    "A sweep's point that changes nothing is the study's run; data is prepared once for all."
    text, code = workflow(tmp_path, "all", dry=True, methods="baseline fsd token_detached",
                          seeds="0 3", sweeps="foreground_weight",
                          env=dict(FSD_CACHE=str(tmp_path / "cache")))
    points = {p.label for p in SWEEPS["foreground_weight"].points if p.overrides}
    assert len(points) == len(SWEEPS["foreground_weight"].points) - 1
    runs = {"runs/baseline", "runs/fsd", "runs/token_detached",
            *(f"sweeps/foreground_weight/{label}" for label in points)}
    folders = {f"{run}-seed{seed}" for run in runs for seed in (0, 3)}
    planned = re.findall(r"_runs/demo/(\S+)/record.json, _runs/demo/\S+/history.csv", text)
    assert code == 0 and set(planned) == folders, text
    table = re.search(r"^Job stats:\n(.*?)^total", text, flags=re.M | re.S)[1]
    jobs = {rule: int(n) for rule, n in re.findall(r"^(\w+) +(\d+)$", table, flags=re.M)}
    assert jobs == dict(prepare=1, run=len(folders), write_table=1, all=1)


@pytest.mark.parametrize("config, message", [
    (dict(methods="fsd_stong"), "did you mean 'fsd_strong'?"),
    (dict(sweeps="fg"), "unknown sweep 'fg'"),
    (dict(results=ROOT / "results"), "name another folder with results="),
    (dict(results="_runs/{x}"), "results is '_runs/{x}': name a folder without braces"),
    (dict(scratch="s{x}"), "scratch is 's{x}': name a folder without braces"),
    (dict(threads="1;touch x"), "threads must be a whole number of at least 1, not '1;touch x'"),
    (dict(threads=0), "threads must be a whole number of at least 1, not 0"),
    (dict(threads="true"), "threads must be a whole number of at least 1, not 'true'")],
    ids=["method", "sweep", "results", "braces", "scratch", "threads", "none", "truth"])
def test_mistakes_are_named_before_anything_runs(tmp_path, config, message):
    text, code = workflow(tmp_path, "all", dry=True, **config)
    assert code != 0 and message in text and not list(tmp_path.rglob("record.json")), text
    assert len(text.strip().splitlines()) <= 4, text  # two of them are where it was found


ODD = "s $(touch PWN) `touch PWN` 'x\"; touch PWN;#"


def test_folders_are_data(tmp_path):
    "Of records and of scratch: nothing in them is a command."
    env = dict(FSD_CACHE=str(tmp_path / ODD / "cache"))
    text, code = workflow(tmp_path, "table", methods="baseline", seeds="0", env=env,
                          results=f"{ODD}/_runs", scratch=ODD)
    assert code == 0 and "finished baseline-seed0" in text, text
    assert (tmp_path / ODD / "_runs/demo/table.md").exists()
    for file in ("logs/demo/runs/baseline-seed0.log", "notebooks/demo/runs/baseline-seed0.ipynb"):
        assert (tmp_path / ODD / file).exists(), file
    assert not list(tmp_path.rglob("PWN")) and not (ROOT / "PWN").exists()


def test_a_clone_may_lie_anywhere(tmp_path):
    "The grid of a clone whose path a shell would take apart, with its own environment's Python."
    clone = tmp_path / "x y'z $(touch PWN)" / "clone"
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"],
                            cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and name.split("/")[0] in ("fsd_sdpose", "nbs", "workflow",
                                                              "results"):
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
    (clone / ".venv").symlink_to(sys.prefix)
    env = dict(FSD_CACHE=str(clone / "_data"))
    process = start(clone, "table", root=clone, python=clone / ".venv/bin/python", env=env,
                    methods="baseline", seeds="0", results="_runs")
    text = process.communicate(timeout=LIMIT)[0]
    assert process.returncode == 0 and "finished baseline-seed0" in text, text
    assert (clone / "_runs/demo/table.md").exists() and not list(tmp_path.rglob("PWN"))


STUB = f"""#!{sys.executable}
import json, sys
print(json.dumps(sys.argv[1:]))
"""


@pytest.mark.parametrize("target, variables", [
    ("demo", ("METHODS", "SEEDS", "THREADS", "PROFILE")),
    ("grid", ("STUDY", "METHODS", "SEEDS", "SWEEPS", "RESULTS", "THREADS")),
    ("unlock", ("PROFILE",))])
def test_make_hands_over_its_variables_as_they_are(tmp_path, target, variables):
    "What the workflow is called with; make itself would expand a variable's `$`."
    for name in ("Makefile", "requirements.lock", "settings.ini", "setup.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    python, ready = tmp_path / ".venv/bin/python", tmp_path / ".venv/.ready"
    python.parent.mkdir(parents=True)
    python.write_text(STUB, encoding="utf-8")
    python.chmod(0o755)
    ready.touch()
    value = f"{ODD}, $x"
    done = subprocess.run(["make", "-s", target, *(f"{v}={value}" for v in variables)],
                          cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT)
    arguments = json.loads(done.stdout.splitlines()[0])
    for name in set(variables) - {"PROFILE"}:
        assert f"{name.lower()}={value}" in arguments
    if "PROFILE" in variables:
        assert f"workflow/profiles/{value}" in arguments
    assert not list(tmp_path.rglob("PWN"))


@pytest.mark.parametrize("takes, save_every, expected", [
    (True, 1, True), (True, 0, False), (False, 1, False)])
def test_stopped_runs_are_resumed_where_states_are_saved(
        tmp_path, monkeypatch, takes, save_every, expected):
    "If the template can be told to, which is asked of the template."
    monkeypatch.syspath_prepend(str(ROOT / "workflow"))
    grid = importlib.import_module("grid")
    cell = dict(cell_type="code", metadata=dict(tags=["parameters"]),
                source=["seed: int = 0\n", "resume: bool = False\n" if takes else "out = ''\n"])
    template = tmp_path / "template.ipynb"
    template.write_text(json.dumps(dict(cells=[cell])))
    monkeypatch.setattr(grid, "TEMPLATE", template)
    settings = dict(results=str(tmp_path), methods="fsd", seeds="0",
                    overrides=dict(save_every=save_every))
    assert ("resume: true" in grid.Grid(settings).parameters("runs/fsd-seed0")) is expected


def kill_run(process, name):
    "Kill the papermill process of a run, as the system does when memory runs out, if there is one."
    for p in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.Error):  # whatever ends by itself meanwhile
            line = " ".join(p.cmdline())
            if "-m papermill" in line and f"/{name}.ipynb" in line and "bash" not in p.name():
                for q in [p, *p.children(recursive=True)]:
                    q.kill()
                return True
    return False


def test_runs_are_made_once_and_repeated_where_they_died(tmp_path):
    "The next call makes the missing run; then there is nothing to do, in a fresh clone neither."
    settings = dict(methods="baseline fsd", env=dict(FSD_CACHE=str(tmp_path / "cache")))
    runs = tmp_path / "_runs/demo/runs"
    baseline, fsd = runs / "baseline-seed0/record.json", runs / "fsd-seed0/record.json"
    with start(tmp_path, "table", **settings) as process:
        while process.poll() is None and not kill_run(process, "fsd-seed0"):
            time.sleep(.2)
        text = process.communicate(timeout=LIMIT)[0]
    assert process.returncode != 0, text
    assert "FAILED fsd-seed0" in text and "finished baseline-seed0" in text, text
    assert baseline.exists() and not fsd.exists()

    made = baseline.read_bytes()
    text, code = workflow(tmp_path, "table", **settings)
    assert code == 0 and "finished fsd-seed0" in text and "baseline-seed0" not in text, text
    assert json.loads(fsd.read_text(encoding="utf-8"))["overrides"] == TINY
    assert baseline.read_bytes() == made and (tmp_path / "_runs/demo/table.csv").exists()
    text, code = workflow(tmp_path, "table", dry=True, **settings)
    assert code == 0 and "Nothing to be done" in text, text

    shutil.rmtree(tmp_path / ".snakemake")
    for n, f in enumerate(sorted((tmp_path / "_runs").rglob("*.*"))):
        os.utime(f, (n, n))
    text, code = workflow(tmp_path, "table", dry=True, **settings)
    assert code == 0 and "Nothing to be done" in text, text
