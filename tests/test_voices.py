"""Faults that would go unheard are refused in one line, or warned of with a number."""
import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fsd_sdpose import comparisons, evaluation, heatmaps, losses, masks
from fsd_sdpose.crops import Augmentation, plan_crops
from fsd_sdpose.models import sdpose
from fsd_sdpose.prediction import check_boxes, load_model, predict_people, run_onnx
from fsd_sdpose.skeletons import COCO, Skeleton
from fsd_sdpose.synthetic import make_dataset

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
    (dict(sigmas=(26., *COCO.sigmas[1:])), ("sigma of nose", "below 10", "26.0")),
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


def test_a_temperature_beyond_half_precision_gives_a_ramp():
    p = torch.linspace(0, 1, 33).half()
    soft = masks.soft_threshold(p, .1, 1e6)
    assert soft.dtype == p.dtype and soft.sub(p).abs().max() < 1e-3


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
    (ADAPTIVE, "regularizer_weight", 1e300), (ADAPTIVE, "num_keypoints", 10**20)])
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
    maps, grid = torch.rand(2, 3, 8, 6, generator=torch.Generator().manual_seed(0)), (4, 3)
    maps[1] = 0
    mask, weights = losses.mask_and_weights(losses.build_loss(dict(type=FSD)), maps, grid)
    state = losses.mask_state(mask)
    assert state["mask_foreground"] == pytest.approx((mask > .5).double().mean().item())
    assert state["mask_mean"] == pytest.approx(mask.double().mean().item())
    assert weights[1].eq(.5).all()
    blind = losses.build_loss(dict(type=FSD, threshold=.999, temperature=.01))
    state = losses.mask_state(losses.mask_and_weights(blind, .9 * maps, grid)[0])
    assert state == dict(mask_mean=pytest.approx(0, abs=1e-9), mask_foreground=0)


def test_weights_of_a_dynamic_loss_are_those_of_the_moment():
    loss = losses.build_loss(dict(type=DYNAMIC, start_epoch=0, end_epoch=10))
    maps = torch.zeros(1, 2, 8, 6)
    for epoch, background in ((0, 1.), (5, .65), (10, .3)):
        loss.set_epoch(epoch)
        weights = losses.mask_and_weights(loss, maps, (4, 3))[1]
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


@pytest.mark.parametrize("boxes", [[["0", "0", "9", "9"]], [[True] * 4], [[None] * 4],
                                   [[1, 1, 9], [1, 1, 9, 9]]], ids=str)
def test_boxes_that_are_no_numbers(boxes):
    with pytest.raises(ValueError) as error:
        check_boxes(boxes, 64, 48)
    one_line(error, "boxes must be ")


@pytest.mark.parametrize("size", ["8", 2.5, True, 0])
def test_a_batch_of_no_size(size):
    with pytest.raises(ValueError) as error:
        predict_people(None, None, batch_size=size)
    one_line(error, f"batch_size must be a whole number, at least 1, not {size!r}")


@pytest.mark.parametrize("content, kind", [(None, FileNotFoundError), (b"a text", ValueError)])
def test_a_network_that_cannot_be_run(content, kind, tmp_path):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "net.onnx"
    if content:
        path.write_bytes(content)
    with pytest.raises(kind) as error:
        run_onnx(path, np.zeros((1, 3, 8, 8), np.float32))
    one_line(error, str(path))


# ---- results -------------------------------------------------------------------------------------


def truth(images=20):
    "Everybody stands at the same place of an image of their own."
    joints = np.stack([np.linspace(100, 190, 17), np.linspace(50, 220, 17), np.full(17, 2)], 1)
    person = dict(category_id=1, bbox=[90, 40, 110, 190], area=10450., iscrowd=0,
                  keypoints=joints.ravel().tolist())
    return dict(images=[dict(id=i, file_name=f"{i}.jpg", width=320, height=240)
                        for i in range(images)],
                annotations=[person | dict(id=i, image_id=i) for i in range(images)],
                categories=[dict(id=1, name="person", keypoints=list(COCO.keypoints))])


def found(images=20):
    rows = truth(images)["annotations"]
    return [dict(image_id=a["image_id"], category_id=1, keypoints=a["keypoints"], score=.9)
            for a in rows]


def with_entry(**changes):
    rows = found()
    return [*rows[:3], rows[3] | changes, *rows[4:]]


