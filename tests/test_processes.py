"""Two processes on a CPU (gloo) train and evaluate as one process with the whole batch does."""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import LIMIT

from fsd_sdpose.evaluation import read_ground_truth
from fsd_sdpose.processes import Processes
from fsd_sdpose.synthetic import make_dataset
from fsd_sdpose.training import fit, make_config

ROOT = Path(__file__).resolve().parent.parent
# the address is given, because a machine need not know itself by its own name
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
LOSSES = ["loss", "loss_heatmap", "loss_visual", "loss_keypoint"]
ADAPTIVE = dict(loss_vis_token_dist=dict(type="ForegroundTokenDistilLoss", loss_weight=1e-4), loss_kpt_token_dist=dict(type="AdaptiveForegroundDistilLoss", loss_weight=1e-4))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Nine people to train on (the last does not fill a batch) and seven to evaluate (not divisible by two)."
    root = tmp_path_factory.mktemp("people")
    file = make_dataset(root, 16, seed=3, size=(128, 96), people=1, occlusion=0., truncation=0.)
    data = json.loads(file.read_text())
    for name, images in (("train", data["images"][:9]), ("val", data["images"][9:])):
        ids = {i["id"] for i in images}
        part = data | dict(images=images, annotations=[a for a in data["annotations"] if a["image_id"] in ids])
        (root / f"{name}.json").write_text(json.dumps(part))
    return root


def launch(folder, processes, name, **settings):
    "The script under torchrun, or alone."
    pytest.importorskip("accelerate")
    out = folder / f"{name}-{processes}.json"
    command = [*TORCHRUN, "--nproc-per-node", str(processes)] if processes > 1 else [sys.executable]
    env = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")} | dict(OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    done = subprocess.run([*command, str(ROOT / "tests/two_processes.py"), str(folder), str(out), json.dumps(settings)], capture_output=True, text=True, env=env, timeout=LIMIT)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text()), out


@pytest.mark.slow
@pytest.mark.parametrize(("name", "settings"), [("plain", dict(epochs=3)), ("adaptive", dict(epochs=2, accumulate=2) | ADAPTIVE)], ids=["plain", "adaptive, accumulated"])
def test_two_processes_train_as_one(folder, name, settings):
    (one, one_file), (two, two_file) = (launch(folder, n, name, **settings) for n in (1, 2))
    assert (one["count"], two["count"]) == (1, 2)
    (history, visited, variance), *_ = one["ranks"]
    (first, second) = two["ranks"]
    for column in LOSSES:
        assert first[0][column] == pytest.approx(history[column], rel=1e-5), column
        assert first[0][column] == second[0][column]  # every process returns the same history
    assert first[0]["AP"] == pytest.approx(history["AP"], nan_ok=True)
    assert first[2] == pytest.approx(variance, rel=1e-4) and first[2] == second[2]  # batch norm saw the whole batch
    assert (first[1], second[1]) == (visited, [])  # only the first process is visited
    a, b = (json.loads(f.with_suffix(".before.json").read_text()) for f in (one_file, two_file))
    people = read_ground_truth(folder / "val.json")
    assert [r["image_id"] for r in a] == [r["image_id"] for r in b] and len(b) == 7  # every person once, in the same order
    assert sorted(r["image_id"] for r in b) == sorted(x["image_id"] for x in people["annotations"])
    for r, s in zip(a, b, strict=True):
        assert r["keypoints"] == pytest.approx(s["keypoints"], abs=.01)
    assert one["before"] == pytest.approx(two["before"], nan_ok=True)
    assert sorted(p.name for p in two_file.with_suffix(".weights").iterdir()) == sorted(p.name for p in one_file.with_suffix(".weights").iterdir())


@pytest.mark.slow
def test_the_program_under_torchrun(tmp_path):
    "One record, written by the first process, that says what a lone process says."
    tiny = ["--set", "epochs=2", "--set", "train_images=32", "--set", "val_images=7", "--set", 'scene={"size": [128, 96], "people": 1}', "--quiet", "--keep-weights"]
    program = [str(Path(sys.executable).with_name("fsd-sdpose")), "train", "demo", "fsd", "--seed", "3", *tiny, "--out"]
    torchrun = [*TORCHRUN, "--nproc-per-node", "2", "--no-python"]
    env = os.environ | dict(OMP_NUM_THREADS="1", FSD_CACHE=str(tmp_path / "cache"))
    records = []
    for name, launcher in (("two", torchrun), ("one", [])):  # the first makes the data, both processes at once
        done = subprocess.run([*launcher, *program, str(tmp_path / name)], capture_output=True, text=True, env=env, cwd=tmp_path, timeout=LIMIT)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("before training") == 1
        assert not re.search(r"\wWarning\b", done.stderr), done.stderr  # as UserWarning
        records.append(json.loads((tmp_path / name / "record.json").read_text()))
    two, one = records
    assert (two["processes"], one["processes"]) == (2, 1)
    assert two["metrics"]["OKS"] == pytest.approx(one["metrics"]["OKS"], rel=1e-3) and two["initial_weights"] == one["initial_weights"]
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == ["best.safetensors", "history.csv", "last.safetensors", "record.json", "results.json"]


@pytest.mark.slow
def test_half_precision_in_two_processes(folder):
    one, two = (launch(folder, n, "bf16", epochs=2, precision="bf16")[0]["ranks"][0][0]["loss"] for n in (1, 2))
    assert two == pytest.approx(one, rel=.02)


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch):
    from fsd_sdpose import training
    monkeypatch.setattr(training, "join_processes", lambda device: Processes(0, 3))
    monkeypatch.setattr(training, "_check_sets", lambda *_: None)
    from fsd_sdpose.models import sdpose
    with pytest.raises(ValueError, match="batch_size=4 cannot be split over 3 processes with accumulate=1"):
        fit(sdpose("n"), None, None, make_config(batch_size=4, device="cpu"), show=False)


def test_launchers_are_noticed_only_where_there_are_several(monkeypatch):
    from fsd_sdpose.processes import join_processes
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert join_processes(torch.device("cpu")) == Processes()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ImportError, match="pip install accelerate"):
        join_processes(torch.device("cpu"))
