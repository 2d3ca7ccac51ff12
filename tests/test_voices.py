"""Faults that would go unheard are refused in one line, or warned of with a number."""
import math

import pytest
import torch
from safetensors.torch import save_file

from fsd_sdpose import losses, masks
from fsd_sdpose.models import sdpose
from fsd_sdpose.prediction import load_model
from fsd_sdpose.skeletons import COCO, Skeleton

NAN, INF = math.nan, math.inf


def one_line(error, *words):
    "The error says all of these, in a single line."
    text = str(error.value)
    assert "\n" not in text and all(word in text for word in words), text


# ---- skeletons -----------------------------------------------------------------------------------


def like_coco(**changes):
    return Skeleton(**{**COCO.__dict__, "name": "mine", **changes})


CROSSED = (("left_eye", "left_ear"), ("right_eye", "right_ear"), *COCO.flip_pairs[2:])


@pytest.mark.parametrize("change, words", [
    (dict(sigmas=(NAN, *COCO.sigmas[1:])), ("sigma of nose", "nan")),
    (dict(sigmas=(*COCO.sigmas[:-1], INF)), ("sigma of right_ankle", "inf")),
    (dict(sigmas=("0.026", *COCO.sigmas[1:])), ("sigma of nose", "'0.026'")),
    (dict(sigmas=(True, *COCO.sigmas[1:])), ("sigma of nose", "True")),
    (dict(flip_pairs=CROSSED), ("left_eye swaps with left_ear", "('left_eye', 'right_eye')")),
    (dict(flip_pairs=COCO.flip_pairs[1:]), ("left_eye swaps with nothing",)),
    (dict(flip_pairs=(("nose",),)), ("two names each",))])
def test_a_skeleton_that_contradicts_itself(change, words):
    with pytest.raises(ValueError) as error:
        like_coco(**change)
    one_line(error, "skeleton 'mine'", *words)


def test_names_without_a_side_are_free():
    names = "left", "right", "lefty", "tail"
    free = Skeleton("free", names, (("lefty", "tail"),), (), (.1,) * 4, ())
    assert free.flip_index == (0, 1, 3, 2)


# ---- masks and losses ----------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [5e-324, 1e-310, 1e-300, 1e-45])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_tiny_temperature_is_a_hard_mask(temperature, dtype):
    heatmap = torch.tensor([0, .05, .25, 1]).to(dtype).view(1, 1, 2, 2)
    mask = masks.foreground_mask(heatmap, .1, temperature)
    assert mask.flatten().tolist() == [0, 0, 1, 1]
    assert masks.soft_threshold(heatmap, .1, temperature).flatten().tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("temperature", [1e-6, 1., 1e6])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_types_give_finite_masks(temperature, dtype):
    p = torch.linspace(0, 1, 33).to(dtype)
    soft = masks.soft_threshold(p, .1, temperature)
    assert soft.dtype == dtype and soft[0] == 0 and soft[-1] == 1 and torch.isfinite(soft).all()


@pytest.mark.parametrize("dtype, weight", [(torch.float32, 4e157), (torch.bfloat16, 4e38),
                                           (torch.float16, 1e5)])
def test_a_weight_that_the_type_cannot_hold(dtype, weight):
    with pytest.raises(ValueError) as error:
        masks.token_weights(torch.zeros(1, 8, 6).to(dtype), (4, 3), weight)
    one_line(error, f"foreground_weight={weight}", str(dtype))


@pytest.mark.parametrize("value", ["1", None, True, [1.], NAN, 10**400])
@pytest.mark.parametrize("name", ["threshold", "temperature"])
def test_mask_settings_that_are_no_numbers(name, value):
    with pytest.raises(TypeError) as error:
        masks.foreground_mask(torch.zeros(1, 1, 2, 2), **{name: value})
    one_line(error, f"{name} must be a finite number")


TOKEN, FSD, ADAPTIVE, DYNAMIC = (name for name in losses.LOSSES if name != "HeatmapMSELoss")
FLAGS = [(FSD, "use_spatial_weight"), (FSD, "detach_teacher"), (FSD, "shuffle"),
         (TOKEN, "detach_teacher"), (ADAPTIVE, "detach_teacher"), (DYNAMIC, "detach_teacher"),
         (ADAPTIVE, "use_keypoint_guidance")]
NUMBERS = [(name, "loss_weight") for name in losses.LOSSES] + [
    (FSD, "foreground_weight"), (FSD, "background_weight"), (FSD, "threshold"),
    (FSD, "temperature"), (DYNAMIC, "start_epoch"), (DYNAMIC, "end_epoch"),
    (DYNAMIC, "max_fg_weight"), (DYNAMIC, "min_bg_weight"), (ADAPTIVE, "regularizer_weight")]


