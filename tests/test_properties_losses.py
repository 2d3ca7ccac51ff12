"""What holds of every loss for any tokens: identities, symmetry, scale, gradients, types."""
import inspect
import math
import re
import warnings

import pytest
import torch
from examples import (
    ANY_FLOAT,
    DTYPES,
    MAPS,
    SEEDS,
    TOKENS,
    close,
    examples,
    order_of,
    refused,
    tensors,
    uniform,
)
from hypothesis import strategies as st

from fsd_sdpose.losses import (
    LOSSES,
    NORMALIZE,
    REGULARIZERS,
    AdaptiveForegroundDistilLoss,
    DynamicForegroundDistilLoss,
    ForegroundTokenDistilLoss,
    HeatmapMSELoss,
    TokenDistilLoss,
    adaptive_mean,
    build_loss,
    keypoint_share,
    log_variance,
    mask_and_weights,
    mask_state,
    peak_confidence,
    relative_weights,
    token_error,
    weighted_mean,
)
from fsd_sdpose.masks import foreground_mask, pool_mask

N, K, H, W, D = 3, 4, 6, 4, 5
GRID = (3, 2)
T = GRID[0] * GRID[1]
PAIRS = st.tuples(tensors(TOKENS, N, T, D), tensors(TOKENS, N, T, D))
KEYPOINT_PAIRS = st.tuples(tensors(TOKENS, N, K, D), tensors(TOKENS, N, K, D))
HEATMAPS = tensors(MAPS, N, K, H, W)
LABELS = st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=K, max_size=K),
                  min_size=N, max_size=N).map(torch.tensor)
SOME_LABELS = LABELS.filter(lambda w: bool((w.sum(1) > 0).all()))
LOGITS = tensors(TOKENS | dict(large=lambda u: 20 * u), K)
WEIGHTS = st.tuples(st.floats(0.1, 10), st.integers(0, 100)).map(
    lambda v: (v[0], v[0] * v[1] / 100))
FORMS, KINDS = st.sampled_from(NORMALIZE), st.sampled_from(REGULARIZERS)
SIZES = st.sampled_from([0.0, 5e-6, 1.0, 7.0])


def fsd(loss_weight=1.0, **kwargs):
    return ForegroundTokenDistilLoss(loss_weight, **kwargs)


def adaptive(logits=None, **kwargs):
    "An adaptive loss of K keypoints with these logits."
    loss = AdaptiveForegroundDistilLoss(kwargs.pop("loss_weight", 1.0), K, **kwargs)
    if logits is not None:
        loss.keypoint_logits.data = logits.clone()
    return loss


def dynamic(epoch, **kwargs):
    loss = DynamicForegroundDistilLoss(1.0, **kwargs)
    loss.set_epoch(epoch)
    return loss


def gradients(loss, pair, *rest):
    pair = [x.clone().requires_grad_() for x in pair]
    value = loss(*pair, *rest)
    return value, torch.autograd.grad(value, pair, materialize_grads=True)


EVERY = dict(  # on visual tokens
    token=lambda: TokenDistilLoss(1.0), none=fsd, weights=lambda: fsd(normalize="weights"),
    regions=lambda: fsd(normalize="regions"), average=lambda: fsd(pool="avg"),
    alike=lambda: fsd(use_spatial_weight=False), dynamic=lambda: dynamic(80))
ALL = st.sampled_from(sorted(EVERY)).map(lambda name: EVERY[name]())


# -------------------------------------------------------------------------- what all share

@examples(60, loss=ALL, pair=PAIRS, heatmap=HEATMAPS, labels=LABELS)
def test_no_loss_between_equals_and_none_below_zero(loss, pair, heatmap, labels):
    rest = heatmap, labels, GRID
    assert loss(pair[0], pair[0], *rest) == 0 and loss(*pair, *rest) >= 0
    assert close(loss(*pair, *rest), loss(*pair[::-1], *rest))
    assert close(loss(*(2 * x for x in pair), *rest), 4 * loss(*pair, *rest))


@examples(60, loss=ALL, pair=PAIRS, heatmap=HEATMAPS, labels=LABELS, seed=SEEDS)
def test_order_of_people_channels_and_keypoints(loss, pair, heatmap, labels, seed):
    value = loss(*pair, heatmap, labels, GRID)
    p, d, k = order_of(seed, N), order_of(seed, D), order_of(seed, K)
    assert close(loss(*(x[p] for x in pair), heatmap[p], labels[p], GRID), value)
    assert close(loss(*(x[..., d] for x in pair), heatmap, labels, GRID), value)
    assert close(loss(*pair, heatmap[:, k], labels[:, k], GRID), value)


@examples(40, loss=ALL, pair=PAIRS, heatmap=HEATMAPS, labels=LABELS)
def test_a_mirrored_picture_has_the_same_loss(loss, pair, heatmap, labels):
    mirrored = [x.view(N, *GRID, D).flip(2).flatten(1, 2) for x in pair]
    value = loss(*pair, heatmap, labels, GRID)
    assert close(loss(*mirrored, heatmap.flip(-1), labels, GRID), value)


@examples(30, loss=ALL, pair=PAIRS, heatmap=HEATMAPS, labels=LABELS)
def test_a_loss_is_the_mean_over_its_people(loss, pair, heatmap, labels):
    alone = [loss(*(x[i:i + 1] for x in pair), heatmap[i:i + 1], labels[i:i + 1], GRID)
             for i in range(N)]
    assert close(loss(*pair, heatmap, labels, GRID), torch.stack(alone).mean())


