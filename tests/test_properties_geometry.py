"""What holds of heatmaps, crops and augmentation: inverses, mirrors, shifts, and what is seen."""
import math

import numpy as np
import pytest
import torch
from examples import DTYPES, MAPS, SEEDS, close, examples, order_of, refused, tensors
from hypothesis import strategies as st

from fsd_sdpose.crops import (
    PIXEL_STD,
    Augmentation,
    apply_matrix,
    box_to_center_scale,
    crop_matrix,
    half_body_crops,
    invert_matrix,
    mirror_matrix,
    random_crop,
    reach,
    sample_rng,
    warp_rect,
)
from fsd_sdpose.heatmaps import decode, encode, flip_merge, gaussian_blur
from fsd_sdpose.skeletons import SKELETONS

N, K, H, W, STRIDE = 2, 3, 24, 18, 4.0
SIZE = st.sampled_from([(128, 96), (256, 192), (96, 96), (64, 128)])
SKELETON = st.sampled_from(sorted(SKELETONS)).map(SKELETONS.get)
REFINE = st.sampled_from(["dark", "shift", None])
ODD = st.sampled_from([1, 3, 11])
BOXES = st.tuples(st.floats(-50, 500), st.floats(-50, 500), st.floats(1, 400), st.floats(1, 400))
AUGMENTATIONS = st.builds(
    Augmentation, flip=st.floats(0, 1), half_body=st.floats(0, 1), shift=st.floats(0, 0.5),
    half_body_joints=st.integers(0, 17), half_body_upper=st.floats(0, 1),
    shift_prob=st.floats(0, 1), scale=st.floats(0, 0.9), rotation=st.floats(0, 180),
    rotation_prob=st.floats(0, 1))


@st.composite
def joints(draw, margin=0.0):
    "Joints inside a crop, this many crop px from its border."
    u = torch.rand((N, K, 2), generator=torch.Generator().manual_seed(draw(SEEDS)))
    size = torch.tensor([(W - 1) * STRIDE, (H - 1) * STRIDE])
    return margin + u * (size - 2 * margin)


def encoded(xy, visible=None, **kwargs):
    visible = torch.ones(N, K) if visible is None else visible
    return encode(xy, visible, (H, W), STRIDE, **kwargs)


# ------------------------------------------------------------------------- encode and decode

@examples(40, xy=joints(30.0), refine=st.sampled_from(["dark", "shift"]))
def test_inner_joints_survive_the_way_there_and_back(xy, refine):
    "Within 0.05 px by DARK, as the notebook says; within half a heatmap pixel by the quarter step."
    heatmaps, weight = encoded(xy)
    back, score = decode(heatmaps, STRIDE, refine)
    error = (back - xy).norm(dim=-1).max()
    assert weight.all() and error < (0.05 if refine == "dark" else 0.5 * STRIDE)
    assert (score > 0.8).all() and (score <= 1).all()


@examples(40, xy=joints(-20.0), labels=st.lists(st.booleans(), min_size=N * K, max_size=N * K))
def test_hidden_joints_leave_nothing(xy, labels):
    visible = torch.tensor(labels).view(N, K).float()
    heatmaps, weight = encoded(xy, visible)
    assert ((heatmaps >= 0) & (heatmaps <= 1)).all() and set(weight.unique().tolist()) <= {0.0, 1.0}
    assert not weight[visible == 0].any() and not heatmaps[weight == 0].any()
    shown, all_of_them = encoded(xy)
    assert torch.equal(heatmaps, shown * weight[..., None, None])
    assert torch.equal(weight, all_of_them * visible)
    far = encoded(xy + 1e4)
    assert not far[0].any() and not far[1].any()


@examples(30, xy=joints(), bad=st.sampled_from([math.nan, math.inf, -math.inf, 1e300]))
def test_a_joint_that_is_nowhere_is_left_out(xy, bad):
    xy = xy.double()
    xy[0, 0, 1] = bad
    heatmaps, weight = encoded(xy)
    assert torch.isfinite(heatmaps).all() and not heatmaps[0, 0].any() and weight[0, 0] == 0
    assert weight.sum() == N * K - 1


