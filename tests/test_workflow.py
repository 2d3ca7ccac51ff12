"""The grid of runs: what the workflow plans, that it runs, and that it repeats what failed."""
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


def start(folder, *targets, dry=False, env=None, **config):
    "Call the workflow in a folder of its own."
    config = dict(results="_runs", overrides=json.dumps(TINY)) | config
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "workflow/Snakefile",
               "--profile", ROOT / "workflow/profiles/local", "--directory", folder,
               *(["--dry-run", "--quiet", "host"] if dry else []),
               "--config", *(f"{k}={v}" for k, v in config.items()), "--", *targets]
    env = os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1") | (env or {})
    return subprocess.Popen(list(map(str, command)), cwd=ROOT, env=env, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def workflow(*args, **config):
    "What a call of the workflow printed, and its exit code."
    with start(*args, **config) as process:
        return process.communicate(timeout=LIMIT)[0], process.returncode


def test_one_job_per_run_and_per_point(tmp_path):
    "A sweep's point that changes nothing is the study's run; data is prepared once for all."
    text, code = workflow(tmp_path, "all", dry=True, methods="baseline fsd token_detached",
                          seeds="0 3", sweeps="foreground_weight")
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
    (dict(results=ROOT / "results"), "name another folder with results=")],
    ids=["method", "sweep", "results"])
def test_mistakes_are_named_before_anything_runs(tmp_path, config, message):
    text, code = workflow(tmp_path, "all", dry=True, **config)
    assert code != 0 and message in text and not (tmp_path / "_runs").exists(), text


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
