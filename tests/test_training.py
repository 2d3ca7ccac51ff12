"""The training loop, its checkpoints, and the experiments on real photographs (Leeds Sports Pose Extended under FSD_DATA) and through papermill."""
import json
import math
import os
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from fsd_sdpose.checkpoints import load_weights
from fsd_sdpose.crops import Augmentation
from fsd_sdpose.data import PoseDataset
from fsd_sdpose.evaluation import evaluate
from fsd_sdpose.experiments import run_experiment, subset_file, weights_digest
from fsd_sdpose.models import sdpose
from fsd_sdpose.studies import METHODS
from fsd_sdpose.synthetic import make_dataset
from fsd_sdpose.tables import gather
from fsd_sdpose.training import build_losses, fit, make_config, make_optimizer, train_step, validate

ROOT = Path(__file__).resolve().parent.parent
TINY = dict(start="", epochs=1, train_images=24, val_images=8, batch_size=16, scene=dict(size=[128, 96], people=1))


@pytest.mark.slow
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
    distilled = method != "no_distillation"  # the one method without distillation
    assert math.isfinite(history.loss.iloc[-1])
    for name in ("loss_visual", "loss_keypoint", "grad_visual", "grad_keypoint"):
        assert (history[name].iloc[-1] > 0) == distilled
    saved = json.loads((tmp_path / "run" / "record.json").read_text())
    assert saved["metrics"].keys() == record["metrics"].keys() and saved["config"]["seed"] == 3


def test_adaptive_weights_learn():
    config = make_config(loss_kpt_token_dist=METHODS["adaptive"].keypoint)
    torch.manual_seed(0)
    model, losses = sdpose("n"), build_losses(config)
    optimizer = make_optimizer(model, losses, config)
    batch = dict(image=torch.randint(0, 255, (4, 128, 96, 3), dtype=torch.uint8), joints=torch.rand(4, 17, 2) * 90, visible=torch.ones(4, 17))
    for _ in range(3):
        train_step(model, batch, losses, optimizer, config, "cpu")
    assert losses["keypoint"].keypoint_logits.abs().min() > 0


@pytest.mark.slow
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


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    "Eight small synthetic pictures, one person each."
    return make_dataset(tmp_path_factory.mktemp("people") / "set", 8, seed=5, size=(128, 96), people=1)


def short_run(people, checkpoints=None, validated=True, setup=None, **kwargs):
    "A run of four epochs of two steps with everything that has a state: dropout, augmentation, learned weights, a dynamic loss, warm-up and milestones."
    settings = dict(epochs=4, batch_size=4, base_batch=4, warmup_steps=3, milestones=(0.7,), val_every=1, save_every=1, flip_test=False,
                    loss_vis_token_dist=dict(type="DynamicForegroundDistilLoss", loss_weight=1e-3, start_epoch=0.2, end_epoch=0.8, unit="fraction"),
                    loss_kpt_token_dist=dict(type="AdaptiveForegroundDistilLoss", loss_weight=1e-3))
    config = make_config(**settings | kwargs.pop("settings", {}))
    torch.manual_seed(7)
    model, losses = sdpose("n"), build_losses(config)
    for _, mlp in model.keypoint_head["tokenpose"].transformer_layer1.layers:
        mlp.fn.fn.net[2] = nn.Dropout(0.1)  # draws from torch's random state
    if setup:
        setup(model, losses)
    sets = [PoseDataset(people, people.parent / "images", input_size=(128, 96), augment=a, seed=2) for a in (Augmentation(), None)]
    return fit(model, sets[0], sets[1] if validated else None, config, False, losses, checkpoints=checkpoints, **kwargs), model, losses


class Killed(BaseException):
    pass


