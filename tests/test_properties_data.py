"""What holds of annotations, results, their scores and settings, for whatever is drawn."""
import inspect
import json
import math

import numpy as np
import pytest
from examples import SEEDS, examples, refused
from hypothesis import strategies as st

from fsd_sdpose.annotations import (
    AREA_SHARE,
    LSP_KEYPOINTS,
    PeopleFile,
    as_person,
    bad_annotation,
    lsp_annotation,
)
from fsd_sdpose.cli import EXPECTED
from fsd_sdpose.crops import Augmentation
from fsd_sdpose.evaluation import (
    evaluate,
    joint_similarity,
    match_people,
    oks,
    oks_nms,
    person_scores,
)
from fsd_sdpose.experiments import STUDY_SETTINGS, merge_overrides, resolve
from fsd_sdpose.files import known, parse_settings, parse_value, read_json, write_json
from fsd_sdpose.skeletons import COCO, CROWDPOSE
from fsd_sdpose.studies import METHODS, STUDIES
from fsd_sdpose.synthetic import make_dataset
from fsd_sdpose.training import TrainConfig, build_losses, make_config

PLACES = st.integers(-400, 4000).map(lambda n: n / 8)
CATEGORY = dict(id=1, name="person", keypoints=list(COCO.keypoints))


@st.composite
def files(draw, people=5):
    "Contents of a valid annotation file; at least one person is labelled."
    sizes = st.integers(40, 500)
    images = [dict(id=7 * n + 3, file_name=f"{n}.jpg", width=draw(sizes), height=draw(sizes))
              for n in range(draw(st.integers(1, 4)))]
    entries = []
    for n in range(draw(st.integers(1, people))):
        image = draw(st.sampled_from(images))
        x = draw(st.integers(-30, image["width"] - 2)) + 0.25
        y = draw(st.integers(-30, image["height"] - 2)) + 0.5
        box = [x, y, draw(st.integers(35, 400)), draw(st.integers(35, 400))]
        rng = np.random.default_rng(draw(SEEDS))
        flags = rng.integers(0, 3, 17)
        flags[rng.integers(17)] = 2
        xy = rng.integers(-100, 4000, (17, 2)) / 8 * (flags > 0)[:, None]
        entry = dict(id=11 * n + 5, image_id=image["id"], category_id=1, iscrowd=0, bbox=box,
                     keypoints=np.column_stack([xy, flags]).ravel().tolist(),
                     num_keypoints=int((flags > 0).sum()))
        area = draw(st.none() | st.integers(1, 10**5))
        entries.append(entry if area is None else entry | dict(area=area))
    return dict(images=images, annotations=entries, categories=[CATEGORY])


def results_of(data, rng=None, noise=0.0):
    "The labelled people as results, a little off."
    rng, rows = rng or np.random.default_rng(0), []
    for a in data["annotations"]:
        kp = np.array(a["keypoints"], float).reshape(-1, 3)
        kp[:, :2] += noise * rng.normal(size=(17, 2)) * math.sqrt(a["bbox"][2] * a["bbox"][3])
        rows.append(dict(image_id=a["image_id"], category_id=1, keypoints=kp.ravel().tolist(),
                         score=float(rng.random())))
    return rows


def same(a, b):
    "Whether two dictionaries of metrics agree; nobody is nobody in both."
    return a.keys() == b.keys() and np.allclose(list(a.values()), list(b.values()), equal_nan=True)


# ------------------------------------------------------------------------------- annotations

@examples(60, data=files())
def test_any_valid_person_survives_with_a_box_inside_its_picture(data):
    images = {im["id"]: im for im in data["images"]}
    for a in data["annotations"]:
        image = images[a["image_id"]]
        assert bad_annotation(a, 17, images) is None
        p = as_person(a, image)
        x, y, w, h = p["box"]
        assert 0 <= x < image["width"] and 0 <= y < image["height"] and w > 0 and h > 0
        assert x + w <= image["width"] and y + h <= image["height"]
        assert x >= a["bbox"][0] and x + w <= a["bbox"][0] + a["bbox"][2]
        assert p["area"] == a.get("area", AREA_SHARE * w * h)
        kp = np.array(a["keypoints"]).reshape(-1, 3)
        assert (p["visible"] == (kp[:, 2] > 0)).all() and p["score"] == 1
        assert (p["joints"] == kp[:, :2] * (kp[:, 2:] > 0)).all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@examples(40, data=files(), seed=SEEDS)
