"""The training loop, its checkpoints, and the experiments on real photographs (Leeds Sports Pose
Extended under FSD_DATA) and through papermill."""
import inspect
import json
import math
import os
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from fsd_sdpose import losses as loss_module
from fsd_sdpose.checkpoints import load_weights, weights_digest
from fsd_sdpose.crops import Augmentation
from fsd_sdpose.data import PoseDataset
from fsd_sdpose.evaluation import evaluate
from fsd_sdpose.experiments import run_experiment, subset_file
from fsd_sdpose.models import sdpose
from fsd_sdpose.studies import METHODS, resolve_loss
from fsd_sdpose.synthetic import make_dataset
from fsd_sdpose.tables import gather
from fsd_sdpose.training import build_losses, fit, make_config, validate

SCENE = dict(size=[128, 96], people=1)
TINY = dict(start="", epochs=1, train_images=24, val_images=8, batch_size=16, warmup_steps=1,
            scene=SCENE)
CHECKPOINTS = ["best.safetensors", "last.safetensors", "resume-before.pt", "resume.pt"]


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def dataset(file, **kwargs):
    return PoseDataset(file, file.parent / "images", input_size=(128, 96), **kwargs)


@pytest.mark.slow
def test_overfits_sixteen_photographs(lspet, tmp_path):
    "Sixteen real photographs, learned by heart: AP above 90 on them."
    file = subset_file(lspet / "person_keypoints_train.json", 16, tmp_path)
    sets = [PoseDataset(file, lspet / "images", input_size=(128, 96)) for _ in range(2)]
    config = make_config(epochs=400, batch_size=16, base_batch=16, lr=2e-3, warmup_steps=20,
                         milestones=(0.85,), flip_test=False)
    torch.manual_seed(0)
    history = fit(sdpose("n", 14), *sets, config, show=False)
    assert history.AP.iloc[-1] > 90
    assert history.loss_heatmap.iloc[-1] < 0.1 * history.loss_heatmap.iloc[0]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains(method, tmp_path):
    "One short run per method; all start from the same weights, and learned weights are recorded."
    record = run_experiment("demo", method, 3, TINY, out=tmp_path / "run", show=False)
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    torch.manual_seed(3)
    assert record["initial_weights"] == weights_digest(sdpose("n").state_dict())
    if "adaptive" in method:
        weights = list(record["keypoint_weights"].values())
        assert len(weights) == 17 and abs(sum(weights) / 17 - 1) < 1e-5
        assert max(weights) > min(weights)
    distilled = method != "no_distillation"  # the one method without distillation
    assert math.isfinite(history.loss.iloc[-1])
    for name in ("loss_visual", "loss_keypoint", "grad_visual", "grad_keypoint"):
        assert (history[name].iloc[-1] > 0) == distilled
    saved = json.loads((tmp_path / "run" / "record.json").read_text())
    assert saved["metrics"].keys() == record["metrics"].keys() and saved["config"]["seed"] == 3


@pytest.mark.slow
def test_a_run_on_photographs_is_learned_and_recorded(lspet, tmp_path):
    "On real photographs the loss falls; both methods see the same data from the same weights."
    small = dict(variant="n", train_images=192, val_images=32, epochs=3, batch_size=32, lr=1e-3,
                 base_batch=32, warmup_steps=4, precision="fp32", workers=0, val_every=0)
    for method in ("baseline", "fsd"):
        out = tmp_path / "lspet" / "runs" / f"{method}-seed1"
        run_experiment("lspet", method, 1, small, out=out, data=lspet.parent, show=False)
        history = pd.read_csv(out / "history.csv")
        assert history.loss_heatmap.iloc[-1] < history.loss_heatmap.iloc[0]
    runs = gather("lspet", tmp_path)
    val = subset_file(lspet / "person_keypoints_val.json", 32, tmp_path)
    again = evaluate(val, out / "results.json")  # anyone can score the predictions again
    assert again["AP"] == pytest.approx(runs.set_index("method").AP["fsd"])
    assert list(runs.method) == ["baseline", "fsd"] and runs.initial_weights.nunique() == 1
    assert set(runs.boxes) == {"ground-truth boxes"}