@examples(30, xy=joints(), seed=SEEDS, sigma=st.floats(0.5, 5))
def test_heatmaps_follow_their_joints(xy, seed, sigma):
    "Mirrored, reordered, moved by whole heatmap pixels."
    heatmaps, weight = encoded(xy, sigma=sigma)
    mirrored = torch.stack([(W - 1) * STRIDE - xy[..., 0], xy[..., 1]], -1)
    again, same_weight = encoded(mirrored, sigma=sigma)
    assert (again - heatmaps.flip(-1)).abs().max() < 1e-4 and torch.equal(weight, same_weight)
    order = order_of(seed, K)
    assert torch.equal(encoded(xy[:, order], sigma=sigma)[0], heatmaps[:, order])
    assert torch.equal(encoded(xy.flip(0), sigma=sigma)[0], heatmaps.flip(0))
    moved = encoded(xy + STRIDE, sigma=sigma)[0]
    assert (moved[..., 1:, 1:] - heatmaps[..., :-1, :-1]).abs().max() < 1e-4
    turned = encode(xy.flip(-1), torch.ones(N, K), (W, H), STRIDE, sigma)[0]
    assert close(turned, heatmaps.mT, 1e-4)


@examples(40, xy=joints(34.0), dx=st.integers(-1, 1), dy=st.integers(-1, 1), refine=REFINE)
def test_decoding_moves_with_the_joints(xy, dx, dy, refine):
    step = torch.tensor([dx, dy]) * STRIDE
    a, b = (decode(encoded(v)[0], STRIDE, refine)[0] for v in (xy, xy + step))
    assert (b - a - step).abs().max() < 0.02


