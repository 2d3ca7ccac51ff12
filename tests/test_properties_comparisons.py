"""What holds of comparisons for any scores: antisymmetry, shifts, order, formulas, corrections."""
import math

import numpy as np
import pandas as pd
import pytest
from examples import SEEDS, examples, refused
from hypothesis import strategies as st
from scipy import stats

from fsd_sdpose.comparisons import (
    MARGIN,
    RECALLS,
    ImageMatches,
    contrast,
    draw_metric,
    holm,
    image_matches,
    judge,
    metric_draws,
    paired_bootstrap,
    weighted_ap,
)
from fsd_sdpose.evaluation import (
    coco_evaluator,
    crowd_images,
    evaluate,
    read_both,
)
from fsd_sdpose.skeletons import COCO

POINTS = st.integers(-4000, 4000).map(lambda n: n / 64)  # exact in binary, so that sums are
P_VALUES = st.lists(st.floats(0, 1) | st.just(math.nan), max_size=8)
COLUMNS = ("difference", "low", "high", "p", "p_margin", "seeds", "images")


@st.composite
def pairs(draw, low=1, high=6):
    "Scores of two methods for the same seeds."
    seeds = draw(st.lists(st.integers(0, 99), min_size=low, max_size=high, unique=True))
    return tuple({k: draw(POINTS) for k in seeds} for _ in range(2))


def drawn(scores, seed, resamples=20):
    "Scores in draws of the pictures, around each score."
    rng = np.random.default_rng(seed)
    return {k: v + rng.normal(size=resamples) for k, v in scores.items()}


def same(a, b, eps=1e-9):
    nobody = math.isnan(a) and math.isnan(b)
    return nobody or math.isclose(a, b, rel_tol=eps, abs_tol=eps)


# ----------------------------------------------------------------------------- one contrast

@examples(80, pair=pairs(), seed=SEEDS, images=st.integers(0, 300))
def test_contrast_is_antisymmetric(pair, seed, images):
    "Exchanging the sides exchanges the ends of the interval."
    a, b = pair
    both = (drawn(a, seed), drawn(b, seed + 1)) if images > 1 else (None, None)
    c = contrast(a, b, *both, images=images, margin=math.nan)
    d = contrast(b, a, *both[::-1], images=images, margin=math.nan)
    assert tuple(c) == COLUMNS and math.isnan(c["p_margin"])
    assert same(c["difference"], -d["difference"]) and same(c["p"], d["p"])
    assert same(c["low"], -d["high"]) and same(c["high"], -d["low"])
    assert c["seeds"] == len(a) and c["images"] == (images if both[0] and len(a) > 1 else 0)
    assert same(c["difference"], sum(a.values()) / len(a) - sum(b.values()) / len(b))


@examples(60, pair=pairs(2), shift=POINTS, seed=SEEDS)
def test_a_shift_adds_and_leaves_the_width_alone(pair, shift, seed):
    a, b = pair
    both = drawn(a, seed), drawn(b, seed + 1)
    for extra in ((), both):
        more = tuple({k: v + shift for k, v in part.items()} for part in extra[:1]) + extra[1:]
        c = contrast(a, b, *extra, images=50)
        d = contrast({k: v + shift for k, v in a.items()}, b, *more, images=50)
        assert same(d["difference"], c["difference"] + shift)
        assert same(d["low"], c["low"] + shift, 1e-6) and same(d["high"], c["high"] + shift, 1e-6)


@examples(40, pair=pairs(2), seed=SEEDS, factor=st.integers(1, 9))
def test_units_do_not_matter(pair, seed, factor):
    "Scores, draws and margin in other units: the same probabilities."
    a, b = pair
    both = drawn(a, seed), drawn(b, seed + 1)
    c = contrast(a, b, *both, images=50, margin=0.3)
    bigger = ({k: factor * v for k, v in part.items()} for part in (a, b, *both))
    d = contrast(*bigger, images=50, margin=0.3 * factor)
    assert same(d["p"], c["p"], 1e-6) and same(d["p_margin"], c["p_margin"], 1e-6)
    assert same(d["high"], factor * c["high"], 1e-6)


@examples(60, pair=pairs(2), seed=SEEDS, images=st.integers(2, 300), level=st.floats(0.5, 0.999),
          margin=st.floats(-2, 2))