def test_a_file_is_read_as_it_was_written_in_whatever_order(folder, data, seed):
    def read(content):
        write_json(folder / "people.json", content)
        assert read_json(folder / "people.json") == json.loads(json.dumps(content))
        return PeopleFile(folder / "people.json").people

    rng = np.random.default_rng(seed)
    mixed = {k: [v[i] for i in rng.permutation(len(v))] for k, v in data.items()}
    one, other = read(data), read(mixed)
    assert len(one) == len(other) == len(data["annotations"])
    assert one.ann_id.tolist() == [a["id"] for a in data["annotations"]]
    order = [other.ann_id.tolist().index(i) for i in one.ann_id]
    for name in ("box", "joints", "visible", "area", "score"):
        assert np.array_equal(getattr(one, name), getattr(other, name)[order])
    for p, kept in ((one, data), (other, mixed)):
        files = {im["id"]: im["file_name"] for im in kept["images"]}
        assert [files[i] for i in p.image_id] == p.files
        own = [a["image_id"] for a in kept["annotations"]]
        assert p.image_id[p.image].tolist() == own and len(p.size) == len(set(own))


@examples(40, seed=SEEDS, width=st.integers(1, 300), height=st.integers(1, 300))
def test_people_of_leeds_lie_in_their_pictures(seed, width, height):
    rng = np.random.default_rng(seed)
    joints = np.column_stack([rng.uniform(-50, 350, (14, 2)), rng.integers(0, 2, 14)])
    a = lsp_annotation(joints, dict(id=1, width=width, height=height))
    xy, labelled = joints[:, :2], joints[:, 2] > 0
    inside = labelled & (xy >= 0).all(1) & (xy < [width, height]).all(1)
    assert (a is None) == (not inside.any())
    if a is None:
        return
    kp = np.array(a["keypoints"]).reshape(-1, 3)
    assert a["num_keypoints"] == inside.sum() == (kp[:, 2] == 2).sum()
    for n, name in enumerate(CROWDPOSE.keypoints):
        i = LSP_KEYPOINTS.index(name)
        assert np.allclose(kp[n], [*xy[i].round(2), 2] if inside[i] else 0, atol=0.006)
    x, y, w, h = a["bbox"]
    seen = kp[kp[:, 2] > 0, :2]
    assert x >= 0 and y >= 0 and x + w <= width + 0.02 and y + h <= height + 0.02
    assert (seen >= [x - 0.02, y - 0.02]).all() and (seen <= [x + w + 0.02, y + h + 0.02]).all()


# ----------------------------------------------------------------------- similarity and scores

@examples(40, seed=SEEDS, area=st.floats(1, 1e5), factor=st.floats(0.1, 10))
def test_similarity(seed, area, factor):
    "In [0,1], 1 for equals, symmetric, smaller farther away; units of length do not matter."
    a, b = np.random.default_rng(seed).uniform(0, 200, (2, 17, 2))
    s = joint_similarity(a, b, area, COCO.sigmas)
    assert ((s >= 0) & (s <= 1)).all() and (joint_similarity(a, a, area, COCO.sigmas) == 1).all()
    assert np.allclose(joint_similarity(b, a, area, COCO.sigmas), s)
    assert (joint_similarity(a, a + 2 * (b - a), area, COCO.sigmas) <= s + 1e-12).all()
    scaled = joint_similarity(factor * a, factor * b, factor**2 * area, COCO.sigmas)
    assert np.allclose(scaled, s, atol=1e-9)
    visible = np.random.default_rng(seed).integers(0, 3, 17)
    value = oks(a, b, visible, area, COCO.sigmas)
    if visible.any():
        assert np.isclose(value, s[visible > 0].mean())
    assert np.isnan(oks(a, b, 0 * visible, area, COCO.sigmas))


@examples(60, seed=SEEDS, shape=st.tuples(st.integers(0, 5), st.integers(0, 5)))
def test_every_person_is_given_at_most_one_prediction(seed, shape):
    s = np.random.default_rng(seed).uniform(0, 1, shape)
    match = match_people(s, 0.5)
    taken = match[match >= 0]
    assert len(match) == shape[1] and len(set(taken)) == len(taken)
    assert all(s[d, p] >= 0.5 for p, d in enumerate(match) if d >= 0)
    for d in set(range(shape[0])) - set(taken.tolist()):  # nothing was left for those without
        assert all(s[d, p] < 0.5 for p in np.flatnonzero(match < 0))