def test_a_failed_run_leaves_no_record(tmp_path):
    spoiled = TINY | dict(max_token_rms=1e-3)
    with pytest.raises(FloatingPointError, match="detached teacher drifts"):
        run_experiment("demo", "fsd", 0, spoiled, out=tmp_path / "run", show=False)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    "Eight small synthetic pictures, one person each."
    folder = tmp_path_factory.mktemp("people") / "set"
    return make_dataset(folder, 8, seed=5, size=(128, 96), people=1)


ADAPTIVE = dict(type="AdaptiveForegroundDistilLoss", loss_weight=1e-3)
DYNAMIC = dict(type="DynamicForegroundDistilLoss", loss_weight=1e-3, start_epoch=0.2,
               end_epoch=0.8, unit="fraction")
SHORT = dict(epochs=4, batch_size=4, base_batch=4, warmup_steps=3, milestones=(0.7,), val_every=1,
             save_every=1, flip_test=False, loss_vis_token_dist=DYNAMIC,
             loss_kpt_token_dist=ADAPTIVE)


def short_run(people, checkpoints=None, validated=True, setup=None, settings=None, **kwargs):
    "Four epochs of two steps with all that has a state: dropout, augmentation, learned weights ..."
    config = make_config(**SHORT | (settings or {}))
    torch.manual_seed(7)
    model, losses = sdpose("n"), build_losses(config)
    for _, mlp in model.keypoint_head["tokenpose"].transformer_layer1.layers:
        mlp.fn.fn.net[2] = nn.Dropout(0.1)  # draws from torch's random state
    if setup:
        setup(model, losses)
    train, val = (dataset(people, augment=a, seed=2) for a in (Augmentation(), None))
    history = fit(model, train, val if validated else None, config, False, losses,
                  checkpoints=checkpoints, **kwargs)
    return history, model, losses


class Killed(BaseException):
    pass


def killed_at(when):
    def after_epoch(epoch, model, losses):
        if epoch == when:
            raise Killed
    return after_epoch


def killed_run(people, folder, when, **kwargs):
    with pytest.raises(Killed):
        short_run(people, folder, after_epoch=killed_at(when), **kwargs)


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("method", ["fsd", "dynamic"])
def test_eight_frames_from_fit_to_the_mask(people, monkeypatch, method):
    "One plain loop: few functions lie between what a user calls and what FSD is about."
    library, seen = Path(loss_module.__file__).parent, []
    def recorded(*args, **kwargs):
        frames = [f.function for f in inspect.stack() if Path(f.filename).parent == library]
        seen.append(["foreground_mask", *frames])
        return mask(*args, **kwargs)
    mask = loss_module.foreground_mask
    monkeypatch.setattr(loss_module, "foreground_mask", recorded)
    loss = resolve_loss(METHODS[method].visual, 17, 1)
    settings = dict(epochs=1, batch_size=8, loss_vis_token_dist=loss)
    short_run(people, validated=False, settings=settings)
    (frames,) = [f for f in seen if "train_step" in f and "mask_values" not in f]
    assert frames[-1] == "fit" and len(frames) <= 8, frames


@pytest.mark.slow
def test_a_killed_run_goes_on_exactly(people, tmp_path):
    "Killed twice between epochs: history, weights, files and predictions as if it had run through."
    straight, model, losses = short_run(people, tmp_path / "a", results_file=tmp_path / "a.json")
    for when in (1, 3):  # before the first state is saved, and later
        killed_run(people, tmp_path / "b", when, resume=True)
        torch.rand(when)  # the new process has another random state
    visits = []
    resumed, again, learned = short_run(
        people, tmp_path / "b", resume=True, results_file=tmp_path / "b.json",
        after_epoch=lambda epoch, *_: visits.append(epoch))
    straight, resumed = (history.drop(columns="seconds") for history in (straight, resumed))
    pd.testing.assert_frame_equal(resumed, straight, check_exact=True)
    assert visits == [3, 4]
    assert same(model, again) and same(losses, learned)
    assert losses["keypoint"].keypoint_logits.abs().min() > 0
    assert names(tmp_path / "a") == names(tmp_path / "b") == CHECKPOINTS
    for name in ("/best.safetensors", "/last.safetensors", ".json"):
        assert Path(f"{tmp_path}/a{name}").read_bytes() == Path(f"{tmp_path}/b{name}").read_bytes()
    finished, *_ = short_run(people, tmp_path / "b", resume=True)  # nothing is left to do
    pd.testing.assert_frame_equal(finished.drop(columns="seconds"), resumed)