def test_contrast_is_its_formula(pair, seed, images, level, margin):
    "Variances of seeds and of pictures added, with the degrees of freedom of Satterthwaite."
    a, b = pair
    n, d = len(a), np.array([a[k] - b[k] for k in a])
    both = drawn(a, seed), drawn(b, seed + 1)
    shift = np.mean([both[0][k] - both[1][k] for k in a], axis=0)
    for extra, parts in (((), [(d.var(ddof=1) / n, n - 1)]),
                         (both, [(d.var(ddof=1) / n, n - 1), (shift.var(ddof=1), images - 1)])):
        c = contrast(a, b, *extra, images=images, margin=margin, level=level)
        total = sum(v for v, _ in parts)
        if total == 0:
            continue
        df = total**2 / sum(v**2 / k for v, k in parts)
        t = stats.t(df, loc=c["difference"], scale=math.sqrt(total))
        assert same(c["low"], t.ppf((1 - level) / 2), 1e-6)
        assert same(c["high"], t.ppf((1 + level) / 2), 1e-6)
        assert same(c["p"], 2 * min(t.cdf(0), t.sf(0)), 1e-6)
        assert same(c["p_margin"], t.sf(margin), 1e-6)
        assert c["images"] == (images if extra else 0)


@examples(40, pair=pairs(2), seed=SEEDS)
def test_defaults_of_a_contrast(pair, seed):
    "A margin of 0.3 AP, an interval of 95%, no draws."
    a, b = pair
    assert MARGIN == 0.3
    c, d = contrast(a, b), contrast(a, b, None, None, 0, 0.3, 0.95)
    assert all(same(c[k], d[k]) for k in COLUMNS)
    one_side = contrast(a, b, drawn(a, seed), images=50)  # the reference was not drawn
    assert all(same(c[k], one_side[k]) for k in COLUMNS)


@examples(40, scores=pairs(2), n=st.integers(2, 100), level=POINTS)
def test_equal_runs_differ_by_nothing(scores, n, level):
    a = scores[0]
    still = {k: [v, v] for k, v in a.items()}
    for extra in ((), (still, still)):
        c = contrast(a, a, *extra, images=n)
        assert (c["difference"], c["low"], c["high"], c["p"]) == (0, 0, 0, 1) and c["p_margin"] == 0
        raised = {k: v + level for k, v in a.items()}
        c = contrast(raised, a, *extra, images=n)
        moved = {k: [v + level] * 2 for k, v in a.items()}
        c = contrast(raised, a, moved, still, images=n) if extra else c
        assert (c["difference"], c["low"], c["high"]) == (level,) * 3
        assert c["p"] == (level == 0) and c["p_margin"] == (level >= MARGIN)
    assert math.isnan(contrast(a, a, margin=math.nan)["p_margin"])
    assert contrast({k: v + 1 for k, v in a.items()}, a, margin=1.0)["p_margin"] == 1


@examples(30, pair=pairs(1, 1), seed=SEEDS)
def test_one_seed_says_nothing_about_chance(pair, seed):
    a, b = ({np.int64(k): v for k, v in side.items()} for side in pair)
    c = contrast(a, b, drawn(a, seed), drawn(b, seed), images=50)
    assert all(math.isnan(c[k]) for k in ("low", "high", "p", "p_margin"))
    assert c["difference"] == a[min(a)] - b[min(b)] and (c["seeds"], c["images"]) == (1, 0)


@examples(30, pair=pairs(2), seed=SEEDS)
def test_a_draw_without_anybody_is_left_out(pair, seed):
    a, b = pair
    one, two = drawn(a, seed), drawn(b, seed + 1)
    gaps = [{k: np.append(v, math.nan) for k, v in part.items()} for part in (one, two)]
    c, d = contrast(a, b, one, two, images=50), contrast(a, b, *gaps, images=50)
    assert all(same(c[k], d[k]) for k in COLUMNS)


FINE = {0: 1.0, 1: 2.0}, {0: 1.5, 1: 1.0}
DRAWS = {0: [1.0, 2.0], 1: [2.0, 1.0]}


@pytest.mark.parametrize("draws, images, words", [
    (DRAWS, 1, "at least 2, not 1"), (DRAWS, 0, "at least 2, not 0"),
    ({0: [1.0, 2.0]}, 9, "no draws of seeds [1]"), ({0: [1.0, 2.0], 1: [1.0]}, 9, "as many"),
    ({0: [1.0], 1: [1.0]}, 9, "at least 2"), ({0: [[1.0, 2]] * 2, 1: [[1.0, 2]] * 2}, 9, "(2, 2)"),
    ({0: [1.0, 2.0], 1: [1.0, math.inf]}, 9, "seed 1 are infinite"),
    ({0: [math.inf, 2.0], 1: [1.0, 2.0]}, 9, "seed 0 are infinite, or all NaN")])
