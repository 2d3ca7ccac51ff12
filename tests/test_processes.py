"""Two processes on a CPU (gloo) train and evaluate as one process with the whole batch does."""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import LIMIT, ROOT

from fsd_sdpose import training
from fsd_sdpose.evaluation import read_ground_truth
from fsd_sdpose.models import sdpose
from fsd_sdpose.processes import Processes, join_processes
from fsd_sdpose.synthetic import make_dataset
from fsd_sdpose.training import fit, make_config

# the address is given, because a machine need not know itself by its own name
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr",
            "127.0.0.1", "--nproc-per-node", "2"]
ADAPTIVE = dict(
    loss_vis_token_dist=dict(type="ForegroundTokenDistilLoss", loss_weight=1e-4),
    loss_kpt_token_dist=dict(type="AdaptiveForegroundDistilLoss", loss_weight=1e-4))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Nine people to train on (no whole batches) and seven to evaluate (not divisible by two)."
    root = tmp_path_factory.mktemp("people")
    file = make_dataset(root, 16, seed=3, size=(128, 96), people=1, occlusion=0., truncation=0.)
    data = json.loads(file.read_text())
    for name, images in (("train", data["images"][:9]), ("val", data["images"][9:])):
        ids = {image["id"] for image in images}
        people = [a for a in data["annotations"] if a["image_id"] in ids]
        part = data | dict(images=images, annotations=people)
        (root / f"{name}.json").write_text(json.dumps(part))
    return root


def run(command, **env):
    "Run a program as if no other launcher had started this one."
    inherited = {k: v for k, v in os.environ.items()
                 if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    done = subprocess.run(list(map(str, command)), env=inherited | dict(OMP_NUM_THREADS="1") | env,
                          capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def launch(folder, launcher, name, **settings):
    "What each process of the script saw, by rank, and the name of its output files."
    pytest.importorskip("accelerate")
    out = folder / f"{name}-{len(launcher)}"
    command = [*launcher, ROOT / "tests/two_processes.py", folder, out, json.dumps(settings)]
    run(command, PYTHONPATH=str(ROOT))
    return [json.loads(f.read_text()) for f in sorted(folder.glob(f"{out.name}.rank*"))], out


@pytest.mark.slow
@pytest.mark.parametrize("name, settings", [
    ("plain", dict(epochs=3)), ("adaptive", dict(epochs=2, accumulate=2) | ADAPTIVE)],
    ids=["plain", "adaptive, accumulated"])
def test_two_processes_train_as_one(folder, name, settings):
    (one,), one_file = launch(folder, [sys.executable], name, **settings)
    (first, second), two_file = launch(folder, TORCHRUN, name, **settings)
    for column in ("loss", "loss_heatmap", "loss_visual", "loss_keypoint"):
        loss = first["history"][column]
        assert loss == pytest.approx(one["history"][column], rel=1e-5), column
        assert loss == second["history"][column]  # every process returns the same history
    assert first["history"]["AP"] == pytest.approx(one["history"]["AP"], nan_ok=True)
    # batch norm saw the whole batch; only the first process is visited; each person counts once
    assert first["variance"] == pytest.approx(one["variance"], rel=1e-4)
    assert first["variance"] == second["variance"]
    assert (first["visited"], second["visited"]) == (one["visited"], [])
    assert first["before"] == pytest.approx(one["before"], nan_ok=True)
    a, b = (json.loads(f.with_suffix(".before.json").read_text()) for f in (one_file, two_file))
    people = read_ground_truth(folder / "val.json")["annotations"]
    assert [r["image_id"] for r in a] == [r["image_id"] for r in b] and len(b) == 7
    assert sorted(r["image_id"] for r in b) == sorted(person["image_id"] for person in people)
    for r, s in zip(a, b, strict=True):
        assert r["keypoints"] == pytest.approx(s["keypoints"], abs=.01)
    weights = ({p.name for p in f.with_suffix(".weights").iterdir()} for f in (one_file, two_file))
    assert next(weights) == next(weights)


@pytest.mark.slow
def test_the_program_under_torchrun(tmp_path):
    "One record, written by the first process, that says what a lone process says."
    program = [Path(sys.executable).with_name("fsd-sdpose"), "train", "demo", "fsd", "--seed", "3",
               "--set", "epochs=2", "--set", "warmup_steps=1", "--set", "precision=fp32",
               "--set", "train_images=32", "--set", "val_images=7",
               "--set", 'scene={"size": [128, 96], "people": 1}', "--quiet", "--keep-weights"]
    env, records = dict(FSD_CACHE=str(tmp_path / "cache")), []
    # the first makes the data, both processes at once
    for name, launcher in (("two", [*TORCHRUN, "--no-python"]), ("one", [])):
        done = run([*launcher, *program, "--out", tmp_path / name], **env)
        assert done.stdout.count("before training") == 1
        assert not re.search(r"\wWarning\b", done.stderr), done.stderr  # as UserWarning
        records.append(json.loads((tmp_path / name / "record.json").read_text()))
    two, one = records
    assert (two["processes"], one["processes"]) == (2, 1)
    assert two["metrics"]["OKS"] == pytest.approx(one["metrics"]["OKS"], rel=1e-3)
    assert two["initial_weights"] == one["initial_weights"]
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == [
        "best.safetensors", "draws.csv", "history.csv", "last.safetensors", "record.json",
        "results.json"]


@pytest.mark.slow
def test_half_precision_in_two_processes(folder):
    one, two = (launch(folder, launcher, "bf16", epochs=2, precision="bf16")[0][0]["history"]
                for launcher in ([sys.executable], TORCHRUN))
    assert two["loss"] == pytest.approx(one["loss"], rel=.02)


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch):
    monkeypatch.setattr(training, "join_processes", lambda device: Processes(0, 3))
    monkeypatch.setattr(training, "_check_sets", lambda *_: None)
    message = "batch_size=4 cannot be split over 3 processes with accumulate=1"
    with pytest.raises(ValueError, match=message):
        fit(sdpose("n"), None, None, make_config(batch_size=4, device="cpu"), show=False)


def test_launchers_are_noticed_only_where_there_are_several(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert join_processes(torch.device("cpu")) == Processes()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ImportError, match="pip install accelerate"):
        join_processes(torch.device("cpu"))