def killed_at(when):
    def after_epoch(epoch, model, losses):
        if epoch == when:
            raise Killed
    return after_epoch


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.slow
def test_a_killed_run_goes_on_exactly(people, tmp_path):
    "Killed twice between epochs: history, weights, learned keypoint weights, best and last files and predictions as if it had run through."
    straight, model, losses = short_run(people, tmp_path / "straight", results_file=tmp_path / "straight.json")
    for when in (1, 3):  # before the first state is saved, and later
        with pytest.raises(Killed):
            short_run(people, tmp_path / "killed", resume=True, after_epoch=killed_at(when))
        torch.rand(when)  # the new process has another random state
    visits = []
    resumed, again, learned = short_run(people, tmp_path / "killed", resume=True, results_file=tmp_path / "killed.json", after_epoch=lambda epoch, *_: visits.append(epoch))
    pd.testing.assert_frame_equal(resumed.drop(columns="seconds"), straight.drop(columns="seconds"), check_exact=True)
    assert visits == [3, 4]
    assert same(model.state_dict(), again.state_dict()) and same(losses.state_dict(), learned.state_dict())
    assert losses["keypoint"].keypoint_logits.abs().min() > 0
    files = sorted(p.name for p in (tmp_path / "straight").iterdir())
    assert files == sorted(p.name for p in (tmp_path / "killed").iterdir())
    for name in set(files) - {"resume.pt"}:
        assert (tmp_path / "straight" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()
    assert (tmp_path / "straight.json").read_bytes() == (tmp_path / "killed.json").read_bytes()
    finished, *_ = short_run(people, tmp_path / "killed", resume=True)  # nothing is left to do
    pd.testing.assert_frame_equal(finished, resumed)


def test_best_and_last_weights(people, tmp_path, monkeypatch):
    "best.safetensors holds the weights of the epoch with the highest AP, last.safetensors those of the last."
    scores, kept = iter([10.0, 30.0, 20.0, 30.0]), {}
    monkeypatch.setattr("fsd_sdpose.training.validate", lambda *args, **kwargs: dict(AP=next(scores)))
    history, model, losses = short_run(people, tmp_path, settings=dict(save_every=0),
                                       after_epoch=lambda epoch, m, _: kept.update({epoch: {k: v.clone() for k, v in m.state_dict().items()}}))
    assert list(history.AP) == [10, 30, 20, 30] and sorted(p.name for p in tmp_path.iterdir()) == ["best.safetensors", "last.safetensors"]
    config = make_config(loss_kpt_token_dist=dict(type="AdaptiveForegroundDistilLoss"))
    for name, epoch in (("best", 2), ("last", 4)):
        assert same(load_weights(sdpose("n"), tmp_path / f"{name}.safetensors", build_losses(config)).state_dict(), kept[epoch])


def test_best_weights_score_the_best_ap(people, tmp_path):
    history, *_ = short_run(people, tmp_path)
    best = load_weights(sdpose("n"), tmp_path / "best.safetensors")
    val = PoseDataset(people, people.parent / "images", input_size=(128, 96))
    assert validate(best, val, make_config(batch_size=4, flip_test=False), "cpu")["AP"] == pytest.approx(history.AP.max())


@pytest.mark.parametrize("damage", ["start", "half", "bit", "empty", "text", "foreign"])
def test_a_damaged_state_is_one_clear_error(people, tmp_path, damage):
    with pytest.raises(Killed):
        short_run(people, tmp_path, validated=False, after_epoch=killed_at(2))
    file = tmp_path / "resume.pt"
    state = file.read_bytes()
    flipped = bytearray(state)
    flipped[len(state) // 2] ^= 1  # inside the weights: only a checksum sees it
    content = dict(start=state[:5000], half=state[: len(state) // 2], bit=bytes(flipped), empty=b"", text=b"epochs: 4\n")
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
    torch.save(dict(facts=Harmful()), tmp_path / "resume.pt")
    with pytest.raises(ValueError, match="cannot be read"):
        short_run(people, tmp_path, validated=False, resume=True)
    assert not (tmp_path / "executed").exists()


def test_resume_refuses_another_run(people, tmp_path):
    with pytest.raises(Killed):
        short_run(people, tmp_path, validated=False, after_epoch=killed_at(2))
    before = (tmp_path / "resume.pt").read_bytes()
    for settings, text in ((dict(lr=0.5), "lr was 0.001 and is 0.5"), (dict(seed=1), "seed was 0 and is 1"),
                           (dict(loss_kpt_token_dist=dict(type="TokenDistilLoss")), "loss_kpt_token_dist was .*Adaptive.* and is .*TokenDistilLoss")):
        with pytest.raises(ValueError, match=text):
            short_run(people, tmp_path, validated=False, resume=True, settings=settings)
    assert (tmp_path / "resume.pt").read_bytes() == before
    with pytest.raises(Killed):
        short_run(people, tmp_path, validated=False, after_epoch=killed_at(0))  # a new run removes what an earlier one left
    assert not list(tmp_path.iterdir())


def gradient(accumulate, training):
    config = make_config(batch_size=8, accumulate=accumulate, loss_vis_token_dist=dict(type="ForegroundTokenDistilLoss", loss_weight=1e-3),
                         loss_kpt_token_dist=dict(type="TokenDistilLoss", loss_weight=1e-3))
    torch.manual_seed(0)
    model, losses = sdpose("n").train(training), build_losses(config)
    batch = dict(image=torch.randint(0, 255, (8, 128, 96, 3), dtype=torch.uint8), joints=torch.rand(8, 17, 2) * 90, visible=(torch.rand(8, 17) > 0.2).float())
    terms = train_step(model, batch, losses, make_optimizer(model, losses, config), config, "cpu")
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]), terms


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulated_gradients_are_those_of_the_whole_batch(accumulate):
    "With batch norm held still; in training it sees the parts, which is not the same."
    whole, terms = gradient(1, training=False)
    parts, terms_of_parts = gradient(accumulate, training=False)
    assert (parts - whole).norm() < 1e-5 * whole.norm()
    for name in terms:
        if name != "token_rms":
            assert terms_of_parts[name].item() == pytest.approx(terms[name].item(), rel=1e-5)
    assert (gradient(accumulate, training=True)[0] - gradient(1, training=True)[0]).norm() > 1e-3 * whole.norm()


def test_tensorboard_holds_the_history(people, tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with pytest.raises(Killed):
        short_run(people, tmp_path / "state", tensorboard=tmp_path / "events", after_epoch=killed_at(3))
    history, *_ = short_run(people, tmp_path / "state", resume=True, tensorboard=tmp_path / "events")
    events = reader.EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {c for c in history.columns if c != "epoch" and history[c].notna().any()}
    for name in ("loss", "loss_visual", "loss_keypoint", "grad_visual", "AP"):
        points = events.Scalars(name)
        assert [p.step for p in points] == [1, 2, 3, 4]  # the third epoch was run twice and stands there once
        assert [p.value for p in points] == pytest.approx(list(history[name]), rel=1e-6)


def test_tensorboard_that_is_not_installed(people, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    (tmp_path / "last.safetensors").write_text("of an earlier run")
    with pytest.raises(ImportError, match="pip install tensorboard"):
        short_run(people, tmp_path, tensorboard=tmp_path / "events")
    assert [p.name for p in tmp_path.iterdir()] == ["last.safetensors"]


def spoil_keypoint_weights(model, losses):
    nn.init.constant_(losses["keypoint"].keypoint_logits, math.nan)


def spoil_heatmaps(model, losses):  # finite heatmaps whose square overflows
    nn.init.constant_(model.keypoint_head["tokenpose"].mlp_head[-1].bias, 1e25)


def spoil_images(model, losses):
    nn.init.constant_(model.backbone.conv1.weight, math.nan)


@pytest.mark.parametrize("setup, text", [
    (spoil_keypoint_weights, "epoch 1, step 1 of 2: keypoint term of cycle 1: AdaptiveForegroundDistilLoss: the loss is nan; non-finite input: keypoint_logits .17 of 17"),
    (spoil_heatmaps, "epoch 1, step 1 of 2: heatmap term of cycle 1: HeatmapMSELoss: the loss is inf; its inputs are finite"),
    (spoil_images, "epoch 1, step 1 of 2: heatmap term of cycle 1: HeatmapMSELoss: the loss is nan")])
def test_a_loss_that_is_not_finite_stops_the_run(people, tmp_path, setup, text):
    with pytest.raises(FloatingPointError, match=text) as error:
        short_run(people, tmp_path / "run", setup=setup)
    assert "foreground_weight=1.5 with temperature=2.0" in str(error.value)
    assert not (tmp_path / "run").exists()


def test_spoiled_weights_are_not_saved(people, tmp_path):
    "A NaN that appears in a later epoch: the files of the epochs before stay whole, none is left half-written, and none holds it."
    def after_epoch(epoch, model, losses):
        if epoch == 2:
            losses["keypoint"].keypoint_logits.register_hook(lambda g: g * math.nan)
    with pytest.raises(FloatingPointError, match="epoch 3, step 2 of 2: keypoint term of cycle 1"):
        short_run(people, tmp_path, after_epoch=after_epoch)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.safetensors", "last.safetensors", "resume.pt"]
    resumed, model, losses = short_run(people, tmp_path, resume=True)
    assert list(resumed.epoch) == [1, 2, 3, 4] and all(p.isfinite().all() for part in (model, losses) for p in part.parameters())


def test_gradient_ratios_are_logged(people):
    "Zero weight, zero ratio; ten times the weight, ten times the ratio."
    rows = {w: short_run(people, validated=False, settings=dict(epochs=1, loss_vis_token_dist=dict(type="TokenDistilLoss", loss_weight=w)))[0].iloc[0] for w in (0.0, 1e-4, 1e-3)}
    for column in ("grad_visual", "grad_visual_stem"):
        assert rows[0.0][column] == 0 and rows[1e-3][column] == pytest.approx(10 * rows[1e-4][column], rel=1e-3)
    assert rows[0.0].grad_keypoint > 0 and list(rows[0.0].index) == [
        "epoch", "lr", "loss", "loss_heatmap", "loss_visual", "loss_keypoint", "token_rms", "grad_visual", "grad_keypoint", "grad_visual_stem", "grad_keypoint_stem", "seconds"]