def test_draws_that_do_not_fit_are_named(draws, images, words):
    for both in ((draws, DRAWS), (DRAWS, draws)):
        result, message = refused(contrast, *FINE, *both, images=images)
        assert result is None and words in message
    assert contrast(*FINE, DRAWS, DRAWS, images=2)["images"] == 2
    nobody = DRAWS | {1: [math.nan] * 2}
    result, message = refused(contrast, *FINE, nobody, nobody, images=2)
    assert result is None and "seed 1 are infinite, or all NaN" in message


@pytest.mark.parametrize("kwargs, words", [
    (dict(level=0.0), "level must be in (0, 1)"), (dict(level=1.0), "level must be in (0, 1)"),
    (dict(level=math.nan), "level"), (dict(level=True), "level"),
    (dict(margin=math.inf), "margin must be a finite number"), (dict(margin="1"), "margin")])
def test_settings_of_a_contrast_are_named(kwargs, words):
    result, message = refused(contrast, *FINE, **kwargs)
    assert result is None and words in message


@pytest.mark.parametrize("rows, kwargs, words", [
    ([], {}, "no rows to judge"), ([dict(p=1.0)], {}, "row 0 lacks ['difference', 'images', "),
    ([contrast(*FINE), {}], {}, "row 1 lacks"),
    ([contrast(*FINE) | dict(difference=math.nan)], {}, "row 0: the difference is nan"),
    ([contrast(*FINE) | dict(difference="1")], {}, "row 0: the difference is '1'"),
    ([contrast(*FINE) | dict(p=1.01)], {}, "p is 1.01"),
    ([contrast(*FINE) | dict(p_margin=-0.01)], {}, "p_margin is -0.01"),
    ([contrast(*FINE) | dict(p=None)], {}, "p is None"),
    ([contrast(*FINE)], dict(alpha=0.0), "alpha must be in (0, 1)"),
    ([contrast(*FINE)], dict(alpha=1.0), "alpha must be in (0, 1)"),
    ([contrast(*FINE)], dict(alpha="1"), "alpha"),
    ([contrast(*FINE)], dict(margin=None), "margin")])
def test_rows_that_cannot_be_judged_are_named(rows, kwargs, words):
    result, message = refused(judge, rows, **kwargs)
    assert result is None and words in message
    assert len(judge([contrast(*FINE) | dict(p=0, p_margin=1)])) == 1


@pytest.mark.parametrize("a, b, words", [
    ({0.5: 1.0}, {0.5: 1.0}, "the seeds [0.5] are not whole"), ({"0": 1.0}, {"0": 1.0}, "['0']"),
    ({True: 1.0, 5: 1.0}, {True: 1.0, 5: 1.0}, "[True]"),
    ({0: True}, {0: 1.0}, "[0] are not finite numbers: (True, 1.0)"),
    ({0: 1.0}, {0: "1"}, "[0] are not finite"), ({0: None}, {0: 1.0}, "[0] are not finite"),
    ({0: 1.0}, {1: 1.0}, "not [0] and [1]"), ({}, {}, "same seeds"), ({0: 1.0}, {}, "same seeds"),
    ({0: 1.0, 1: 2.0}, {0: 1.0}, "not [0, 1] and [0]"),
    ({0: math.nan, 1: 1.0}, {0: 1.0, 1: 1.0}, "[0] are not finite"),
    ({0: 1.0, 1: 1.0}, {0: 1.0, 1: math.inf}, "[1] are not finite")])
def test_pairs_that_cannot_be_compared_are_named(a, b, words):
    result, message = refused(contrast, a, b)
    assert result is None and words in message


# --------------------------------------------------------------------- several of them together