@examples(30, pair=PAIRS, heatmap=HEATMAPS, weight=SIZES, form=FORMS)
def test_losses_scale_with_their_weight(pair, heatmap, weight, form):
    rest = heatmap, None, GRID
    pairs = [(TokenDistilLoss(weight), TokenDistilLoss(1.0)),
             (fsd(weight, normalize=form), fsd(normalize=form))]
    for loss, one in pairs:
        assert close(loss(*pair, *rest), weight * one(*pair, *rest))
    assert close(HeatmapMSELoss(weight)(heatmap, -heatmap), weight * 4 * heatmap.square().mean())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@examples(15, loss=ALL, pair=PAIRS, heatmap=HEATMAPS)
def test_arithmetic_is_float32_whatever_the_type(dtype, loss, pair, heatmap):
    low = [x.to(dtype) for x in (*pair, heatmap)]
    value = loss(*low, None, GRID)
    assert value.dtype == torch.float32
    assert torch.equal(value, loss(*(x.float() for x in low), None, GRID))


@examples(60, loss=ALL, pair=PAIRS, heatmap=HEATMAPS, size=st.integers(-45, 38),
          dtype=st.sampled_from(DTYPES))
def test_extreme_tokens_give_finite_gradients_or_a_named_cause(loss, pair, heatmap, size, dtype):
    "An overflow in the square or in the type is an error that names the loss and the remedy."
    pair = [(x.double() * 10.0**size).to(dtype) for x in pair]
    result, message = refused(gradients, loss, pair, heatmap, None, GRID,
                              kinds=(FloatingPointError,))
    if result is None:
        assert message.startswith(type(loss).__name__) and "foreground_weight=1.5" in message
        assert "overflowed" in message or "non-finite input" in message
    else:
        grads = [g.float() for g in result[1]]
        assert torch.isfinite(result[0]) and all(torch.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("which", ["student", "teacher"])
@examples(8, pair=PAIRS, heatmap=HEATMAPS, bad=st.sampled_from([math.nan, math.inf]),
          at=st.integers(0, N * T * D - 1))
def test_one_bad_token_is_named(name, which, pair, heatmap, bad, at):
    loss, (student, teacher) = EVERY[name](), (x.clone() for x in pair)
    (student if which == "student" else teacher).view(-1)[at] = bad
    value, message = refused(loss, student, teacher, heatmap, None, GRID,
                             kinds=(FloatingPointError,))
    assert value is None and f"non-finite input: {which} (1 of {N * T * D} values)." in message
    loss.check_finite = False
    assert not torch.isfinite(loss(student, teacher, heatmap, None, GRID))


def test_all_that_is_at_fault_is_named():
    bad = torch.full((N, T, D), math.nan)
    every = f"({N * T * D} of {N * T * D} values)"
    _, message = refused(TokenDistilLoss(), bad, bad)
    assert f"non-finite input: student {every}, teacher {every}. The guide's" in message
    _, message = refused(TokenDistilLoss(1e6), torch.full((N, T, D), 1e19), torch.zeros(N, T, D))
    assert "so the square or the sum overflowed. The guide's remedy" in message


@pytest.mark.parametrize("shapes", [((N, T, D), (N, T, D + 1)), ((N, T), (N, T)),
                                    ((N, T, D), (T, D)), ((0, T, D),) * 2, ((N, 0, D),) * 2,
                                    ((N, T, 0),) * 2, ((1, T, D), (N, T, D))])
def test_tokens_of_other_shapes_are_refused(shapes):
    for loss in (TokenDistilLoss(), fsd(), adaptive()):
        value, message = refused(loss, *map(torch.ones, shapes), kinds=(ValueError,))
        assert value is None and str(shapes[0]) in message and str(shapes[1]) in message


@pytest.mark.parametrize("name", [*EVERY, "adaptive"])
@pytest.mark.parametrize("detach", [False, True])
@examples(10, seed=SEEDS)
def test_gradient_stops_where_it_should(name, detach, seed):
    "At the heatmap always, at the teacher if asked for; else the teacher is pulled as strongly."
    make = dict(token=lambda: TokenDistilLoss(1.0, detach), adaptive=lambda: adaptive(
        detach_teacher=detach), dynamic=lambda: dynamic(80, detach_teacher=detach))
    kwargs = dict(weights=dict(normalize="weights"), regions=dict(normalize="regions"),
                  average=dict(pool="avg"), alike=dict(use_spatial_weight=False))
    loss = make.get(name, lambda: fsd(detach_teacher=detach, **kwargs.get(name, {})))()
    tokens = K if name == "adaptive" else T
    student, teacher = uniform(seed, 2, N, tokens, D).requires_grad_().unbind()
    heatmap = uniform(seed + 1, N, K, H, W).requires_grad_()
    value = loss(student, teacher, heatmap, None, GRID)
    s, t, h = torch.autograd.grad(value, (student, teacher, heatmap), allow_unused=True)
    assert h is None and s.any()
    assert t is None if detach else close(t, -s)


# ----------------------------------------------------------------------- errors of the tokens

@examples(40, pair=PAIRS)
def test_token_error(pair):
    student, teacher = pair
    e = token_error(student, teacher)
    assert e.shape == (N, T) and close(e, ((student - teacher)**2).sum(-1) / D)
    assert torch.equal(token_error(teacher, student), e)
    assert close(token_error(-student, -teacher), e)
    teacher = teacher.clone().requires_grad_()
    assert not token_error(student, teacher).requires_grad
    assert token_error(student, teacher, False).requires_grad


@examples(40, e=tensors(MAPS, N, T), w=tensors(dict(u=MAPS["uniform"], p=MAPS["peaks"]), N, T),
          factor=st.floats(0.01, 100))
def test_weighted_mean(e, w, factor):
    "Between the extremes of each image; no matter for the weights' scale; 0 without any weight."
    value = weighted_mean(e, w)
    assert close(value, ((w * e).sum(1) / w.sum(1)).mean())
    assert close(weighted_mean(e, w * factor), value)
    assert e.amin(1).mean() - 1e-5 <= value <= e.amax(1).mean() + 1e-5
    assert weighted_mean(e, 0 * w) == 0 and close(weighted_mean(e, 0 * w + 1), e.mean())


# ------------------------------------------------------------------------ the foreground loss

@examples(60, pair=PAIRS, heatmap=HEATMAPS, labels=LABELS, form=st.sampled_from(NORMALIZE[:2]),
          detach=st.booleans(), f=st.floats(0.1, 10))
def test_equal_weights_are_plain_distillation(pair, heatmap, labels, form, detach, f):
    "With foreground = background = 1, value and gradients are those of TokenDistilLoss."
    token = gradients(TokenDistilLoss(1.0, detach), pair)
    rest = heatmap, labels, GRID
    one = fsd(foreground_weight=1, background_weight=1, normalize=form, detach_teacher=detach)
    value, grads = gradients(one, pair, *rest)
    assert close(value, token[0])
    for a, b in zip(grads, token[1], strict=True):
        assert close(a, b) or (a - b).abs().max() < 1e-9
    equal = fsd(foreground_weight=f, background_weight=f, normalize=form, detach_teacher=detach)
    assert close(equal(*pair, *rest), token[0] * (f if form == "none" else 1))
    alike = fsd(use_spatial_weight=False, detach_teacher=detach)
    assert close(alike(*pair), token[0])


@examples(60, pair=PAIRS, heatmap=HEATMAPS, labels=LABELS, weights=WEIGHTS,
          threshold=st.floats(0, 0.9), temperature=st.floats(0.01, 10),
          pool=st.sampled_from(["max", "avg"]), alpha=st.none() | st.floats(0, 1))
def test_three_forms_are_their_formulas(pair, heatmap, labels, weights, threshold, temperature,
                                        pool, alpha):
    (f, b), e = weights, token_error(*pair)
    shared = dict(foreground_weight=f, background_weight=b, threshold=threshold,
                  temperature=temperature, pool=pool)
    m = pool_mask(foreground_mask(heatmap, threshold, temperature, labels), GRID, pool)
    w, share = b + (f - b) * m, f / (f + b) if alpha is None else alpha
    fg, bg = (((x * e).sum(1) / x.sum(1).clamp_min(1e-12)).mean() for x in (m, 1 - m))
    values = {form: fsd(normalize=form, alpha=alpha if form == "regions" else None, **shared)(
        *pair, heatmap, labels, GRID) for form in NORMALIZE}
    assert close(values["none"], (w * e).mean())
    assert close(values["weights"], ((w * e).sum(1) / w.sum(1).clamp_min(1e-12)).mean())
    assert close(values["regions"], share * fg + (1 - share) * bg)
    plain, eps = e.mean(), 1e-5 * float(e.max())
    assert b * plain - f * eps <= values["none"] <= f * plain + f * eps


@examples(40, pair=PAIRS, heatmap=HEATMAPS, weights=WEIGHTS, form=FORMS)
def test_only_the_ratio_counts_where_weights_are_normalised(pair, heatmap, weights, form):
    f, b = weights
    values = [fsd(foreground_weight=c * f, background_weight=c * b, normalize=form)(
        *pair, heatmap, None, GRID) for c in (1, 3)]
    assert close(values[1], values[0] * (3 if form == "none" else 1))


@examples(40, pair=PAIRS, heatmap=HEATMAPS, labels=LABELS, form=FORMS)
def test_an_unlabelled_keypoint_is_no_foreground(pair, heatmap, labels, form):
    value = fsd(normalize=form)(*pair, heatmap, labels, GRID)
    hidden = heatmap * labels[..., None, None]
    assert close(value, fsd(normalize=form)(*pair, hidden, None, GRID))
    nobody = fsd()(*pair, heatmap, 0 * labels, GRID)
    assert close(nobody, 0.5 * TokenDistilLoss(1.0)(*pair))
    everywhere = fsd()(*pair, 0 * heatmap + 1, None, GRID)
    assert close(everywhere, 2 * TokenDistilLoss(1.0)(*pair))


@examples(40, pair=PAIRS, heatmap=HEATMAPS, seed=SEEDS)
def test_shuffled_weights_are_the_same_weights(pair, heatmap, seed):
    "Each image keeps its weights; tokens of one error do not notice."
    torch.manual_seed(seed)
    e, loss = token_error(*pair), fsd(shuffle=True)
    value = loss(*pair, heatmap, None, GRID)
    eps = 1e-5 * float(e.max())
    assert 0.5 * e.mean() - eps <= value <= 2 * e.mean() + eps
    ones = torch.ones(N, T, D)
    ones = ones, 0 * ones, heatmap, None, GRID
    assert close(loss(*ones), fsd()(*ones))
    one = torch.zeros(N, T, D)
    one[:, 0] = 1  # which weight falls on the first token is left to chance
    weights = (0.5 + 1.5 * pool_mask(foreground_mask(heatmap), GRID)) / (N * T)
    sums = [sum(c) for c in torch.cartesian_prod(*weights).tolist()]
    value = float(loss(one, 0 * one, heatmap, None, GRID))
    assert min(abs(value - s) for s in sums) < 1e-6


def test_shuffling_moves_the_mask():
    one = torch.zeros(1, T, D)
    one[:, 0] = 1
    heatmap = torch.zeros(1, 1, *GRID)
    heatmap[..., 0, 0] = 1
    values = {round(float(fsd(shuffle=True)(one, 0 * one, heatmap, None, GRID)) * T, 4)
              for _ in range(50)}
    assert values == {0.5, 2.0}
    assert fsd()(one, 0 * one, heatmap, None, GRID) * T == 2


BAD_PLACES = [
    (dict(), "needs heatmap="), (dict(heatmap=torch.ones(N, K, H, W)), "needs grid="),
    (dict(heatmap=torch.ones(N, K, H, W), grid=(T, 2)), f"has {2 * T} cells but there are {T}"),
    (dict(heatmap=torch.ones(N + 1, K, H, W), grid=GRID), f"heatmap has {N + 1} images"),
    (dict(heatmap=torch.ones(N, K, 1, 1), grid=GRID), "does not fit a mask"),
    (dict(heatmap=torch.ones(N, H, W), grid=GRID), "(N,K,H,W)")]


@pytest.mark.parametrize("given, words", BAD_PLACES)
def test_what_a_foreground_loss_needs(given, words):
    tokens = torch.ones(N, T, D)
    value, message = refused(fsd(), tokens, tokens, **given, kinds=(ValueError,))
    assert value is None and words in message
    assert fsd(use_spatial_weight=False)(tokens, tokens, **given) == 0


@examples(40, loss=ALL, heatmap=HEATMAPS)
def test_what_a_loss_makes_of_heatmaps(loss, heatmap):
    "The mask and the weights that it multiplies with, and their summary."
    mask, w = mask_and_weights(loss, heatmap, GRID)
    assert torch.equal(mask, foreground_mask(heatmap))  # all have the guide's threshold
    ones = torch.ones(N, T, D)
    if getattr(loss, "normalize", "none") == "none":
        assert close(w.mean(), loss(ones, 0 * ones, heatmap, None, GRID))
    for t in range(T) if type(loss) is not TokenDistilLoss and loss.normalize == "none" else ():
        one = torch.zeros(N, T, D)
        one[:, t] = 1
        assert close(w[:, t].mean() / T, loss(one, 0 * one, heatmap, None, GRID))
    assert w.shape == (N, T) and (isinstance(loss, ForegroundTokenDistilLoss) or (w == 1).all())
    state = mask_state(mask)
    assert math.isclose(state["mask_mean"], mask.double().mean(), abs_tol=1e-6)
    share = (mask > 0.5).double().mean()
    assert math.isclose(state["mask_foreground"], share, abs_tol=1e-6)


def test_half_a_mask_is_no_foreground():
    state = mask_state(torch.full((1, 2, 2), 0.5))
    assert state == dict(mask_mean=0.5, mask_foreground=0)
    assert all(type(v) is float for v in state.values())
    hard = fsd(threshold=0.6, temperature=1e-6)
    heatmap = torch.full((1, 1, *GRID), 0.5)
    assert not mask_and_weights(hard, heatmap, GRID)[0].any()
    assert mask_and_weights(fsd(temperature=1e-6), heatmap, GRID)[0].all()


# ---------------------------------------------------------------------------- the dynamic loss

@examples(80, pair=PAIRS, heatmap=HEATMAPS, form=st.sampled_from(NORMALIZE[:2]),
          epochs=st.tuples(st.floats(0, 100), st.floats(0.5, 100), st.floats(0, 300)),
          ends=st.tuples(st.floats(1, 10), st.integers(0, 100).map(lambda n: n / 100)))
def test_emphasis_grows_from_none_to_full(pair, heatmap, form, epochs, ends):
    "Plain before the start, the static loss after the end, straight between."
    start, length, now = epochs
    kwargs = dict(start_epoch=start, end_epoch=start + length, max_fg_weight=ends[0],
                  min_bg_weight=ends[1], normalize=form)
    rest = heatmap, None, GRID
    plain = TokenDistilLoss(1.0)(*pair)
    full = fsd(foreground_weight=ends[0], background_weight=ends[1], normalize=form)
    static = full(*pair, *rest)
    assert close(dynamic(start, **kwargs)(*pair, *rest), plain)
    assert close(dynamic(start / 2, **kwargs)(*pair, *rest), plain)
    assert close(dynamic(start + length, **kwargs)(*pair, *rest), static, 1e-4)
    assert close(dynamic(start + 2 * length, **kwargs)(*pair, *rest), static, 1e-4)
    loss, r = dynamic(now, **kwargs), min(max((now - start) / length, 0), 1)
    assert math.isclose(loss.progress, r, abs_tol=1e-9)
    assert math.isclose(loss.foreground_weight, 1 + r * (ends[0] - 1), rel_tol=1e-9)
    assert math.isclose(loss.background_weight, 1 - r * (1 - ends[1]), abs_tol=1e-9)
    if form == "none":
        assert close(loss(*pair, *rest), (1 - r) * plain + r * static, 1e-4)


@examples(40, start=st.floats(0, 0.5), length=st.floats(0.01, 0.5), total=st.integers(1, 300),
          share=st.floats(0, 1))
def test_epochs_may_be_shares_of_the_schedule(start, length, total, share):
    kwargs = dict(start_epoch=start, end_epoch=start + length, unit="fraction")
    loss = DynamicForegroundDistilLoss(1.0, **kwargs)
    loss.set_epoch(share * total, total)
    ends = dict(start_epoch=start * total, end_epoch=(start + length) * total)
    in_epochs = dynamic(share * total, **ends)
    assert math.isclose(loss.progress, in_epochs.progress, abs_tol=1e-6)
    value, message = refused(loss.set_epoch, 1, kinds=(ValueError,))
    assert "set_epoch(epoch, total_epochs)" in message


def test_a_dynamic_loss_asks_for_its_epoch():
    tokens = torch.ones(N, T, D)
    loss = DynamicForegroundDistilLoss()
    assert loss.foreground_weight == loss.background_weight == 1
    named = dynamic(80)(student=tokens, teacher=0 * tokens, grid=GRID,
                        heatmap=torch.zeros(N, K, H, W))
    assert close(named, dynamic(80).background_weight)
    value, message = refused(loss, tokens, tokens, kinds=(RuntimeError,))
    assert value is None and "call set_epoch(epoch)" in message
    for bad in (-1, math.nan, "1", True):
        refused(loss.set_epoch, bad)
        assert loss.progress is None


# ---------------------------------------------------------------------------- the adaptive loss

@examples(80, pair=KEYPOINT_PAIRS, level=st.floats(-10, 10), kind=KINDS, heatmap=HEATMAPS)
def test_equal_logits_are_plain_distillation(pair, level, kind, heatmap):
    "In every form, if all keypoints are seen and the teacher is equally sure of them."
    plain, flat = TokenDistilLoss(1.0)(*pair), 0 * heatmap + 0.7
    level = 0.0 if kind == "uncertainty" else level  # there a common level is a scale
    for guided in (True, False):
        loss = adaptive(torch.full((K,), level), regularizer=kind, use_keypoint_guidance=guided)
        assert close(loss(*pair, flat), plain, 1e-4)
    assert close(adaptive(regularizer=kind, use_keypoint_guidance=False)(*pair), plain)


@examples(80, pair=KEYPOINT_PAIRS, logits=LOGITS, labels=LABELS, heatmap=HEATMAPS, kind=KINDS,
          guided=st.booleans(), seed=SEEDS)
def test_an_unlabelled_keypoint_has_no_say(pair, logits, labels, heatmap, kind, guided, seed):
    "Nor has a person without any; the order of people and of keypoints does not matter."
    loss = adaptive(logits, regularizer=kind, use_keypoint_guidance=guided)
    value = loss(*pair, heatmap, labels)
    other = pair[0] + (1 - labels[..., None]) * uniform(seed, N, K, D)
    noise = heatmap + (1 - labels[..., None, None]) * uniform(seed, N, K, H, W)
    assert close(loss(other, pair[1], noise, labels), value)
    p, k = order_of(seed, N), order_of(seed, K)
    assert close(loss(*(x[p] for x in pair), heatmap[p], labels[p]), value)
    shuffled = adaptive(logits[k], regularizer=kind, use_keypoint_guidance=guided)
    assert close(shuffled(*(x[:, k] for x in pair), heatmap[:, k], labels[:, k]), value, 1e-4)
    if (there := labels.sum(1) > 0).any():
        alone = loss(*(x[there] for x in pair), heatmap[there], labels[there])
        assert close(alone, value)
    assert loss(*pair, heatmap, 0 * labels) == 0


@examples(60, pair=KEYPOINT_PAIRS, logits=LOGITS, labels=SOME_LABELS, heatmap=HEATMAPS,
          gamma=st.floats(0.01, 100))
def test_adaptive_forms_are_their_formulas(pair, logits, labels, heatmap, gamma):
    "Spelt out person by person, keypoint by keypoint."
    e = token_error(*pair).double()
    guide = labels.double() * heatmap.amax((2, 3)).clamp(0.01, 1).double()
    a, s = logits.double(), 5 * torch.tanh(logits.double() / 5)

    def mean(weight, error):
        return ((guide * weight * error).sum(1) / (guide * weight).sum(1)).mean()

    ones = torch.ones(K).double()
    size, weighted, p = mean(ones, e), mean(torch.softmax(a, 0), e), torch.softmax(a, 0)
    divergence = (p * (torch.log_softmax(a, 0) + math.log(K))).sum()
    expected = dict(none=weighted, hard=weighted + gamma * size * divergence,
                    kl=weighted + gamma * size * divergence,
                    uncertainty=mean(ones, torch.exp(-s) * e + size * s))
    for kind, value in expected.items():
        loss = adaptive(logits, regularizer=kind, regularizer_weight=gamma)
        eps = 1e-5 * max(1.0, gamma) * float(size) + 1e-4 * abs(value)  # of float32
        assert abs(float(loss(*pair, heatmap, labels).detach()) - value) <= eps, kind


@examples(60, pair=KEYPOINT_PAIRS, logits=LOGITS, heatmap=HEATMAPS, labels=SOME_LABELS,
          gamma=st.floats(0.1, 10))
def test_regularizers_pull_the_logits(pair, logits, heatmap, labels, gamma):
    "KL costs something unless all are equal; 'hard' turns the pull of 'none' around."
    e, weight = token_error(*pair), labels * peak_confidence(heatmap)
    pulls = {}
    for kind in REGULARIZERS:
        a = logits.clone().requires_grad_()
        (pulls[kind],) = torch.autograd.grad(adaptive_mean(e, a, weight, kind, gamma), a)
    a = logits.clone().requires_grad_()
    kl = adaptive_mean(e, a, weight, "kl", gamma) - adaptive_mean(e, a, weight, "none")
    assert kl >= -1e-4 * float(e.max())
    (of_kl,) = torch.autograd.grad(kl, a)
    eps = 1e-4 * float(e.max()) * (1 + gamma) + 1e-12
    assert (pulls["kl"] - pulls["none"] - of_kl).abs().max() <= eps
    assert (pulls["hard"] + pulls["none"] - of_kl).abs().max() <= eps
    assert abs(pulls["kl"].sum()) <= eps  # a common shift of the logits changes nothing


@examples(60, logits=LOGITS, weight=tensors(dict(u=MAPS["uniform"], p=MAPS["peaks"]), N, K),
          labels=LABELS, seed=SEEDS, level=st.floats(-5, 5))
def test_keypoint_share(logits, weight, labels, seed, level):
    weight = weight * labels
    p = keypoint_share(logits, weight)
    assert close(p.sum(1), (weight.sum(1) > 0).float()) and ((p >= 0) & (p <= 1)).all()
    assert not p[weight == 0].any()
    assert (keypoint_share(logits + level, weight) - p).abs().max() < 1e-4
    assert (keypoint_share(logits, 3 * weight) - p).abs().max() < 1e-4
    order = order_of(seed, K)
    assert close(keypoint_share(logits[order], weight[:, order]), p[:, order])
    whole = weight.sum(1, keepdim=True).clamp_min(1e-30)
    assert (keypoint_share(0 * logits, weight) - weight / whole).abs().max() < 1e-5


@examples(30, pair=KEYPOINT_PAIRS, logits=LOGITS, labels=SOME_LABELS, heatmap=HEATMAPS)
def test_the_price_of_unequal_logits_does_not_pull_the_tokens(pair, logits, labels, heatmap):
    "KL is scaled by the mean error, as a constant: the tokens feel their own errors only."
    rest = heatmap, labels
    plain, kl = (gradients(adaptive(logits, regularizer=kind), pair, *rest)[1]
                 for kind in ("none", "kl"))
    scale = max(float(g.abs().max()) for g in plain)
    assert all((a - b).abs().max() <= 1e-5 * scale for a, b in zip(plain, kl, strict=True))


@examples(20, pair=KEYPOINT_PAIRS, logits=LOGITS, kind=KINDS)
def test_logits_of_another_type_are_reckoned_with_in_float32(pair, logits, kind):
    low = adaptive(logits, regularizer=kind, use_keypoint_guidance=False).bfloat16()
    high = adaptive(logits.bfloat16().float(), regularizer=kind, use_keypoint_guidance=False)
    assert low(*pair).dtype == torch.float32 and torch.equal(low(*pair), high(*pair))


@pytest.mark.parametrize("function", [adaptive_mean, relative_weights])
def test_a_default_is_one_of_the_kinds(function):
    assert inspect.signature(function).parameters["regularizer"].default in REGULARIZERS


@examples(40, logits=LOGITS, kind=KINDS)
def test_relative_weights(logits, kind):
    w = relative_weights(logits, kind)
    assert close(w.mean(), 1) and (w >= 0).all()
    log_w = -5 * torch.tanh(logits / 5) if kind == "uncertainty" else logits
    assert close(w, K * torch.softmax(log_w, 0))
    s = log_variance(logits)
    assert (s.abs() <= 5).all() and close(log_variance(-logits), -s)
    assert close(log_variance(logits / 1e4), logits / 1e4, 1e-3)
    assert torch.equal(relative_weights(logits), relative_weights(logits, "kl"))


def test_a_hidden_keypoint_has_no_share_whatever_was_learned():
    "Also where its logit is far above the others'."
    share = keypoint_share(torch.tensor([100.0, 0.0, 0.0]), torch.tensor([[0.0, 1.0, 1.0]]))
    assert torch.equal(share, torch.tensor([[0.0, 0.5, 0.5]]))


@examples(40, heatmap=HEATMAPS)
def test_peak_confidence(heatmap):
    c = peak_confidence(heatmap.requires_grad_())
    assert not c.requires_grad and torch.equal(c, heatmap.amax((2, 3)).clamp(0.01, 1))
    low = heatmap.bfloat16()
    assert torch.equal(peak_confidence(low), peak_confidence(low.float()))
    assert peak_confidence(low).dtype == torch.float32


BAD_KEYPOINTS = [
    ((N, K + 1, D), (N, K + 1, H, W), f"num_keypoints={K} but there are {K + 1}"),
    ((N, K, D), None, "needs heatmap="), ((N, K, D), (N, K - 1, H, W), f"({N}, {K})"),
    ((N, K, D), (N, K, H), "expected (N,K,H,W)"), ((N, K, D), (N + 1, K, H, W), f"({N}, {K})")]


@pytest.mark.parametrize("tokens, heatmap, words", BAD_KEYPOINTS)
def test_what_an_adaptive_loss_needs(tokens, heatmap, words):
    tokens, heatmap = torch.ones(tokens), None if heatmap is None else torch.ones(heatmap)
    value, message = refused(adaptive(), tokens, tokens, heatmap, kinds=(ValueError,))
    assert value is None and words in message
    if tokens.shape[1] == K:
        assert adaptive(use_keypoint_guidance=False)(tokens, tokens, heatmap) == 0


def test_bad_values_of_an_adaptive_loss_are_named():
    tokens, labels = torch.ones(N, K, D), torch.ones(N, K)
    for name in ("student", "teacher"):
        given = dict(student=tokens, teacher=0 * tokens) | {name: tokens * math.nan}
        value, message = refused(adaptive(), **given, heatmap=torch.ones(N, K, H, W))
        assert value is None and f"{name} ({N * K * D} of {N * K * D} values)." in message
    labels[0, 0] = math.inf
    value, message = refused(adaptive(), tokens, 0 * tokens, torch.ones(N, K, H, W), labels)
    assert value is None and "target_weight (1 of" in message
    logits = torch.tensor([math.nan] + [0.0] * (K - 1))
    value, message = refused(adaptive(logits), tokens, 0 * tokens, torch.ones(N, K, H, W))
    assert value is None and f"keypoint_logits (1 of {K} values)" in message


# ------------------------------------------------------------------------------ the heatmap loss

@examples(60, a=HEATMAPS, b=HEATMAPS, labels=LABELS, seed=SEEDS)
def test_heatmap_loss(a, b, labels, seed):
    "Unlabelled keypoints add nothing, and count in the mean, as in the released code."
    loss = HeatmapMSELoss()
    value = loss(a, b, labels)
    assert close(value, ((a - b)**2 * labels[..., None, None]).sum() / a.numel())
    assert close(loss(a, b, labels[..., None]), value) and close(loss(b, a, labels), value)
    assert loss(a, a) == 0 and close(loss(a, b), (a - b).square().mean())
    p, k = order_of(seed, N), order_of(seed, K)
    assert close(loss(a[p][:, k], b[p][:, k], labels[p][:, k]), value)
    assert loss(a, b, 0 * labels) == 0


@pytest.mark.parametrize("name", ["heatmap", "target_weight"])
def test_a_keypoint_that_is_nan_is_named(name):
    tokens, labels, heatmap = torch.ones(N, K, D), torch.ones(N, K), torch.ones(N, K, H, W)
    (labels if name == "target_weight" else heatmap)[0, 0] = math.nan
    value, message = refused(adaptive(), tokens, 0 * tokens, heatmap, labels)
    assert value is None and name in message


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_heatmap_loss_of_other_types(dtype):
    a, b = uniform(0, N, K, H, W).to(dtype), uniform(1, N, K, H, W).to(dtype)
    for pair in ((a, b), (a, b.float()), (a.float(), b)):
        value = HeatmapMSELoss()(*pair)
        assert value.dtype == torch.float32
        assert torch.equal(value, HeatmapMSELoss()(a.float(), b.float()))


@pytest.mark.parametrize("shapes", [((N, K, H, W), (N, K, H, W + 1)), ((N, K, H), (N, K, H)),
                                    ((0, K, H, W),) * 2, ((N, 0, H, W),) * 2])
def test_heatmaps_of_other_shapes_are_refused(shapes):
    value, message = refused(HeatmapMSELoss(), *map(torch.ones, shapes), kinds=(ValueError,))
    assert value is None and str(shapes[0]) in message and "(N,K,H,W)" in message


def test_a_bad_heatmap_is_named():
    target = torch.zeros(N, K, H, W)
    target[0, 0, 0, 0] = math.nan
    fine = torch.ones(N, K, H, W)
    for name, pair in dict(target=(fine, target), prediction=(target, fine)).items():
        value, message = refused(HeatmapMSELoss(), *pair)
        assert value is None and f"input: {name} (1 of {target.numel()} values)." in message


# ---------------------------------------------------------------------------------- settings

NUMBERS = dict(
    loss_weight=(0, 1e6), start_epoch=(0, 150), max_fg_weight=(1, math.inf),
    min_bg_weight=(0, 1), alpha=(0, 1), regularizer_weight=(1e-12, 1e6))
OWNERS = dict(
    loss_weight=("TokenDistilLoss", {}), regularizer_weight=("AdaptiveForegroundDistilLoss", {}),
    alpha=("ForegroundTokenDistilLoss", dict(normalize="regions")))


@pytest.mark.filterwarnings("ignore:.*the keypoints may not be learned")
@pytest.mark.parametrize("name", NUMBERS)
@examples(40, value=st.floats() | st.sampled_from([0, 1, 1e-12, -1e-9, True, "1", None]))
def test_numbers_out_of_range_are_named(name, value):
    kind, rest = OWNERS.get(name, ("DynamicForegroundDistilLoss", {}))
    low, high = NUMBERS[name]
    loss, message = refused(build_loss, dict(type=kind, **{name: value}, **rest))
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fine = number and math.isfinite(value) and low <= value <= high
    fine = fine and value < 150 if name == "start_epoch" else fine
    fine = fine or (name, value) == ("alpha", None)
    too_large = name == "max_fg_weight" and fine and value > torch.finfo(torch.float32).max
    assert (loss is not None) == (fine and not too_large)
    assert loss is not None or name in message


@pytest.mark.filterwarnings("ignore:.*the keypoints may not be learned")
@examples(150, kind=st.sampled_from(sorted(LOSSES)), changes=st.dictionaries(
    st.sampled_from(["loss_weight", "foreground_weight", "background_weight", "threshold",
                     "temperature", "use_spatial_weight", "normalize", "alpha", "pool",
                     "detach_teacher", "shuffle", "start_epoch", "end_epoch", "max_fg_weight",
                     "min_bg_weight", "unit", "num_keypoints", "use_keypoint_guidance",
                     "regularizer", "regularizer_weight", "los_weight"]),
    ANY_FLOAT | st.booleans() | st.none() | st.integers(-2, 40) | st.sampled_from(
        ["none", "weights", "regions", "avg", "max", "kl", "hard", "epoch", "fraction", "x"]),
    max_size=3))
def test_any_dictionary_builds_a_loss_that_works_or_is_refused(kind, changes):
    loss, message = refused(build_loss, dict(type=kind, **changes))
    if loss is None:
        return
    for name in ("detach_teacher", "shuffle", "use_keypoint_guidance", "use_spatial_weight"):
        assert isinstance(changes.get(name, True), bool), f"{name} is no text and no number"
    k = getattr(loss, "keypoint_logits", torch.zeros(T)).numel()
    a, b, heatmap = uniform(0, N, k, D), uniform(1, N, k, D), uniform(2, N, k, *GRID)
    if hasattr(loss, "set_epoch"):
        loss.set_epoch(3, 4)
    args = (heatmap, 0 * heatmap) if kind == "HeatmapMSELoss" else (a, b, heatmap, None, GRID)
    value, message = refused(loss, *args, kinds=(FloatingPointError,))
    assert "overflowed" in message if value is None else value >= 0


def test_a_very_large_weight_is_warned_of():
    "Of token losses, above 1; the heatmap loss has weight 1 and more."
    with pytest.warns(UserWarning, match=r"loss_weight=1.5 is 3e\+05 times the guide's 5e-6"):
        build_loss(dict(type="ForegroundTokenDistilLoss", loss_weight=1.5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_loss(dict(type="TokenDistilLoss", loss_weight=1.0))
        build_loss(dict(type="HeatmapMSELoss", loss_weight=100.0))


@pytest.mark.parametrize("config, words", [
    (dict(type="TokenDistillLoss"), "did you mean 'TokenDistilLoss'"),
    (dict(), "unknown loss type"),
    (dict(type="TokenDistilLoss", weight=1), "TokenDistilLoss argument 'weight'"),
    ("TokenDistilLoss", "dict(type=..., ...)"), (dict(type="TokenDistilLoss", self=1), "'self'"),
    (dict(type="ForegroundTokenDistilLoss", alpha=0.5), "normalize='regions' only"),
    (dict(type="DynamicForegroundDistilLoss", normalize="regions"), "'regions'"),
    (dict(type="DynamicForegroundDistilLoss", unit="fraction"), "at most 1, not 150"),
    (dict(type="DynamicForegroundDistilLoss", unit="fraction", start_epoch=0, end_epoch=1.5),
     "at most 1, not 1.5"),
    (dict(type="ForegroundTokenDistilLoss", normalize="regions", alpha="?"), "alpha must be"),
    (dict(type="ForegroundTokenDistilLoss", normalize="regions", alpha=1.01), "in [0, 1]"),
    (dict(type="DynamicForegroundDistilLoss", start_epoch=150), "must be after start_epoch=150"),
    (dict(type="AdaptiveForegroundDistilLoss", num_keypoints=0), "num_keypoints"),
    (dict(type="AdaptiveForegroundDistilLoss", num_keypoints=17.0), "num_keypoints"),
    (dict(type="AdaptiveForegroundDistilLoss", num_keypoints=True), "num_keypoints")])
def test_bad_dictionaries_are_named(config, words):
    loss, message = refused(build_loss, config)
    assert loss is None and words in message


@pytest.mark.parametrize("kind, names", [
    ("HeatmapMSELoss", ["loss_weight"]), ("TokenDistilLoss", ["loss_weight", "detach_teacher"]),
    ("ForegroundTokenDistilLoss", [
        "loss_weight", "foreground_weight", "background_weight", "threshold", "temperature",
        "use_spatial_weight", "normalize", "pool", "detach_teacher", "shuffle"]),
    ("AdaptiveForegroundDistilLoss", [
        "loss_weight", "num_keypoints", "use_keypoint_guidance", "regularizer",
        "regularizer_weight", "detach_teacher"]),
    ("DynamicForegroundDistilLoss", [
        "loss_weight", "start_epoch", "end_epoch", "max_fg_weight", "min_bg_weight", "threshold",
        "temperature", "normalize", "pool", "detach_teacher", "unit"])])
def test_every_argument_is_named_where_it_is_wrong(kind, names):
    "By the loss and its own name, whether a text, a number or nothing is wrong."
    for name in names:
        for value in ("?", 1j, None):
            loss, message = refused(build_loss, {"type": kind, name: value})
            assert loss is None and message.startswith(f"{kind}: ")
            assert re.search(rf"\b{name}\b", message), f"{name}={value!r}: {message}"


@pytest.mark.parametrize("kind, name, low, high", [
    ("TokenDistilLoss", "loss_weight", 0, 1e6),
    ("AdaptiveForegroundDistilLoss", "regularizer_weight", 1e-12, 1e6),
    ("DynamicForegroundDistilLoss", "min_bg_weight", 0, 1)])
@pytest.mark.filterwarnings("ignore:.*the keypoints may not be learned")
def test_limits_belong_to_the_range(kind, name, low, high):
    for value in (low, high):
        assert build_loss({"type": kind, name: value})
    for value in (low - 1e-13, high * (1 + 1e-9)):
        assert refused(build_loss, {"type": kind, name: value})[0] is None


def test_defaults_are_those_of_the_guide():
    fg, ad, dy, to = (build_loss(dict(type=t)) for t in (
        "ForegroundTokenDistilLoss", "AdaptiveForegroundDistilLoss", "DynamicForegroundDistilLoss",
        "TokenDistilLoss"))
    assert {loss.loss_weight for loss in (fg, ad, dy, to)} == {5e-6}
    assert (fg.foreground_weight, fg.background_weight, fg.threshold, fg.temperature) == (
        2.0, 0.5, 0.1, 1.0)
    assert fg.use_spatial_weight is True and fg.normalize == "none" and fg.pool == "max"
    assert fg.alpha == 0.8 and fg.shuffle is False
    assert len(ad.keypoint_logits) == 17 and not ad.keypoint_logits.any()
    assert ad.use_keypoint_guidance is True
    assert (ad.regularizer, ad.regularizer_weight) == ("kl", 1)
    assert (dy.start, dy.end, dy.max_fg, dy.min_bg, dy.unit) == (50, 150, 3.0, 0.3, "epoch")
    assert (dy.threshold, dy.temperature, dy.pool, dy.normalize) == (0.1, 1.0, "max", "none")
    assert not any(loss.detach_teacher for loss in (fg, ad, dy, to))
    assert HeatmapMSELoss().loss_weight == 1 and HeatmapMSELoss().check_finite
    one = DynamicForegroundDistilLoss(start_epoch=0, end_epoch=1, max_fg_weight=1, min_bg_weight=0,
                                      unit="fraction")
    assert one.end == 1 and DynamicForegroundDistilLoss(min_bg_weight=1).min_bg == 1
    assert AdaptiveForegroundDistilLoss(num_keypoints=1).keypoint_logits.shape == (1,)
    e, w, a = uniform(0, N, K), uniform(1, N, K), uniform(2, K)
    assert torch.equal(adaptive_mean(e, a, w), adaptive_mean(e, a, w, "kl", 1.0))