@examples(40, seed=SEEDS, n=st.integers(1, 6), threshold=st.floats(0.05, 1))
def test_repeats_are_dropped_once(seed, n, threshold):
    rng = np.random.default_rng(seed)
    base = rng.uniform(0, 200, (2, 17, 2))
    poses = base[rng.integers(0, 2, n)] + rng.normal(0, 3, (n, 17, 2))
    rows = [dict(image_id=int(rng.integers(2)), score=float(rng.random()),
                 keypoints=np.column_stack([p, np.ones(17)]).ravel().tolist()) for p in poses]
    kept = oks_nms(rows, COCO, threshold)
    assert [r for r in rows if r in kept] == kept and oks_nms(kept, COCO, threshold) == kept
    for image in {r["image_id"] for r in rows}:
        best = max((r for r in rows if r["image_id"] == image), key=lambda r: r["score"])
        assert best in kept
    assert oks_nms(rows, COCO, 1.0) == rows


@examples(40, seed=SEEDS)
def test_scores_of_people(seed):
    rng = np.random.default_rng(seed)
    peaks, boxes = rng.uniform(-0.2, 1, (4, 17)), rng.uniform(0, 1, 4)
    expected = [b * np.mean([p for p in row if p > 0.2] or [0])
                for row, b in zip(peaks, boxes, strict=True)]
    assert np.allclose(person_scores(peaks, boxes), expected)


# -------------------------------------------------------------------------------- evaluation

@examples(25, data=files())
def test_the_truth_scores_full_marks(data):
    scores = evaluate(data, results_of(data))
    assert scores["AP"] == scores["AR"] == scores["AP50"] == 100 and scores["OKS"] == 100
    assert all(math.isnan(v) or v == 100 for v in scores.values())


@examples(20, data=files(8), seed=SEEDS, factor=st.floats(0.001, 1000),
          noise=st.sampled_from([0.01, 0.05, 0.2]))
def test_order_scale_and_place_do_not_matter(data, seed, factor, noise):
    "Of results, of scores, of the picture."
    rng = np.random.default_rng(seed)
    rows = results_of(data, rng, noise)
    scores = evaluate(data, rows)
    assert all(math.isnan(v) or 0 <= v <= 100 for v in scores.values())
    assert same(evaluate(data, [rows[i] for i in rng.permutation(len(rows))]), scores)
    assert same(evaluate(data, [r | dict(score=factor * r["score"]) for r in rows]), scores)
    mixed = data | dict(annotations=data["annotations"][::-1], images=data["images"][::-1])
    assert same(evaluate(mixed, rows), scores)

    def moved(entries):
        return [e | dict(keypoints=[v + 16 * (i % 3 < 2) for i, v in enumerate(e["keypoints"])])
                for e in entries]

    wide = [im | dict(width=im["width"] + 16, height=im["height"] + 16) for im in data["images"]]
    people = [a | dict(bbox=[v + 16 * (i < 2) for i, v in enumerate(a["bbox"])])
              for a in moved(data["annotations"])]
    shifted = evaluate(dict(data, images=wide, annotations=people), moved(rows))
    # pycocotools measures unlabelled people by their box; these are all labelled
    assert same(shifted, scores)


@examples(25, data=files(8), seed=SEEDS, keep=st.integers(0, 255))
def test_fewer_results_never_find_more(data, seed, keep):
    "Of the truth itself, the share that is left is the recall; of any results, it never rises."
    rows = results_of(data)
    part = [r for n, r in enumerate(rows) if keep >> n & 1] or rows[:1]
    scores = evaluate(data, part)
    assert np.isclose(scores["AR"], 100 * len(part) / len(rows)) and scores["AP"] <= 100
    assert scores["AP"] <= scores["AR"] + 1  # 101 recalls, of which the first is 0
    noisy = results_of(data, np.random.default_rng(seed), 0.06)
    fewer = [r for n, r in enumerate(noisy) if keep >> n & 1] or noisy[:1]
    assert evaluate(data, fewer)["AR"] <= evaluate(data, noisy)["AR"] + 1e-9