@examples(120, p=P_VALUES)
def test_holm(p):
    "Never below the raw value, in its order, at most 1 and at most Bonferroni; NaN is no test."
    adjusted, raw = holm(p), np.array(p, float)
    assert (np.isnan(adjusted) == np.isnan(raw)).all() and adjusted.shape == raw.shape
    there, k = ~np.isnan(raw), (~np.isnan(raw)).sum()
    raw, adjusted = raw[there], adjusted[there]
    assert (adjusted >= raw).all() and (adjusted <= np.minimum(k * raw, 1) + 1e-12).all()
    order = np.argsort(raw, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()
    for n, i in enumerate(order):  # the definition
        assert same(adjusted[i], min(1, max((k - m) * raw[j] for m, j in enumerate(order[:n + 1]))))


@examples(40, p=P_VALUES, seed=SEEDS)
def test_holm_does_not_depend_on_the_order(p, seed):
    order = np.random.default_rng(seed).permutation(len(p))
    assert np.array_equal(holm(np.array(p, float)[order]), holm(p)[order], equal_nan=True)


ROWS = st.fixed_dictionaries(dict(
    difference=st.floats(-2, 2), p=st.floats(0, 1) | st.just(math.nan) | st.floats(0, 0.01),
    p_margin=st.floats(0, 1) | st.just(math.nan) | st.floats(0, 0.01),
    images=st.sampled_from([0, 9])))


@examples(120, rows=st.lists(ROWS, min_size=1, max_size=6), margin=st.sampled_from([0.3, 1.0]),
          alpha=st.sampled_from([0.05, 0.2]))
def test_a_verdict_says_what_the_numbers_say(rows, margin, alpha):
    table = judge(rows, margin, alpha)
    p, small = holm([r["p"] for r in rows]), holm([r["p_margin"] for r in rows])
    for n, r in enumerate(rows):
        if math.isnan(r["p"]) or (not math.isnan(r["p_margin"]) and r["images"] == 0):
            word = "no verdict"
        elif p[n] < alpha:
            word = "gain" if r["difference"] > 0 else "loss"
        elif small[n] < alpha:
            word = f"no gain of {margin:g} or more"
        else:
            word = "undecided"
        assert table["verdict"][n] == word and same(table["p_holm"][n], p[n])
    assert list(table.drop(columns=["p_holm", "verdict"])) == list(rows[0])
    if (margin, alpha) == (0.3, 0.05):
        assert judge(rows).equals(table)


# -------------------------------------------------------------------------- AP by the pictures

@st.composite
def scenes(draw, images=5):
    "Ground truth of a few pictures, and results for the people, near and far, with false alarms."
    rng = np.random.default_rng(draw(SEEDS))
    people, rows = [], []
    for image in range(1, images + 1):
        for _ in range(draw(st.integers(0, 3))):
            xy = rng.uniform(20, 180, 2) + rng.uniform(0, 60, (17, 2))
            kp = np.column_stack([xy, rng.integers(1, 3, 17)])
            box = [*xy.min(0), *np.ptp(xy, axis=0)]
            people.append(dict(id=len(people) + 1, image_id=image, category_id=1, iscrowd=0,
                               area=float(box[2] * box[3]), bbox=[float(v) for v in box],
                               keypoints=kp.ravel().tolist(), num_keypoints=17))
            for _ in range(draw(st.integers(0, 2))):
                near = xy + rng.normal(0, draw(st.sampled_from([0.0, 2.0, 8.0, 80.0])), (17, 2))
                result = np.column_stack([near, np.ones(17)]).ravel().tolist()
                rows.append(dict(image_id=image, category_id=1, keypoints=result,
                                 score=float(rng.random())))
    if not people or not rows:
        return draw(scenes(images))
    category = dict(id=1, name="person", keypoints=list(COCO.keypoints))
    sizes = [dict(id=n, file_name=f"{n}.jpg", width=300, height=300) for n in range(1, images + 1)]
    return dict(images=sizes, annotations=people, categories=[category]), rows


def matches_of(truth, rows):
    return image_matches(coco_evaluator(*read_both(truth, rows)))


@examples(25, scene=scenes(), seed=SEEDS)
def test_weighted_ap_is_the_ap_of_copied_pictures(scene, seed):
    "Of all once; of a part; and of a dataset in which some pictures occur several times."
    truth, rows = scene
    m = matches_of(truth, rows)
    assert same(weighted_ap(m, np.ones(len(m.ids))), evaluate(truth, rows)["AP"], 1e-6)
    weight = np.random.default_rng(seed).integers(0, 3, len(m.ids)).astype(float)
    counted = [(i, copy) for i, w in zip(m.ids, weight, strict=True) for copy in range(int(w))]
    images, people, results = [], [], []
    for n, (i, _) in enumerate(counted, 1):
        images += [dict(im, id=n) for im in truth["images"] if im["id"] == i]
        people += [dict(a, image_id=n) for a in truth["annotations"] if a["image_id"] == i]
        results += [dict(r, image_id=n) for r in rows if r["image_id"] == i]
    people = [dict(a, id=n) for n, a in enumerate(people, 1)]
    copied = dict(truth, images=images, annotations=people)
    if not people:
        assert math.isnan(weighted_ap(m, weight))
    elif not results:
        assert weighted_ap(m, weight) == 0
    else:
        assert same(weighted_ap(m, weight), evaluate(copied, results)["AP"], 1e-6)
        assert same(weighted_ap(m, 3 * weight), weighted_ap(m, weight), 1e-9)


@examples(15, scene=scenes())
def test_what_is_kept_of_the_matches(scene):
    truth, rows = scene
    m = matches_of(truth, rows)
    assert isinstance(m, ImageMatches) and len(m.ids) == len(truth["images"]) == len(m.people)
    count = pd.Series([a["image_id"] for a in truth["annotations"]]).value_counts()
    assert (m.people == count.reindex(m.ids, fill_value=0)).all()
    found = pd.Series([r["image_id"] for r in rows]).value_counts()
    own = pd.Series(np.array(m.ids)[m.image]).value_counts()
    assert own.sort_index().equals(found.sort_index()) and len(m.hits) == 10
    assert len(RECALLS) == 101 and (RECALLS[0], RECALLS[-1]) == (0, 1)
    assert m.counted.shape == (10, len(rows))
    for hits, harder in zip(m.hits, m.hits[1:], strict=False):
        assert len(harder) <= len(hits)


@examples(10, scene=scenes(), seed=SEEDS)
def test_draws(scene, seed):
    "Equal seeds draw equally; each column stands alone; every draw is a metric of its pictures."
    truth, rows = scene
    names = ["AP", "AP_crowd", "OKS", "OKS_visible", "OKS_occluded", "OKS_left_knee"]
    table = metric_draws(rows, truth, names, 12, seed)
    assert list(table) == names and len(table) == 12
    assert table.equals(metric_draws(rows, truth, names, 12, seed))
    assert table[["OKS", "AP"]].equals(metric_draws(rows, truth, ["OKS", "AP"], 12, seed))
    assert np.array_equal(draw_metric(rows, truth, "OKS", 12, seed), table["OKS"], equal_nan=True)
    values = table.to_numpy()
    assert (np.isnan(values) | ((values >= 0) & (values <= 100 + 1e-9))).all()
    crowd = crowd_images(read_both(truth, rows)[0])["crowd"]
    assert len(crowd) > 0 or table["AP_crowd"].isna().all()
    rng, ids = np.random.default_rng(seed), [im["id"] for im in truth["images"]]
    m = matches_of(truth, rows)
    for n in range(3):  # the pictures that a draw takes, spelt out
        picked = rng.choice(ids, len(ids))
        weight = np.array([(picked == i).sum() for i in m.ids], float)
        assert same(table["AP"][n], weighted_ap(m, weight), 1e-9)


def test_defaults_of_the_draws():
    truth, rows = sure_scene()
    assert metric_draws(rows, truth).equals(metric_draws(
        rows, truth, ("AP", "AP_crowd", "OKS", "OKS_visible", "OKS_occluded"), 400, 0))
    assert np.array_equal(draw_metric(rows, truth), draw_metric(rows, truth, "AP", 400, 0))
    a = paired_bootstrap(truth, rows, rows[::2])
    assert a == paired_bootstrap(truth, rows, rows[::2], 1000, 0.95, 0)


def sure_scene(images=8, seed=0):
    "Two people in every picture; the predictions of every other one are poor."
    rng, people, rows = np.random.default_rng(seed), [], []
    for n in range(2 * images):
        image, place = n // 2 + 1, np.array([20.0 + 120 * (n % 2), 20.0])
        xy = place + rng.uniform(0, 100, (17, 2))
        keypoints = np.column_stack([xy, 1 + (n + np.arange(17)) % 2]).ravel().tolist()
        people.append(dict(id=n + 1, image_id=image, category_id=1, iscrowd=0, area=1e4,
                           bbox=[*place, 100.0, 100.0], num_keypoints=17, keypoints=keypoints))
        near = xy + rng.normal(0, 4 + 8 * (image % 2), (17, 2))
        rows.append(dict(image_id=image, category_id=1, score=float(rng.random()),
                         keypoints=np.column_stack([near, np.ones(17)]).ravel().tolist()))
    sizes = [dict(id=n, file_name=f"{n}.jpg", width=300, height=300) for n in range(1, images + 1)]
    category = dict(id=1, name="person", keypoints=list(COCO.keypoints))
    return dict(images=sizes, annotations=people, categories=[category]), rows


@pytest.mark.parametrize("metric, level", [("OKS_visible", 2), ("OKS_occluded", 1), ("OKS", None),
                                           ("OKS_left_knee", None)])
def test_draws_of_a_slice_count_its_joints(metric, level):
    "Each draw is the mean over the joints of the pictures drawn."
    from fsd_sdpose.evaluation import joint_table
    truth, rows = sure_scene()
    table = joint_table(truth, rows)
    table = table[table["visibility"] == level] if level else table
    table = table[table["joint"] == "left_knee"] if metric.endswith("knee") else table
    by_image = table.groupby("image_id")["similarity"].agg(["sum", "size"])
    rng, values = np.random.default_rng(3), draw_metric(rows, truth, metric, 5, 3)
    for value in values:
        picked = by_image.loc[rng.choice(range(1, 9), 8)].sum()
        assert same(value, 100 * picked["sum"] / picked["size"], 1e-9)


@examples(10, scene=scenes(), seed=SEEDS, level=st.sampled_from([0.5, 0.9]))
def test_paired_bootstrap(scene, seed, level):
    "Zero for equals, antisymmetric, wider at a higher level; of some pictures only, if so asked."
    truth, rows = scene
    fewer = rows[:len(rows) // 2 + 1]
    same_twice = paired_bootstrap(truth, rows, rows, 20, level, seed)
    assert (same_twice["difference"], same_twice["low"], same_twice["high"]) == (0, 0, 0)
    a = paired_bootstrap(truth, rows, fewer, 40, level, seed)
    b = paired_bootstrap(truth, fewer, rows, 40, level, seed)
    assert same(a["difference"], -b["difference"]) and same(a["AP"], b["reference"])
    assert same(a["low"], -b["high"]) and same(a["high"], -b["low"])
    assert same(a["AP"], evaluate(truth, rows)["AP"], 1e-6)
    assert (a["images"], a["resamples"]) == (len(truth["images"]), 40)
    assert a["low"] <= a["high"]
    wide = paired_bootstrap(truth, rows, fewer, 40, 0.99, seed)
    assert wide["low"] <= a["low"] + 1e-9 and wide["high"] >= a["high"] - 1e-9
    one = truth["annotations"][0]["image_id"]
    alone = paired_bootstrap(truth, rows, fewer, 5, level, seed, image_ids=[one])
    assert alone["images"] == 1 and alone["low"] == alone["high"] == alone["difference"]
    m = matches_of(truth, rows)
    assert same(alone["AP"], weighted_ap(m, np.isin(m.ids, [one]).astype(float)))


def test_bootstrap_percentiles_are_those_of_the_draws():
    truth, rows = sure_scene()
    worse = [dict(r, keypoints=[v + 4 for v in r["keypoints"]]) for r in rows]
    a, b = (draw_metric(r, truth, "AP", 200, 7) for r in (rows, worse))
    c = paired_bootstrap(truth, rows, worse, 200, 0.8, 7)
    low, high = np.percentile(a - b, [10, 90])
    assert same(c["low"], low) and same(c["high"], high) and c["difference"] > 0


@pytest.mark.parametrize("kwargs, words", [
    (dict(resamples=0), "resamples must be a whole number, 1 or more, not 0"),
    (dict(resamples=2.0), "resamples"), (dict(resamples=True), "resamples"),
    (dict(seed=-1), "seed must be a whole number, 0 or more, not -1"), (dict(seed=0.5), "seed"),
    (dict(level=0.0), "level must be in (0, 1)"), (dict(level=1.0), "level must be in (0, 1)"),
    (dict(level="1"), "level must be a finite number"), (dict(image_ids=[]), "no AP to compare"),
    (dict(image_ids=[99]), "no AP to compare")])
def test_bootstraps_that_make_no_sense_are_refused(kwargs, words):
    truth, rows = sure_scene(2)
    result, message = refused(paired_bootstrap, truth, rows, rows, **kwargs)
    assert result is None and words in message
    if {"resamples", "seed"} & set(kwargs):
        result, message = refused(metric_draws, rows, truth, **kwargs)
        assert result is None and words in message
    few = paired_bootstrap(truth, rows, rows, resamples=np.int64(1), seed=np.int64(0))
    assert few["resamples"] == 1


@pytest.mark.parametrize("metric", ["PCK", "OKS_tail", "PCK_left_knee", "left_knee", "visible"])
def test_metrics_without_draws_are_named(metric):
    truth, rows = sure_scene(2)
    result, message = refused(metric_draws, rows, truth, [metric])
    assert result is None and repr(metric) in message and "OKS_<joint>" in message