def test_best_and_last_weights(people, tmp_path, monkeypatch):
    "best.safetensors holds the weights with the highest AP, last.safetensors those of the end."
    scores, kept = iter([10.0, 30.0, 20.0, 30.0]), {}
    def after_epoch(epoch, model, losses):
        kept[epoch] = {k: v.clone() for k, v in model.state_dict().items()}
    monkeypatch.setattr("fsd_sdpose.training.validate", lambda *args: dict(AP=next(scores)))
    history, *_ = short_run(people, tmp_path, settings=dict(save_every=0), after_epoch=after_epoch)
    assert list(history.AP) == [10, 30, 20, 30] and names(tmp_path) == CHECKPOINTS[:2]
    for name, epoch in zip(CHECKPOINTS, (2, 4), strict=False):
        losses = build_losses(make_config(loss_kpt_token_dist=ADAPTIVE))
        read, expected = load_weights(sdpose("n"), tmp_path / name, losses), sdpose("n")
        expected.load_state_dict(kept[epoch])
        assert same(read, expected)


def test_best_weights_score_the_best_ap(people, tmp_path):
    history, *_ = short_run(people, tmp_path)
    best = load_weights(sdpose("n"), tmp_path / "best.safetensors")
    metrics = validate(best, dataset(people), make_config(batch_size=4, flip_test=False), "cpu")
    assert metrics["AP"] == pytest.approx(history.AP.max())