@pytest.mark.parametrize("value", ["no", "False", 0, 1, None, []], ids=repr)
@pytest.mark.parametrize("kind, flag", FLAGS)
def test_a_flag_is_a_bool(kind, flag, value):
    with pytest.raises(TypeError) as error:
        losses.build_loss({"type": kind, flag: value})
    one_line(error, f"{kind}: {flag} must be True or False, not {value!r}")


@pytest.mark.parametrize("value", ["1", None, True, [1.], NAN, INF, 10**400],
                         ids=lambda value: str(value)[:9])
@pytest.mark.parametrize("kind, name", NUMBERS)
def test_a_number_is_a_number(kind, name, value):
    with pytest.raises(TypeError) as error:
        losses.build_loss({"type": kind, name: value})
    one_line(error, f"{kind}: {name} must be a finite number")


@pytest.mark.parametrize("kind, name, value", [
    *((name, "loss_weight", 1e30) for name in losses.LOSSES),
    (FSD, "foreground_weight", 1e200), (DYNAMIC, "max_fg_weight", 1e200),
    (ADAPTIVE, "regularizer_weight", 1e300)])
def test_a_number_beyond_reason(kind, name, value):
    with pytest.raises(ValueError) as error:
        losses.build_loss({"type": kind, name: value})
    one_line(error, f"{kind}: {name}")


@pytest.mark.parametrize("kind", [TOKEN, FSD, ADAPTIVE, DYNAMIC])
def test_a_token_loss_that_drowns_the_heatmaps(kind, recwarn):
    losses.build_loss(dict(type=kind, loss_weight=1.))
    losses.build_loss(dict(type="HeatmapMSELoss", loss_weight=1000.))
    assert not recwarn
    with pytest.warns(UserWarning, match=rf"{kind}: loss_weight=1000 is 2e\+08 times the guide's"):
        losses.build_loss(dict(type=kind, loss_weight=1000.))


def test_a_mask_that_is_empty_shows():
    heatmaps, grid = torch.rand(2, 3, 8, 6, generator=torch.Generator().manual_seed(0)), (4, 3)
    heatmaps[1] = 0
    mask, weights = losses.mask_and_weights(losses.build_loss(dict(type=FSD)), heatmaps, grid)
    state = losses.mask_state(mask)
    assert state["mask_foreground"] == pytest.approx((mask > .5).double().mean().item())
    assert state["mask_mean"] == pytest.approx(mask.double().mean().item())
    assert weights[1].eq(.5).all()
    blind = losses.build_loss(dict(type=FSD, threshold=.999, temperature=.01))
    state = losses.mask_state(losses.mask_and_weights(blind, .9 * heatmaps, grid)[0])
    assert state == dict(mask_mean=pytest.approx(0, abs=1e-9), mask_foreground=0)


def test_weights_of_a_dynamic_loss_are_those_of_the_moment():
    loss = losses.build_loss(dict(type=DYNAMIC, start_epoch=0, end_epoch=10))
    heatmaps = torch.zeros(1, 2, 8, 6)
    for epoch, background in ((0, 1.), (5, .65), (10, .3)):
        loss.set_epoch(epoch)
        weights = losses.mask_and_weights(loss, heatmaps, (4, 3))[1]
        assert weights.unique().tolist() == [pytest.approx(background)]


# ---- weights from files --------------------------------------------------------------------------

TENSOR = "keypoint_head.tokenpose.keypoint_token"


@pytest.fixture(scope="module")
def weights():
    return sdpose("n").state_dict()


def spoilt(good, how):
    return {"sparse": good.to_sparse, "meta": lambda: good.to("meta"),
            "int8": lambda: good.to(torch.int8), "complex64": lambda: good.to(torch.complex64),
            "NaN": lambda: good * NAN, "infinite": lambda: good.double() * 1e300}[how]()


@pytest.mark.parametrize("how", ["sparse", "meta", "int8", "complex64", "NaN", "infinite"])
def test_a_checkpoint_whose_weights_would_be_wrong(weights, how, tmp_path):
    path = tmp_path / "w.pth"
    torch.save(weights | {TENSOR: spoilt(weights[TENSOR], how)}, path)
    with pytest.raises(ValueError) as error:
        load_model(path, "n")
    one_line(error, str(path), TENSOR, how)


@pytest.mark.parametrize("how", ["int8", "NaN"])
def test_a_safetensors_file_whose_weights_would_be_wrong(weights, how, tmp_path):
    save_file(weights | {TENSOR: spoilt(weights[TENSOR], how)}, tmp_path / "last.safetensors")
    with pytest.raises(ValueError) as error:
        load_model(tmp_path)
    one_line(error, str(tmp_path / "last.safetensors"), TENSOR, how)


@pytest.mark.parametrize("content", [{0: torch.zeros(1)}, {("a", 1): torch.zeros(1)},
                                     dict(state_dict={1: torch.zeros(1)})], ids=str)
def test_a_checkpoint_without_names(content, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ValueError) as error:
        load_model(tmp_path / "w.pth", "n")
    one_line(error, str(tmp_path / "w.pth"), "holds no state dict")
