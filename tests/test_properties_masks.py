"""What holds of masks and token weights for any heatmaps: bounds, order, symmetry, types."""
import math
import sys

import pytest
import torch
from examples import ANY_FLOAT, DTYPES, MAPS, SEEDS, close, examples, order_of, refused, tensors
from hypothesis import strategies as st

from fsd_sdpose.masks import (
    POOLS,
    WIDTH,
    foreground_mask,
    number,
    pool_mask,
    soft_threshold,
    token_weights,
    visibility,
)

N, K, H, W = 3, 4, 8, 6
HEATMAPS = tensors(MAPS, N, K, H, W)
THRESHOLDS = st.floats(0, 0.99)
TEMPERATURES = st.sampled_from([1e-6, 1e-3, 0.1, 0.5, 1.0, 2.0, 10.0, 1e3, 1e6])
GRIDS = st.tuples(st.integers(1, H), st.integers(1, W))
POOL = st.sampled_from(sorted(POOLS))
RAMP = torch.linspace(0, 1, 257, dtype=torch.float64)
LABELS = st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=K, max_size=K),
                  min_size=N, max_size=N).map(torch.tensor)
WEIGHTS = st.tuples(st.floats(0.01, 10), st.floats(0, 1)).map(lambda v: (v[0], v[0] * v[1]))


# ------------------------------------------------------------------------- the soft threshold

@examples(80, threshold=THRESHOLDS, temperature=TEMPERATURES)
def test_threshold_rises_from_zero_to_one(threshold, temperature):
    m = soft_threshold(RAMP, threshold, temperature)
    assert m[0] == 0 and m[-1] == 1 and (m.diff() >= -1e-12).all()
    assert ((m >= 0) & (m <= 1)).all()


@examples(80, threshold=THRESHOLDS, temperature=st.floats(0.05, 5))
def test_threshold_is_the_rescaled_logistic(threshold, temperature):
    "The definition, spelt out with sigmoids."
    t = temperature * WIDTH

    def s(x):
        return torch.sigmoid(torch.as_tensor(x / t).double())

    expected = (s(RAMP - threshold) - s(-threshold)) / (s(1 - threshold) - s(-threshold))
    assert close(soft_threshold(RAMP, threshold, temperature), expected, 1e-6)


@examples(60, low=THRESHOLDS, high=THRESHOLDS, temperature=TEMPERATURES)
def test_a_higher_threshold_never_raises_the_mask(low, high, temperature):
    low, high = sorted((low, high))
    masks = [soft_threshold(RAMP, t, temperature) for t in (low, high)]
    assert (masks[1] <= masks[0] + 1e-9).all()


@examples(40, threshold=THRESHOLDS)
def test_limits_of_the_temperature(threshold):
    "Nearly no softness is a step, endless softness is the heatmap itself."
    p = RAMP[(RAMP - threshold).abs() > 1e-3]
    assert close(soft_threshold(p, threshold, 1e-6), (p > threshold).double(), 1e-9)
    assert close(soft_threshold(RAMP, threshold, 1e6), RAMP, 1e-4)
    assert soft_threshold(RAMP, threshold, 1.0).dtype == RAMP.dtype


@pytest.mark.parametrize("threshold, temperature, fine", [
    (0.0, 1.0, True), (0.999, 1.0, True), (1.0, 1.0, False), (-1e-9, 1.0, False),
    (0.1, 1e6, True), (0.1, 1e6 + 1, False), (0.1, 0.0, False), (0.1, -1.0, False),
    (float("nan"), 1.0, False), (0.1, float("nan"), False)])
def test_bounds_of_the_settings(threshold, temperature, fine):
    result, message = refused(soft_threshold, RAMP, threshold, temperature)
    assert (result is not None) == fine
    assert fine or "must be" in message


@examples(150, heatmaps=HEATMAPS, threshold=ANY_FLOAT, temperature=ANY_FLOAT)
def test_any_number_gives_a_mask_or_a_clear_error(heatmaps, threshold, temperature):
    mask, message = refused(foreground_mask, heatmaps, threshold, temperature)
    assert "must be" in message if mask is None else ((mask >= 0) & (mask <= 1)).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@examples(10, threshold=THRESHOLDS, temperature=TEMPERATURES)
def test_threshold_keeps_the_type(dtype, threshold, temperature):
    "And computes in float32 at least."
    p = RAMP.to(dtype)
    m, wide = soft_threshold(p, threshold, temperature), p if dtype == RAMP.dtype else p.float()
    assert m.dtype == dtype and m[0] == 0 and m[-1] == 1
    assert torch.equal(m, soft_threshold(wide, threshold, temperature).to(dtype))


