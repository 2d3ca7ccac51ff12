"""The grid of runs: what the workflow plans, that it runs, that it repeats nothing without need and everything that failed."""
import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import LIMIT

ROOT = Path(__file__).resolve().parent.parent
TINY = dict(epochs=1, train_images=24, val_images=8, start="", flip_test=False, scene=dict(size=[128, 96], people=1))
pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("snakemake") is None, reason="snakemake is not installed: pip install -e '.[dev]'")]


def call(folder, *targets, dry=False, env=None, **config):
    "How to call the workflow in a folder of its own."
    config = dict(results="_runs", overrides=TINY) | config
    settings = [f"{k}={json.dumps(v) if isinstance(v, dict) else v}" for k, v in config.items()]
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workflow/Snakefile"), "--profile", str(ROOT / "workflow/profiles/local"),
               "--directory", str(folder), *(["--dry-run", "--quiet", "host"] if dry else []), "--config", *settings, "--", *targets]
    env = os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1") | (env or {})
    return command, dict(cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def workflow(*args, **config):
    "What a call of the workflow printed, and its exit code."
    command, how = call(*args, **config)
    done = subprocess.run(command, timeout=LIMIT, **how)
    return done.stdout, done.returncode


def jobs(text):
    "Number of jobs by rule, from a dry run."
    table = re.search(r"^Job stats:\n(.*?)^total", text, flags=re.M | re.S)
    assert table or "Nothing to be done" in text, text
    return {k: int(v) for k, v in re.findall(r"^(\w+) +(\d+)$", table[1], flags=re.M)} if table else {}


def planned(text):
    return set(re.findall(r"_runs/demo/(\S+)/record.json, _runs/demo/\S+/history.csv", text))


def test_one_job_per_run_and_per_point(tmp_path):
    "Methods and points times seeds; a point that changes nothing is the study's own run; the data is prepared once for all that share it."
    from fsd_sdpose.studies import SWEEPS
    text, code = workflow(tmp_path, "all", dry=True, methods="baseline fsd token_detached", seeds="0 3", sweeps="foreground_weight")
    points = {f"sweeps/foreground_weight/{p.label}" for p in SWEEPS["foreground_weight"].points if p.overrides}
    assert len(points) == len(SWEEPS["foreground_weight"].points) - 1
    folders = {f"{run}-seed{k}" for run in {"runs/baseline", "runs/fsd", "runs/token_detached", *points} for k in (0, 3)}
    assert code == 0 and planned(text) == folders, text
    assert jobs(text) == dict(prepare=1, run=len(folders), write_table=1, all=1)


@pytest.mark.parametrize("config, said", [
    (dict(methods="fsd_stong"), "did you mean 'fsd_strong'?"), (dict(sweeps="fg"), "unknown sweep 'fg'"), (dict(results=ROOT / "results"), "name another folder with results=")],
    ids=["method", "sweep", "results"])
def test_mistakes_are_named_before_anything_runs(tmp_path, config, said):
    text, code = workflow(tmp_path, "all", dry=True, **config)
    assert code != 0 and said in text and not (tmp_path / "_runs").exists(), text


def kill_run(process, name):
    "Kill the papermill process of a run, as the system does when memory runs out; whether there was one."
    import psutil
    for p in psutil.Process(process.pid).children(recursive=True):
        try:
            line = " ".join(p.cmdline())
        except psutil.Error:
            continue
        if "-m papermill" in line and f"/{name}.ipynb" in line and "bash" not in p.name():
            with suppress(psutil.NoSuchProcess):  # whatever ends by itself meanwhile
                for q in [p, *p.children(recursive=True)]:
                    q.kill()
            return True
    return False


def test_runs_are_made_once_and_repeated_where_they_died(tmp_path):
    "One run is killed, the other finishes; the next call makes the missing one and the table; then there is nothing to do, in a clone without snakemake's memory neither."
    settings = dict(methods="baseline fsd", env=dict(FSD_CACHE=str(tmp_path / "cache")))
    record = {m: tmp_path / f"_runs/demo/runs/{m}-seed0/record.json" for m in ("baseline", "fsd")}
    command, how = call(tmp_path, "table", **settings)
    with subprocess.Popen(command, **how) as process:
        while process.poll() is None and not kill_run(process, "fsd-seed0"):
            time.sleep(.2)
        text = process.communicate(timeout=LIMIT)[0]
    assert process.returncode != 0 and "FAILED fsd-seed0" in text and "finished baseline-seed0" in text, text
    assert record["baseline"].exists() and not record["fsd"].exists()

    made = record["baseline"].read_bytes()
    text, code = workflow(tmp_path, "table", **settings)
    assert code == 0 and "finished fsd-seed0" in text and "baseline-seed0" not in text, text
    assert json.loads(record["fsd"].read_text(encoding="utf-8"))["overrides"] == TINY and record["baseline"].read_bytes() == made
    assert (tmp_path / "_runs/demo/table.csv").exists()
    text, code = workflow(tmp_path, "table", dry=True, **settings)
    assert code == 0 and "Nothing to be done" in text, text

    shutil.rmtree(tmp_path / ".snakemake")
    for n, f in enumerate(sorted((tmp_path / "_runs").rglob("*.*"))):
        os.utime(f, (n, n))
    text, code = workflow(tmp_path, "table", dry=True, **settings)
    assert code == 0 and "Nothing to be done" in text, text
