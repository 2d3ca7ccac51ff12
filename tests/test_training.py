"""The training loop and the experiments on real photographs (Leeds Sports Pose Extended under FSD_DATA) and through papermill."""
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from fsd_sdpose.data import PoseDataset
from fsd_sdpose.evaluation import evaluate
from fsd_sdpose.experiments import METHODS, gather, run_experiment, subset_file, weights_digest
from fsd_sdpose.models import sdpose
from fsd_sdpose.training import build_losses, fit, make_config, make_optimizer, train_step

ROOT = Path(__file__).resolve().parent.parent
TINY = dict(epochs=1, train_images=24, val_images=8, batch_size=16, scene=dict(size=[128, 96], people=1))


@pytest.fixture
def lspet():
    folder = Path(os.environ.get("FSD_DATA") or "/nowhere") / "lspet"
    if not folder.is_dir():
        pytest.skip("FSD_DATA is not set, or holds no lspet: the photographs are not at hand")
    return folder


def test_overfits_sixteen_photographs(lspet, tmp_path):
    "Sixteen real photographs, learned by heart: AP above 90 on them."
    file = subset_file(lspet / "person_keypoints_train.json", 16, tmp_path)
    sets = [PoseDataset(file, lspet / "images", input_size=(128, 96)) for _ in range(2)]
    config = make_config(epochs=400, batch_size=16, base_batch=16, lr=2e-3, warmup_steps=20, milestones=(0.85,), flip_test=False)
    torch.manual_seed(0)
    history = fit(sdpose("n", 14), *sets, config, show=False)
    assert history.AP.iloc[-1] > 90
    assert history.loss_heatmap.iloc[-1] < 0.1 * history.loss_heatmap.iloc[0]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains(method, tmp_path):
    "One short run per method; all start from the same weights, and learned keypoint weights are recorded."
    record = run_experiment("demo", method, 3, TINY, out=tmp_path / "run", show=False)
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    torch.manual_seed(3)
    assert record["initial_weights"] == weights_digest(sdpose("n"))
    if "adaptive" in method:
        weights = list(record["keypoint_weights"].values())
        assert len(weights) == 17 and abs(sum(weights) / 17 - 1) < 1e-5 and max(weights) > min(weights)
    assert math.isfinite(history.loss.iloc[-1]) and history.loss_visual.iloc[-1] > 0 and history.loss_keypoint.iloc[-1] > 0
    saved = json.loads((tmp_path / "run" / "record.json").read_text())
    assert saved["metrics"].keys() == record["metrics"].keys() and saved["config"]["seed"] == 3


def test_adaptive_weights_learn():
    config = make_config(loss_kpt_token_dist=METHODS["adaptive"]["loss_kpt_token_dist"])
    torch.manual_seed(0)
    model, losses = sdpose("n"), build_losses(config)
    optimizer = make_optimizer(model, losses, config)
    batch = dict(image=torch.randint(0, 255, (4, 128, 96, 3), dtype=torch.uint8), joints=torch.rand(4, 17, 2) * 90, visible=torch.ones(4, 17))
    for _ in range(3):
        train_step(model, batch, losses, optimizer, config, "cpu")
    assert losses["keypoint"].keypoint_logits.abs().min() > 0


def test_a_run_on_photographs_is_learned_and_recorded(lspet, tmp_path):
    "baseline and fsd on real photographs: the loss falls, both see the same data from the same weights, and the records say so."
    small = dict(variant="n", train_images=192, val_images=32, epochs=3, batch_size=32, base_batch=32, lr=1e-3, warmup_steps=4, precision="fp32", workers=0, val_every=0)
    for method in ("baseline", "fsd"):
        run_experiment("lspet", method, 1, small, out=tmp_path / "lspet" / "runs" / f"{method}-seed1", data=lspet.parent, show=False)
    runs = gather("lspet", tmp_path)
    val = subset_file(lspet / "person_keypoints_val.json", 32, tmp_path)
    again = evaluate(val, tmp_path / "lspet" / "runs" / "fsd-seed1" / "results.json")  # anyone can score the predictions again
    assert again["AP"] == pytest.approx(runs.set_index("method").AP["fsd"])
    assert list(runs.method) == ["baseline", "fsd"] and runs.initial_weights.nunique() == 1 and set(runs.boxes) == {"ground-truth boxes"}
    for method in ("baseline", "fsd"):
        history = pd.read_csv(tmp_path / "lspet" / "runs" / f"{method}-seed1" / "history.csv")
        assert history.loss_heatmap.iloc[-1] < history.loss_heatmap.iloc[0]


def test_a_failed_run_leaves_no_record(tmp_path):
    with pytest.raises(FloatingPointError, match="detached teacher drifts"):
        run_experiment("demo", "fsd", 0, TINY | dict(max_token_rms=1e-3), out=tmp_path / "run", show=False)
    assert not (tmp_path / "run").exists()


def papermill(tmp_path, *args):
    env = os.environ | dict(PYTHONPATH=str(ROOT))
    return subprocess.run([sys.executable, "-m", "papermill", str(ROOT / "nbs/experiments/fsd.ipynb"), str(tmp_path / "out.ipynb"), "--no-progress-bar", *args],
                          capture_output=True, text=True, cwd=tmp_path, env=env)


def test_papermill_from_elsewhere_with_parameters_that_arrive(tmp_path):
    done = papermill(tmp_path, "-p", "seed", "7", "-p", "out", str(tmp_path / "run"), "-y", json.dumps(dict(overrides=TINY)))
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert (record["method"], record["seed"], record["overrides"]) == ("fsd", 7, TINY)


def test_papermill_refuses_a_wrong_parameter(tmp_path):
    done = papermill(tmp_path, "-p", "seed", "three", "-p", "out", str(tmp_path / "run"))
    assert done.returncode != 0 and "seed must be an integer" in done.stderr and not (tmp_path / "run").exists()