@examples(60, value=ANY_FLOAT | st.integers() | st.sampled_from([True, None, "1", 1j, [1.0]]),
          low=st.floats(-10, 0), high=st.floats(0, 10))
def test_number(value, low, high):
    "A finite number within its limits, as a float; anything else is refused by name."
    result, message = refused(number, "alpha", value, low, high)
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    fine = real and low <= value <= high
    assert (result is not None) == fine and (fine or "alpha" in message)
    assert not fine or (result == value and type(result) is float)
    for limit in (low, high):
        assert number("alpha", limit, low, high) == limit
    if real and not fine and abs(value) < 1e300:
        assert f"{low:g}" in message and f"{high:g}" in message and number("alpha", value) == value


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 10**400])
def test_number_is_finite(value):
    result, message = refused(number, "alpha", value, kinds=(TypeError,))
    assert result is None and "a finite number" in message
    assert number("alpha", sys.float_info.max) == sys.float_info.max


# --------------------------------------------------------------------------------- the mask

@examples(60, heatmaps=HEATMAPS, threshold=THRESHOLDS, temperature=TEMPERATURES)
def test_mask_is_in_bounds_and_without_gradient(heatmaps, threshold, temperature):
    mask = foreground_mask(heatmaps.requires_grad_(), threshold, temperature)
    assert mask.shape == (N, H, W) and mask.dtype == torch.float32 and not mask.requires_grad
    assert ((mask >= 0) & (mask <= 1)).all()
    assert torch.equal(mask, foreground_mask(heatmaps.clamp(0, 1), threshold, temperature))


@examples(40, heatmaps=HEATMAPS, more=tensors(dict(u=lambda u: u), N, K, H, W),
          threshold=THRESHOLDS, temperature=TEMPERATURES)
def test_mask_never_falls_where_the_heatmap_rises(heatmaps, more, threshold, temperature):
    low, high = (foreground_mask(h, threshold, temperature) for h in (heatmaps, heatmaps + more))
    assert (high >= low - 1e-6).all()
    added = torch.cat([heatmaps, more], 1)  # further keypoints
    assert (foreground_mask(added, threshold, temperature) >= low - 1e-6).all()


@examples(40, value=st.floats(-1, 2), threshold=THRESHOLDS, temperature=TEMPERATURES)
def test_a_constant_heatmap_gives_a_constant_mask(value, threshold, temperature):
    mask = foreground_mask(torch.full((N, K, H, W), value), threshold, temperature)
    assert (mask == mask[0, 0, 0]).all()
    assert value > 0 or not mask.any()
    assert value < 1 or (mask == 1).all()


@examples(40, heatmaps=HEATMAPS, labels=LABELS, seed=SEEDS)
def test_mask_follows_its_picture(heatmaps, labels, seed):
    "Mirrored, reordered and alone: a picture's mask depends on that picture only."
    mask = foreground_mask(heatmaps, target_weight=labels)
    people, joints = order_of(seed, N), order_of(seed, K)
    assert torch.equal(foreground_mask(heatmaps.flip(-1), target_weight=labels), mask.flip(-1))
    again = foreground_mask(heatmaps[people], target_weight=labels[people])
    assert torch.equal(again, mask[people])
    again = foreground_mask(heatmaps[:, joints], target_weight=labels[:, joints])
    assert torch.equal(again, mask)
    for i in range(N):
        one = foreground_mask(heatmaps[i:i + 1], target_weight=labels[i:i + 1])
        assert torch.equal(one[0], mask[i])
    column = foreground_mask(heatmaps, target_weight=labels[..., None])
    assert torch.equal(column, mask)


@examples(40, heatmaps=HEATMAPS, labels=LABELS)
def test_an_unlabelled_keypoint_is_left_out(heatmaps, labels):
    "Any weight above 0 counts it whole; without any the mask is empty."
    mask = foreground_mask(heatmaps, target_weight=labels)
    for i, seen in enumerate(labels > 0):
        alone = heatmaps[i:i + 1, seen] if seen.any() else torch.zeros(1, 1, H, W)
        assert torch.equal(mask[i], foreground_mask(torch.cat([alone, 0 * alone], 1))[0])
    assert torch.equal(foreground_mask(heatmaps, target_weight=torch.ones(N, K)),
                       foreground_mask(heatmaps))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@examples(15, heatmaps=HEATMAPS, threshold=THRESHOLDS)