@examples(20, data=files(8), seed=SEEDS)
def test_a_late_false_alarm_costs_nothing_and_an_early_one_may(data, seed):
    rows = results_of(data, np.random.default_rng(seed), 0.05)
    scores = evaluate(data, rows)
    image = data["images"][0]["id"]
    nowhere = dict(image_id=image, category_id=1, keypoints=[1e5, 1e5, 1.0] * 17)
    late = evaluate(data, rows + [nowhere | dict(score=-1.0)])
    early = evaluate(data, rows + [nowhere | dict(score=2.0)])
    assert np.isclose(late["AP"], scores["AP"]) and late["AR"] == early["AR"] == scores["AR"]
    assert early["AP"] <= scores["AP"] + 1e-9
    assert early["AP"] < scores["AP"] or scores["AP"] == 0


# ---------------------------------------------------------------------------------- settings

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8), lambda v: st.lists(v, max_size=3)
    | st.dictionaries(st.text(max_size=5), v, max_size=3), max_leaves=6)
WORDS = st.text("abcxyz_0é", min_size=1, max_size=8)
NAMES = st.text(min_size=1, max_size=8).filter(lambda t: "=" not in t)


@examples(100, settings=st.dictionaries(NAMES, VALUES, max_size=4))
def test_settings_survive_being_written(settings):
    pairs = [f"{name}={json.dumps(value)}" for name, value in settings.items()]
    assert parse_settings(pairs) == settings
    if pairs:
        result, message = refused(parse_settings, pairs + pairs[:1])
        assert result is None and repr(next(iter(settings))) in message


@examples(100, text=st.text(max_size=20))
def test_a_value_is_json_or_itself(text):
    try:
        expected = json.loads(text)
    except ValueError:
        expected = text
    value = parse_value(text)
    assert value == expected or (value != value and expected != expected)
    result, message = refused(parse_settings, [text])
    if result is None:
        assert repr(text) in message
    else:
        assert text.startswith(f"{next(iter(result))}=")


@examples(100, names=st.lists(WORDS, max_size=5, unique=True), name=WORDS)
def test_known(names, name):
    result, message = refused(known, name, names, "thing")
    assert result == (name if name in names else None)
    if result is None:
        assert f"unknown thing {name!r}" in message
        assert any(repr(n) in message for n in names) or all(n in message for n in names)
    for n in names:
        assert known(n, names, "thing") == n


SETTINGS = sorted({*inspect.signature(TrainConfig).parameters, *STUDY_SETTINGS})
DOTTED = [*(f"scene.{n}" for n in inspect.signature(make_dataset).parameters),
          *(f"augment.{n}" for n in inspect.signature(Augmentation).parameters),
          "loss_vis_token_dist.loss_weight", "loss_kpt_token_dist.type", "loss_vis_token_dist.x"]
KEYS = st.sampled_from(SETTINGS + DOTTED) | NAMES
SIMPLE = st.one_of(VALUES, st.integers(0, 50), st.sampled_from([0.5, "cpu", True, "", "n", "bf16"]))


@examples(250, study=st.sampled_from(sorted(STUDIES)), method=st.sampled_from(sorted(METHODS)),
          overrides=st.dictionaries(KEYS, SIMPLE, max_size=3))
def test_any_overrides_are_refused_or_give_settings_that_work(study, method, overrides):
    "A refusal names one of them. Settings that pass build their losses and fit their functions."
    result, message = refused(resolve, study, method, 0, overrides, kinds=EXPECTED)
    if result is None:
        parts = [part for n in overrides for part in (n, repr(n), n.split(".")[-1])]
        assert any(part in message for part in parts) or "accumulate" in message, message
        return
    settings, config = result
    assert isinstance(config, TrainConfig) and build_losses(config)
    # exactly how a set is drawn
    inspect.signature(make_dataset).bind("folder", 1, seed=0, processes=1, **settings.scene)
    refused(Augmentation, **settings.augment, kinds=EXPECTED)
    merged = merge_overrides({}, overrides)
    assert all(getattr(config, k) == (tuple(v) if k == "milestones" else v)
               for k, v in merged.items() if k not in STUDY_SETTINGS and "." not in k
               and not isinstance(v, dict))


@examples(60, values=st.dictionaries(st.sampled_from(SETTINGS), SIMPLE, max_size=3))
def test_a_configuration_is_valid_or_its_setting_is_named(values):
    config, message = refused(make_config, **values, kinds=EXPECTED)
    if config is None:
        assert any(name in message for name in values) or "batch_size" in message
    else:
        assert make_config(**values) == config and config.lr > 0 and config.epochs >= 1