@examples(60, heatmaps=tensors(MAPS, N, K, H, W), refine=REFINE, kernel=ODD, seed=SEEDS)
def test_any_finite_heatmap_is_decoded(heatmaps, refine, kernel, seed):
    "The score is the peak; no peak, no position; reordering reorders; a scale does not matter."
    xy, score = decode(heatmaps, STRIDE, refine, kernel)
    assert torch.isfinite(xy).all() and torch.equal(score, heatmaps.amax((2, 3)))
    assert (xy[score <= 0] == -STRIDE).all()
    order = order_of(seed, K)
    again, _ = decode(heatmaps[:, order], STRIDE, refine, kernel)
    assert torch.equal(again, xy[:, order])
    assert torch.equal(decode(heatmaps[1:], STRIDE, refine, kernel)[0], xy[1:])
    assert torch.equal(decode(heatmaps, 2 * STRIDE, refine, kernel)[0], 2 * xy)
    pixel = decode(heatmaps, 1.0, None)[0]
    if refine != "dark":
        assert close(decode(heatmaps / 2, STRIDE, refine)[0], xy)
        assert ((xy / STRIDE - pixel).abs() <= 0.25).all()
    found = pixel[score > 0].long()
    values = heatmaps[score > 0][torch.arange(len(found)), found[:, 1], found[:, 0]]
    assert torch.equal(values, score[score > 0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_decoding_of_other_types(dtype):
    heatmaps = encoded(torch.full((N, K, 2), 40.0))[0].to(dtype)
    xy, score = decode(heatmaps, STRIDE)
    assert xy.dtype == score.dtype == torch.float32 and (xy - 40).abs().max() < 0.5
    for bad in (math.nan, math.inf):
        heatmaps[0, 0, 0, 0] = bad
        result, message = refused(decode, heatmaps, STRIDE)
        assert result is None and "diverged" in message


@examples(40, heatmaps=tensors(MAPS, N, K, H, W), kernel=ODD)
def test_smoothing_keeps_peak_and_mirror(heatmaps, kernel):
    heatmaps = heatmaps.clamp_min(0)
    out = gaussian_blur(heatmaps, kernel)
    assert close(out.amax((2, 3)), heatmaps.amax((2, 3))) and (out >= 0).all()
    assert close(gaussian_blur(heatmaps.flip(-1), kernel), out.flip(-1), 1e-4)
    assert close(gaussian_blur(heatmaps.mT, kernel), out.mT, 1e-4)
    assert close(gaussian_blur(heatmaps, 1), heatmaps)


@examples(30, skeleton=SKELETON, seed=SEEDS)
def test_flip_test_of_a_mirrored_copy_changes_nothing(skeleton, seed):
    k = skeleton.num_keypoints
    h = torch.rand((N, k, H, W), generator=torch.Generator().manual_seed(seed))
    mirrored = h[:, list(skeleton.flip_index)].flip(-1)
    assert close(flip_merge(h, mirrored, skeleton.flip_index, 0), h)
    moved = flip_merge(h, mirrored, skeleton.flip_index)  # by one heatmap pixel, as released
    assert close(moved[..., 1:], (h[..., 1:] + h[..., :-1]) / 2)
    assert close(moved[..., 0], h[..., 0])


# ------------------------------------------------------------------------------------- crops

@st.composite
def matrices(draw):
    "Maps of image px to crop px, with the crop's size."
    center, scale = box_to_center_scale(draw(BOXES), 0.75)
    size = draw(SIZE)
    return crop_matrix(center, scale, draw(st.floats(-180, 180)), size), size, center, scale


@examples(60, drawn=matrices(), seed=SEEDS)
def test_a_matrix_and_its_inverse(drawn, seed):
    m, _, center, scale = drawn
    points = np.random.default_rng(seed).uniform(-500, 500, (2, 5, 2))
    inverse = invert_matrix(m)
    tolerance = 1e-6 * (1 + scale.max() * PIXEL_STD)
    assert np.abs(apply_matrix(inverse, apply_matrix(m, points)) - points).max() < tolerance
    assert np.abs(invert_matrix(inverse) - m).max() < 1e-6 * np.abs(m).max()
    one_by_one = np.stack([[apply_matrix(m, p) for p in row] for row in points])
    assert np.allclose(one_by_one, apply_matrix(m, points))
    both = np.vstack([inverse, [0, 0, 1]]) @ np.vstack([m, [0, 0, 1]])
    twice = apply_matrix(inverse, apply_matrix(m, points))
    assert np.allclose(apply_matrix(both[:2], points), twice, atol=tolerance)


@examples(60, box=BOXES, size=SIZE, angle=st.floats(-180, 180))
def test_a_crop_is_centred_and_not_distorted(box, size, angle):
    center, scale = box_to_center_scale(box, size[1] / size[0])
    m, k = crop_matrix(center, scale, angle, size), size[1] / (scale[0] * PIXEL_STD)
    assert np.allclose(apply_matrix(m, center), [size[1] / 2, size[0] / 2], atol=1e-6)
    assert np.allclose(m[:, :2] @ m[:, :2].T, k**2 * np.eye(2), atol=1e-9 * k**2 + 1e-12)
    assert np.linalg.det(m[:, :2]) > 0
    x, y, w, h = box
    corners = np.array([[x, y], [x + w, y], [x, y + h], [x + w, y + h]])
    upright = apply_matrix(crop_matrix(center, scale, 0.0, size), corners)
    assert (upright >= -1e-6).all() and (upright <= np.array(size[::-1]) + 1e-6).all()
    turned = math.radians(angle)  # what lies on a clockwise turned axis becomes upright
    axis = center + 10 * np.array([math.cos(turned), math.sin(turned)])
    assert np.allclose(apply_matrix(m, axis), [size[1] / 2 + 10 * k, size[0] / 2], atol=1e-6)


@examples(60, drawn=matrices(), seed=SEEDS)
def test_a_mirror_twice_is_none(drawn, seed):
    m, size, _, _ = drawn
    points = np.random.default_rng(seed).uniform(-500, 500, (7, 2))
    once, width = mirror_matrix(m, size[1]), size[1]
    plain, mirrored = apply_matrix(m, points), apply_matrix(once, points)
    assert np.allclose(mirrored, np.column_stack([width - plain[:, 0], plain[:, 1]]), atol=1e-6)
    assert np.allclose(mirror_matrix(once, width), m)


@pytest.mark.parametrize("name", SKELETONS)
def test_a_mirror_swaps_names_and_twice_does_not(name):
    s = SKELETONS[name]
    flip = list(s.flip_index)
    names = np.array(s.keypoints)
    assert (names[flip][flip] == names).all() and sorted(flip) == list(range(s.num_keypoints))
    swapped = [n.replace("left_", "right_") if "left_" in n else n.replace("right_", "left_")
               for n in s.keypoints]
    assert names[flip].tolist() == swapped
    sigmas = np.array(s.sigmas)
    assert (sigmas[flip] == sigmas).all()
    assert {frozenset(flip[i] for i in limb) for limb in s.limb_index} == {
        *map(frozenset, s.limb_index)}


@examples(120, box=BOXES, a=AUGMENTATIONS, size=SIZE, seed=SEEDS)
def test_no_augmentation_sees_more_than_reach(box, a, size, seed):
    "The corners of every crop, also of the half bodies, mapped back to the picture."
    center, scale = box_to_center_scale(box, size[1] / size[0])
    skeleton, rng = SKELETONS["coco"], np.random.default_rng(seed)
    xy = np.array(box[:2]) + rng.uniform(0, 1, (1, 17, 2)) * box[2:]
    halves = half_body_crops(xy, rng.integers(0, 3, (1, 17)), skeleton, size[1] / size[0])
    halves = [h[0] for h in halves]
    draw = sample_rng(seed, 0, 0)
    where, extent, angle, mirrored = random_crop(draw, a, center, scale, halves)
    assert isinstance(mirrored, bool) and abs(angle) <= 2 * a.rotation
    back = invert_matrix(crop_matrix(where, extent, angle, size))
    corners = apply_matrix(back, [[0, 0], [size[1], 0], [0, size[0]], [size[1], size[0]]])
    possible = [reach(center, scale, a)]
    if a.half_body > 0:
        possible += [reach(halves[0][i], halves[1][i], a) for i in (0, 1) if halves[2][i] >= 2]
    low, high = np.min(possible, axis=0)[:2], np.max(possible, axis=0)[2:]
    slack = 1e-6 * (1 + np.abs(corners).max())
    assert (corners >= low - slack).all() and (corners <= high + slack).all()
    plain = reach(center, scale)
    assert (reach(center, scale, a)[:2] <= plain[:2] + slack).all()
    assert np.allclose(plain, [*(center - scale * 100), *(center + scale * 100)])


@examples(40, seed=SEEDS, epoch=st.integers(0, 999), index=st.integers(0, 9999), a=AUGMENTATIONS)
def test_a_sample_draws_its_own_numbers(seed, epoch, index, a):
    def draw(*key):
        return random_crop(sample_rng(*key), a, np.ones(2), np.ones(2))

    one, two = draw(seed, epoch, index), draw(seed, epoch, index)
    assert all(np.array_equal(x, y) for x, y in zip(one, two, strict=True))
    numbers = {tuple(sample_rng(*key).random(2)) for key in (
        (seed, epoch, index), (seed + 1, epoch, index), (seed, epoch + 1, index),
        (seed, epoch, index + 1))}
    assert len(numbers) == 4


@examples(30, seed=SEEDS, size=st.sampled_from([(32, 24), (24, 32)]))
def test_a_crop_of_a_part_is_the_crop_of_the_whole(seed, size):
    "Where the part holds all that the crop sees, and black where there is nothing."
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 255, (60, 80, 3), np.uint8)
    center, scale = box_to_center_scale((30, 20, 16, 20), size[1] / size[0])
    m = crop_matrix(center, scale, float(rng.uniform(-10, 10)), size)
    x0, y0 = rng.integers(0, 8, 2)
    whole = warp_rect(picture, (0, 0), m, size)
    part = warp_rect(picture[y0:, x0:].copy(), (x0, y0), m, size)
    assert np.abs(whole.astype(int) - part).max() <= 1  # fixed-point arithmetic of the warp
    assert not warp_rect(picture[:0], (0, 0), m, size).any()
    grey = warp_rect(picture[..., ::-1].copy(), (0, 0), m, size)
    assert np.array_equal(grey[..., ::-1], whole)


@examples(80, values=st.dictionaries(
    st.sampled_from(["flip", "half_body", "half_body_upper", "shift", "shift_prob", "scale",
                     "rotation", "rotation_prob"]), st.floats(), max_size=3))
def test_augmentations_out_of_range_are_named(values):
    a, message = refused(Augmentation, **values)
    wide = dict(shift=math.inf, rotation=math.inf)
    inside = {k: v for k, v in values.items() if 0 <= v <= wide.get(k, 1)}
    if len(inside) < len(values):
        assert a is None and any(name in message for name in values)