@pytest.mark.parametrize("damage", ["start", "half", "bit", "empty", "text", "foreign"])
def test_a_damaged_state_is_one_clear_error(people, tmp_path, damage):
    killed_run(people, tmp_path, 2, validated=False)
    assert names(tmp_path) == ["last.safetensors", "resume.pt"]  # the state before is not there yet
    file = tmp_path / "resume.pt"
    state = file.read_bytes()
    flipped = bytearray(state)
    flipped[len(state) // 2] ^= 1  # inside the weights: only a checksum sees it
    content = dict(start=state[:5000], half=state[: len(state) // 2], bit=bytes(flipped), empty=b"",
                   text=b"epochs: 4\n")
    if damage == "foreign":
        torch.save(dict(weights=torch.zeros(3)), file)
    else:
        file.write_bytes(content[damage])
    with pytest.raises(ValueError, match="resume.pt cannot be read and is damaged") as error:
        short_run(people, tmp_path, validated=False, resume=True)
    assert "\n" not in str(error.value)


def test_resume_runs_no_code(people, tmp_path):
    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)
    torch.save(dict(settings=Harmful()), tmp_path / "resume.pt")
    with pytest.raises(ValueError, match="cannot be read"):
        short_run(people, tmp_path, validated=False, resume=True)
    assert not (tmp_path / "executed").exists()


def test_resume_refuses_another_run(people, tmp_path):
    killed_run(people, tmp_path, 2, validated=False)
    before = (tmp_path / "resume.pt").read_bytes()
    for settings, text in (
            (dict(lr=0.5), "lr was 0.001 and is 0.5"),
            (dict(seed=1), "seed was 0 and is 1"),
            (dict(loss_kpt_token_dist=dict(type="TokenDistilLoss")),
             "loss_kpt_token_dist.type was .*Adaptive.* and is .*TokenDistilLoss")):
        with pytest.raises(ValueError, match=text):
            short_run(people, tmp_path, validated=False, resume=True, settings=settings)
    assert (tmp_path / "resume.pt").read_bytes() == before
    killed_run(people, tmp_path, 0, validated=False)  # a new run removes what an earlier one left
    assert not names(tmp_path)


def test_tensorboard_holds_the_history(people, tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder, settings = tmp_path / "state", dict(tensorboard=tmp_path / "events")
    killed_run(people, folder, 3, **settings)
    history, *_ = short_run(people, folder, resume=True, **settings)
    events = reader.EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    logged = {c for c in history.columns if c != "epoch" and history[c].notna().any()}
    assert set(events.Tags()["scalars"]) == logged
    for name in ("loss", "loss_visual", "loss_keypoint", "grad_visual", "AP"):
        points = events.Scalars(name)
        assert [p.step for p in points] == [1, 2, 3, 4]  # also the third, which ran twice
        assert [p.value for p in points] == pytest.approx(list(history[name]), rel=1e-6)


def test_tensorboard_that_is_not_installed(people, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    (tmp_path / "last.safetensors").write_text("of an earlier run")
    with pytest.raises(ImportError, match="pip install tensorboard"):
        short_run(people, tmp_path, tensorboard=tmp_path / "events")
    assert names(tmp_path) == ["last.safetensors"]


@pytest.mark.parametrize("spoil, value, text", [
    (lambda model, losses: losses["keypoint"].keypoint_logits, math.nan,
     "keypoint term of cycle 1: AdaptiveForegroundDistilLoss: the loss is nan; "
     "non-finite input: keypoint_logits .17 of 17"),
    (lambda model, _: model.keypoint_head["tokenpose"].mlp_head[-1].bias, 1e25,  # square overflows
     "heatmap term of cycle 1: HeatmapMSELoss: the loss is inf; its inputs are finite"),
    (lambda model, _: model.backbone.conv1.weight, math.nan,
     "heatmap term of cycle 1: HeatmapMSELoss: the loss is nan")])
def test_a_loss_that_is_not_finite_stops_the_run(people, tmp_path, spoil, value, text):
    def setup(model, losses):
        nn.init.constant_(spoil(model, losses), value)
    with pytest.raises(FloatingPointError, match=f"epoch 1, step 1 of 2: {text}") as error:
        short_run(people, tmp_path / "run", setup=setup)
    assert "foreground_weight=1.5 with temperature=2.0" in str(error.value)
    assert not (tmp_path / "run").exists()


def test_spoiled_weights_are_not_saved(people, tmp_path):
    "A NaN that appears in a later epoch: the files of the epochs before stay whole without it."
    def after_epoch(epoch, model, losses):
        if epoch == 2:
            losses["keypoint"].keypoint_logits.register_hook(lambda g: g * math.nan)
    with pytest.raises(FloatingPointError, match="epoch 3, step 2 of 2: keypoint term of cycle 1"):
        short_run(people, tmp_path, after_epoch=after_epoch)
    assert names(tmp_path) == CHECKPOINTS
    resumed, *parts = short_run(people, tmp_path, resume=True)
    assert list(resumed.epoch) == [1, 2, 3, 4]
    assert all(p.isfinite().all() for part in parts for p in part.parameters())


def test_training_leaves_the_losses_checking(people):
    "Steps whose values are read late look at none; afterwards every loss looks again."
    _, _, losses = short_run(people, validated=False, settings=dict(epochs=1))
    nowhere = torch.full((1, 17, 8), math.nan)
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        losses["keypoint"](nowhere, nowhere, torch.ones(1, 17, 4, 4))


def test_gradient_ratios_are_logged(people):
    "Zero weight, zero ratio; ten times the weight, ten times the ratio."
    def row(weight):
        plain = dict(type="TokenDistilLoss", loss_weight=weight)
        settings = dict(epochs=1, loss_vis_token_dist=plain)
        return short_run(people, validated=False, settings=settings)[0].iloc[0]
    zero, small, large = (row(weight) for weight in (0.0, 1e-4, 1e-3))
    for column in ("grad_visual", "grad_visual_stem"):
        assert zero[column] == 0 and large[column] == pytest.approx(10 * small[column], rel=1e-3)
    assert zero.grad_keypoint > 0
    assert list(zero.index) == [
        "epoch", "lr", "loss", "loss_heatmap", "loss_visual", "loss_keypoint", "token_rms",
        "grad_visual", "grad_keypoint", "grad_visual_stem", "grad_keypoint_stem",
        "mask_mean", "mask_foreground", "mask_range", "seconds"]