@pytest.mark.parametrize("rows, words", [
    (found() + found(), ("20 of 40 entries have the same image", "the first is entry 20")),
    (found() + [r | dict(image_id=r["image_id"] + 7) for r in found()],
     ("entry 33 belongs to image 20", "7 of 40 entries are bad")),
    (with_entry(score="0.9"), ("entry 3 (image 3)", "not numbers but str")),
    (with_entry(score=10**400), ("entry 3 holds", "too large")),
    (with_entry(score=True), ("entry 3 (image 3)", "not numbers but bool")),
    (with_entry(image_id=True), ("entry 3 belongs to image True",)),
    (with_entry(keypoints=["1"] * 51), ("entry 3 (image 3)", "not numbers but str")),
    (with_entry(keypoints=[None] * 51), ("entry 3 (image 3)", "not numbers but NoneType")),
    (with_entry(keypoints=[[1.]] * 51), ("entry 3 (image 3)", "not numbers but list")),
    (with_entry(keypoints=[True] * 51), ("entry 3 (image 3)", "not numbers but bool"))])
def test_results_that_cannot_be_right(rows, words):
    with pytest.raises(ValueError) as error:
        evaluation.evaluate(truth(), rows)
    one_line(error, "results: ", *words)


@pytest.mark.parametrize("rows, words", [
    (found() + found(1), "1 of 21 entries have the same image"),
    (found()[::2], "10 of 20 images with people have no result"),
    ([r | dict(keypoints=(np.array(r["keypoints"]) / 320).tolist()) for r in found()],
     "no coordinate is larger than 0.688"),
    (with_entry(score=-3), "1 of 20 scores lie outside 0 to 2"),
    ([r | dict(score=90.) for r in found()], "20 of 20 scores lie outside 0 to 2")])
def test_results_that_are_doubtful(rows, words):
    with pytest.warns(UserWarning, match=f"results: {words}"):
        evaluation.evaluate(truth(), rows)


@pytest.mark.parametrize("images, rows", [
    (20, found()), (20, found()[:16]), (3, found(1)),  # three images are too few to tell
    (20, [r | dict(score=1.3) for r in found()])])
def test_usual_results_are_not_doubted(images, rows, recwarn):
    evaluation.evaluate(truth(images), rows)
    assert not recwarn


def test_people_that_a_real_network_misses_are_not_doubted(recwarn):
    "BlazePose finds nobody in 54 of 1,000 photographs."
    evaluation.evaluate(truth(1000), found(946))
    assert not recwarn


def test_results_of_lost_pictures_are_not_missed(recwarn):
    evaluation.evaluate(truth(), found(12), without=range(12, 20))
    assert not recwarn


@pytest.mark.parametrize("index", ["0.2", NAN, -1, True, []], ids=str)
def test_a_crowd_index_that_is_no_number(index):
    data = truth()
    data["images"][4]["crowdIndex"] = index
    with pytest.raises(ValueError) as error:
        evaluation.evaluate(data, found())
    one_line(error, f"image 4 has the crowdIndex {index!r}")


def test_nobody_to_score():
    empty = truth()
    for a in empty["annotations"]:
        a["keypoints"] = [0] * 51
    with pytest.warns(UserWarning, match="AP is NaN: none of 20 annotations on 20 images"):
        assert math.isnan(evaluation.evaluate(empty, found())["AP"])


# ---- comparisons ---------------------------------------------------------------------------------

A, B = {0: 35., 1: 36.}, {0: 34., 1: 34.5}
DRAWS = {k: [1., 2., 3.] for k in A}


@pytest.mark.parametrize("change, words", [
    *((dict(scores={0: 35., 1: bad}), ("seeds [1]", "not finite", repr(bad)))
      for bad in (NAN, INF, None, "36", True, 10**400)),
    *((dict(reference={0: 35., 1: bad}), ("seeds [1]", "not finite", repr(bad)))
      for bad in (NAN, "36")),
    (dict(scores={"0": 1., 1: 2.}, reference={"0": 1., 1: 2.}), ("seeds ['0']", "whole")),
    (dict(scores={0: 1., "1": 2.}), ("the same seeds", "'1'")),
    (dict(drawn=DRAWS, reference_drawn={0: [1., 2., 3.]}, images=9), ("no draws of seeds [1]",)),
    (dict(drawn=DRAWS, reference_drawn=DRAWS), ("images", "at least 2, not 0")),
    (dict(drawn=DRAWS, reference_drawn={k: [1., 2.] for k in A}, images=9), ("as many",)),
    (dict(drawn=DRAWS, reference_drawn=DRAWS | {1: [1., INF, 2.]}, images=9), ("seed 1",)),
    (dict(level=95.), ("level must be in (0, 1), not 95",))])