def test_mask_of_other_types(dtype, heatmaps, threshold):
    low = heatmaps.to(dtype)
    mask = foreground_mask(low, threshold)
    assert mask.dtype == torch.float32
    assert torch.equal(mask, foreground_mask(low.float(), threshold))


@examples(30, heatmaps=HEATMAPS, at=st.integers(0, N * K * H * W - 1),
          bad=st.sampled_from([float("nan"), float("inf"), -float("inf")]))
def test_a_single_bad_value_is_named(heatmaps, at, bad):
    heatmaps.view(-1)[at] = bad
    mask, message = refused(foreground_mask, heatmaps, kinds=(FloatingPointError,))
    assert mask is None and f"(1 of {N * K * H * W} values)" in message
    assert "foreground_weight=1.5" in message and "temperature=2.0" in message
    assert foreground_mask(heatmaps, check=False).shape == (N, H, W)


@pytest.mark.parametrize("shape", [(K, H, W), (0, K, H, W), (N, 0, H, W), (N, K, 0, W), (1,) * 5])
def test_other_shapes_are_refused(shape):
    mask, message = refused(foreground_mask, torch.zeros(shape), kinds=(ValueError,))
    assert mask is None and str(tuple(shape)) in message and "(N,K,H,W)" in message


def test_whole_numbers_are_refused():
    mask, message = refused(foreground_mask, torch.zeros(N, K, H, W).long(), kinds=(TypeError,))
    assert mask is None and "torch.int64" in message


@pytest.mark.parametrize("shape", [(N,), (N, K + 1), (K, N), (N, K, 2), (N, K, 1, 1)])
def test_other_labels_are_refused(shape):
    result, message = refused(visibility, torch.ones(shape), (N, K), kinds=(ValueError,))
    assert result is None and str(shape) in message and f"({N}, {K})" in message


def test_labels_of_a_single_keypoint():
    "A last side of 1 is a keypoint of (N,K), and more than the shape says of (N,K,1)."
    assert torch.equal(visibility(torch.ones(N, 1), (N, 1)), torch.ones(N, 1))
    assert torch.equal(visibility(torch.ones(N, 1, 1), (N, 1)), torch.ones(N, 1))


def test_labels_become_float32():
    for labels in (torch.ones(N, K, dtype=torch.bool), torch.ones(N, K, 1).double()):
        assert torch.equal(visibility(labels, (N, K)), torch.ones(N, K))
        assert visibility(labels, (N, K)).dtype == torch.float32


# ---------------------------------------------------------------------------- token weights

MASKS = tensors(dict(uniform=MAPS["uniform"], peaks=MAPS["peaks"], none=MAPS["none"],
                     full=MAPS["full"]), N, H, W)


@examples(80, mask=MASKS, grid=GRIDS, weights=WEIGHTS, pool=POOL)
def test_weights_lie_between_background_and_foreground(mask, grid, weights, pool):
    f, b = weights
    w, m = token_weights(mask, grid, f, b, pool), pool_mask(mask, grid, pool)
    assert w.shape == m.shape == (N, grid[0] * grid[1])
    assert ((w >= b - 1e-5 * f) & (w <= f * (1 + 1e-5))).all()
    assert close(w, b + (f - b) * m, 1e-6)
    assert close(token_weights(mask, grid, 2 * f, 2 * b, pool), 2 * w)
    assert close(token_weights(mask, grid, f, f, pool), torch.full_like(w, f))
    assert torch.equal(token_weights(mask, grid, 1.0, 1.0, pool), torch.ones_like(w))
    assert close(token_weights(1 - mask, grid, 1.0, 0.0, "avg"), 1 - pool_mask(mask, grid, "avg"))


@examples(60, mask=MASKS, grid=GRIDS, pool=POOL, seed=SEEDS)
def test_pooling(mask, grid, pool, seed):
    "Bounds, order, mirror and permutation; the finest grid is the mask, the coarsest its summary."
    m, (h, w) = pool_mask(mask, grid, pool), grid
    assert ((m >= 0) & (m <= 1)).all()
    assert (pool_mask(mask, grid, "avg") <= pool_mask(mask, grid, "max") + 1e-6).all()
    mirrored = pool_mask(mask.flip(-1), grid, pool)
    assert close(mirrored.view(N, h, w), m.view(N, h, w).flip(-1), 1e-6)
    assert close(pool_mask(mask.mT.contiguous(), (w, h), pool), m.view(N, h, w).mT.flatten(1), 1e-6)
    people = order_of(seed, N)
    assert torch.equal(pool_mask(mask[people], grid, pool), m[people])
    assert torch.equal(pool_mask(mask, (H, W), pool), mask.flatten(1))
    whole = dict(max=mask.amax((1, 2)), avg=mask.mean((1, 2)))[pool]
    assert close(pool_mask(mask, (1, 1), pool)[:, 0], whole, 1e-6)