def test_a_contrast_of_what_cannot_be_compared(change, words):
    with pytest.raises(ValueError) as error:
        comparisons.contrast(**dict(scores=A, reference=B) | change)
    one_line(error, *words)


@pytest.mark.parametrize("change, words", [
    (dict(difference=NAN), "row 0: the difference is nan"), (dict(p="0.1"), "row 0: p is '0.1'"),
    (dict(p_margin=1.5), "row 0: p_margin is 1.5"), (dict(p=None), "row 0: p is None")])
def test_a_verdict_on_what_is_no_number(change, words):
    with pytest.raises(ValueError) as error:
        comparisons.judge([comparisons.contrast(A, B) | change])
    one_line(error, words)


@pytest.mark.parametrize("change, words", [
    (dict(seed="0"), "seed must be a whole number, 0 or more, not '0'"),
    (dict(seed=1.), "not 1.0"), (dict(seed=True), "not True"), (dict(seed=-1), "not -1"),
    (dict(resamples="9"), "resamples must be a whole number, 1 or more, not '9'")])
def test_draws_that_cannot_be_drawn(change, words):
    for draw in (comparisons.metric_draws, comparisons.draw_metric):
        with pytest.raises(ValueError) as error:
            draw(found(), truth(), **change)
        one_line(error, words)
    with pytest.raises(ValueError) as error:
        comparisons.paired_bootstrap(truth(), found(), found(), **change)
    one_line(error, words)


# ---- heatmaps, crops and drawn data --------------------------------------------------------------

ONE = torch.full((1, 1, 2), 42.), torch.ones(1, 1)


@pytest.mark.parametrize("name, value", [*(("sigma", v) for v in (1e-9, .2, 1e9, NAN, "2", True)),
                                         ("stride", 1e-9), ("stride", NAN)])
def test_targets_from_which_nothing_is_learned(name, value):
    with pytest.raises(ValueError) as error:
        heatmaps.encode(*ONE, **{name: value})
    one_line(error, f"{name} must be a number in", repr(value))


@pytest.mark.parametrize("change, words", [
    (dict(kernel=11.), "kernel must be odd"), (dict(kernel="11"), "kernel must be odd"),
    (dict(kernel=True), "kernel must be odd"), (dict(kernel=10**9 + 1), "kernel must be odd"),
    (dict(stride=NAN), "stride must be"), (dict(stride=0.), "stride must be"),
    (dict(stride="4"), "stride must be")])
def test_a_heatmap_that_cannot_be_decoded(change, words):
    with pytest.raises((TypeError, ValueError)) as error:
        heatmaps.decode(torch.rand(1, 1, 16, 16), **change)
    one_line(error, words)


@pytest.mark.parametrize("order", [[0, 0, 1], [1, 2, 0], [0, 1, 7]], ids=str)
def test_mirrored_keypoints_that_do_not_swap(order):
    with pytest.raises(ValueError) as error:
        heatmaps.flip_merge(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8), order)
    one_line(error, f"flip_index {order}")


@pytest.mark.parametrize("name", [f.name for f in fields(Augmentation) if f.name != "scale"])
@pytest.mark.parametrize("value", [NAN, INF, "0.1", True, None, -.1, 1e9], ids=str)
def test_an_augmentation_out_of_range(name, value):
    with pytest.raises((TypeError, ValueError)) as error:
        Augmentation(**{name: value})
    one_line(error, f"Augmentation: {name} must be")


@pytest.mark.parametrize("size", [256, "256", (256., 192)], ids=str)
def test_crops_of_no_size(size):
    with pytest.raises(ValueError) as error:
        plan_crops(None, size, None, COCO)
    one_line(error, "input_size is (height, width)", repr(size))


@pytest.mark.parametrize("content", ["[]", '{"info": {}}', '{"info": {"settings": {}}}',
                                     '{"info": {"settings": {}}, "images": [1]}', "{"])
def test_a_folder_with_a_damaged_drawn_set(content, tmp_path):
    (tmp_path / "person_keypoints.json").write_text(content)
    with pytest.raises(FileExistsError) as error:
        make_dataset(tmp_path, 2)
    one_line(error, str(tmp_path), "no finished synthetic data set", "delete it", "overwrite=True")