@examples(20, mask=MASKS)
def test_pooling_by_blocks(mask):
    "A token sums up its own pixels, row by row."
    blocks = mask.unflatten(1, (4, 2)).unflatten(3, (3, 2))
    assert torch.equal(pool_mask(mask, (4, 3)), blocks.amax((2, 4)).flatten(1))
    assert close(pool_mask(mask, (4, 3), "avg"), blocks.mean((2, 4)).flatten(1), 1e-6)


@examples(150, mask=MASKS, f=ANY_FLOAT, b=ANY_FLOAT, pool=POOL)
def test_any_weights_are_finite_or_refused(mask, f, b, pool):
    w, message = refused(token_weights, mask, (2, 2), f, b, pool)
    if w is None:
        assert "foreground_weight" in message or "background_weight" in message
    else:
        assert f >= b >= 0 and f > 0 and torch.isfinite(w).all()


@pytest.mark.parametrize("f, b, fine", [(1, 1, True), (1, 0, True), (0, 0, False), (1, 1.01, False),
                                        (1, -1e-9, False), (-1, -2, False)])
def test_bounds_of_the_weights(f, b, fine):
    w, message = refused(token_weights, torch.zeros(1, 2, 2), (1, 1), f, b)
    assert (w is not None) == fine and (fine or f"{f}" in message and f"{b}" in message)


@pytest.mark.parametrize("shape, grid", [
    ((N, H, W), (H + 1, 1)), ((N, H, W), (1, W + 1)), ((N, H, W), (0, 1)), ((N, H, W), (1, 0)),
    ((N, H, W), (-1, 1)), ((N, H, W), (1, -1)), ((N, H, W), (2,)), ((N, H, W), (2, 2, 2)),
    ((H, W), (2, 2)), ((N, 1, H, W), (2, 2))])
def test_a_grid_that_does_not_fit_is_refused(shape, grid):
    m, message = refused(pool_mask, torch.zeros(shape), grid, kinds=(ValueError,))
    assert m is None and (str(grid) in message or str(shape) in message)


@pytest.mark.parametrize("name", ["foreground_weight", "background_weight"])
@pytest.mark.parametrize("value", [math.nan, math.inf, True, "1", None])
def test_weights_that_are_no_numbers_are_named(name, value):
    weights = dict(foreground_weight=1.0, background_weight=0.0) | {name: value}
    w, message = refused(token_weights, torch.zeros(1, 2, 2), (1, 1), **weights, kinds=(TypeError,))
    assert w is None and message.startswith(f"{name} must be")


def test_another_pooling_is_named():
    m, message = refused(pool_mask, torch.zeros(1, 2, 2), (1, 1), "min", kinds=(ValueError,))
    assert m is None and message == "unknown pool 'min'; known: max, avg"


def test_a_mask_of_truth_values_is_refused():
    m, message = refused(pool_mask, torch.ones(N, H, W, dtype=torch.bool), (2, 2))
    assert m is None and "torch.bool" in message


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_weight_that_the_type_cannot_hold_is_refused(dtype):
    most = torch.finfo(dtype).max
    mask = torch.ones(1, 2, 2, dtype=dtype)
    assert torch.isfinite(token_weights(mask, (1, 1), most, 0.0)).all()
    if dtype != torch.float64:
        w, message = refused(token_weights, mask, (1, 1), 1.01 * most, 0.0)
        assert w is None and str(dtype) in message


def test_defaults_are_those_of_the_guide():
    "Threshold 0.1 and temperature 1; foreground 2, background 0.5, the largest pixel of a token."
    p = torch.linspace(0, 1, N * K * H * W).view(N, K, H, W)
    assert torch.equal(foreground_mask(p), soft_threshold(p.amax(1), 0.1, 1.0))
    assert torch.equal(soft_threshold(p), soft_threshold(p, 0.1, 1.0)) and WIDTH == 0.1
    mask = foreground_mask(p)
    assert torch.equal(token_weights(mask, (2, 3)), token_weights(mask, (2, 3), 2.0, 0.5, "max"))
    assert torch.equal(pool_mask(mask, (2, 3)), pool_mask(mask, (2, 3), "max"))
