"Evaluation and draws against pycocotools used directly, brute force, and on input that is broken."
import contextlib
import io
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO as CocoIndex
from pycocotools.cocoeval import COCOeval

from fsd_sdpose import comparisons as co
from fsd_sdpose import evaluation as ev
from fsd_sdpose.data import PoseDataset, make_loader
from fsd_sdpose.heatmaps import encode
from fsd_sdpose.skeletons import COCO, CROWDPOSE, SKELETONS, skeleton_for

FILES = {
    "coco": "coco_sample/test_coco.json",
    "crowdpose": "crowdpose_sample/test_crowdpose.json",
    "ochuman": "ochuman_sample/test_ochuman.json",
    "lspet": "lspet/person_keypoints_val.json",
}
SIX = ("AP", "AP50", "AP75", "AP_M", "AP_L", "AR")


def real(name):
    "Path of a real annotation file, or skip."
    path = Path(os.environ.get("FSD_DATA", "unset"), FILES[name])
    if not path.exists():
        pytest.skip(f"FSD_DATA is not set to a folder with {FILES[name]}")
    return path


def made(seed=0, skeleton=COCO, images=12, most=4):
    "Random people, some unlabelled, some in a crowd region, as a COCO file in memory."
    rng, people, k = np.random.default_rng(seed), [], skeleton.num_keypoints
    for image in range(1, images + 1):
        for _ in range(rng.integers(0, most + 1)):
            x, y, w, h = *rng.uniform(0, 300, 2), *rng.uniform(40, 200, 2)
            v = rng.integers(0, 3, k) * (rng.random() > .15)
            xyv = np.column_stack([x + rng.uniform(0, w, k), y + rng.uniform(0, h, k), v])
            keypoints = (xyv * (v[:, None] > 0)).ravel().tolist()
            crowd = int(rng.random() < .05)
            people.append(dict(id=len(people), image_id=image, category_id=1, bbox=[x, y, w, h],
                               area=.5 * w * h, keypoints=keypoints, iscrowd=crowd))
    files = [dict(id=i + 1, file_name=f"{i}.jpg", width=640, height=480) for i in range(images)]
    category = dict(id=1, name="person", keypoints=list(skeleton.keypoints))
    return dict(images=files, annotations=people, categories=[category])


def result(image, keypoints, score=1.):
    return dict(image_id=image, category_id=1, keypoints=np.ravel(keypoints).tolist(), score=score)


def noisy(data, seed=0, noise=.06, copies=2):
    "Predictions: noisy copies of everybody and false alarms, with many equal scores."
    rng, rows = np.random.default_rng(seed), []
    for a in ev.read_ground_truth(data)["annotations"] * copies:
        xyv = np.array(a["keypoints"], float).reshape(-1, 3)
        error = rng.standard_normal((len(xyv), 2)) * noise * math.sqrt(a["area"])
        xyv[:, :2] += error * rng.exponential()
        rows.append(result(a["image_id"], xyv, float(np.round(rng.random(), 1))))
    return rows


def perfect(data):
    "Labelled people as predictions."
    people = ev.labelled_people(ev.read_ground_truth(data)).values()
    return [result(a["image_id"], a["keypoints"]) for a in sum(people, [])]


def same(a, b):
    "Equal to the eighth digit, NaN where the other is NaN."
    assert a == pytest.approx(b, rel=0, abs=1e-8, nan_ok=True)


# ---- numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["coco", "ochuman", "lspet"])
def test_agrees_with_pycocotools_used_directly(name, tmp_path):
    path = real(name)
    ev.write_results(tmp_path / "results.json", noisy(path, seed=3))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = CocoIndex(str(path))
        e = COCOeval(truth, truth.loadRes(str(tmp_path / "results.json")), "keypoints")
        skeleton = skeleton_for(truth.dataset["categories"][0]["keypoints"])
        e.params.kpt_oks_sigmas = np.array(skeleton.sigmas)
        e.evaluate()
        e.accumulate()
        e.summarize()
    got = ev.evaluate(path, tmp_path / "results.json")
    want = np.where(e.stats[:6] > -1, e.stats[:6] * 100, math.nan)
    same({k: got[k] for k in SIX}, dict(zip(SIX, want, strict=True)))


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=lambda s: s.name)
@pytest.mark.parametrize("seed", range(3))
def test_hotcoco_gives_the_same_numbers(skeleton, seed):
    pytest.importorskip("hotcoco")
    data = made(seed, skeleton, images=30)
    rows = noisy(data, seed)
    for entry in [*data["annotations"], *rows]:  # category 0 is as good as any
        entry["category_id"] = data["categories"][0]["id"] = seed
    out = ev.evaluate(data, rows)
    assert 0 < out["AP"] < 100
    same(out, ev.evaluate(data, rows, backend="hotcoco"))


def test_sigmas_of_the_skeleton_are_used():
    data = made(skeleton=CROWDPOSE)
    half = tuple(s / 2 for s in CROWDPOSE.sigmas)
    strict = CROWDPOSE.__class__(**{**CROWDPOSE.__dict__, "sigmas": half})
    rows = noisy(data)
    assert ev.evaluate(data, rows, skeleton=strict)["AP"] < ev.evaluate(data, rows)["AP"] - 1


def subset(data, rows, images):
    "Ground truth and results of these images, an image that comes twice under two ids."
    out, kept = dict(data, images=[], annotations=[]), []
    for new, i in enumerate(images, 100):
        out["images"] += [dict(im, id=new) for im in data["images"] if im["id"] == i]
        out["annotations"] += [dict(a, image_id=new) for a in data["annotations"]
                               if a["image_id"] == i]
        kept += [dict(r, image_id=new) for r in rows if r["image_id"] == i]
    return out, kept


def test_slices_equal_the_subset_evaluated_alone():
    data, keep = made(7, images=20), [2, 3, 5, 7, 11, 13]
    rows = noisy(data, 7)
    e = ev.coco_evaluator(ev.read_ground_truth(data), rows, COCO)
    alone = ev.evaluate(*subset(data, rows, keep))
    same(ev.average_precision(*ev.accumulate(e, keep)), {k: alone[k] for k in SIX})


@pytest.mark.parametrize("seed", range(5))
def test_draws_equal_datasets_with_copied_images(seed):
    data, rng = made(seed), np.random.default_rng(seed)
    rows = noisy(data, seed)
    rows = [dict(r, score=r["score"] + n * 1e-6) for n, r in enumerate(rows)]  # no equal scores
    table = co.metric_draws(rows, data, resamples=2, seed=seed)
    for _, drawn in table.drop(columns="AP_crowd").iterrows():
        want = ev.evaluate(*subset(data, rows, 1 + rng.choice(12, 12)))
        same(drawn.to_dict(), {k: want[k] for k in drawn.index})
    crowd = ev.crowd_images(ev.read_ground_truth(data))["crowd"]
    alone = co.draw_metric(*subset(data, rows, crowd)[::-1], resamples=2, seed=seed)
    assert crowd and (table["AP_crowd"] == alone).all()


def test_oks_equals_pycocotools():
    data = ev.read_ground_truth(made(2))
    e = ev.coco_evaluator(data, noisy(data, 2), COCO)
    for key, table in e.ious.items():
        people, detected = e._gts[key], sorted(e._dts[key], key=lambda d: -d["score"])[:20]
        if len(table) == 0:
            continue
        guess, truth = (np.array([a["keypoints"] for a in v]).reshape(-1, 17, 3)
                        for v in (detected, people))
        area = np.array([a["area"] for a in people])
        got = ev.oks(guess[:, None, :, :2], truth[..., :2], truth[..., 2], area, COCO.sigmas)
        labelled = np.array([a["num_keypoints"] > 0 for a in people])
        np.testing.assert_allclose(got[:, labelled], table[:, labelled], atol=1e-12)
        assert np.isnan(got[:, ~labelled]).all()


@pytest.mark.parametrize("why", [dict(keypoints=[0.] * 51), dict(num_keypoints=0), dict(iscrowd=1)])
def test_unlabelled_people_and_crowds_are_neither_missed_nor_false_alarms(why):
    data, rows = made(1), perfect(made(1))
    alone = ev.evaluate(data, rows)
    on_it = np.column_stack([np.linspace(505, 595, 17), np.linspace(305, 445, 17), np.ones(17)])
    rows.append(result(1, on_it))
    assert ev.evaluate(data, rows)["AP"] < 100  # where nobody is annotated it is a false alarm
    region = dict(id=999, image_id=1, category_id=1, bbox=[500, 300, 100, 150], area=1e4)
    data["annotations"].append(region | why)
    same(alone, ev.evaluate(data, rows))


def test_what_is_left_out_does_not_count():
    data, lost = made(3), [2, 5]
    twin = dict(data, annotations=data["annotations"] + data["annotations"][-1:])
    same(ev.evaluate(twin, perfect(data), skip_bad=True), ev.evaluate(data, perfect(data)))
    assert ev.evaluate(data, perfect(data), without=lost)["AP"] == 100
    assert ev.evaluate(data, perfect(ev.read_ground_truth(data, without=lost)))["AP"] < 90


@pytest.mark.filterwarnings("ignore:results:UserWarning")
@pytest.mark.parametrize("backend", ["pycocotools", "hotcoco"])
def test_nobody_labelled_is_nan_everywhere(backend):
    pytest.importorskip(backend)
    data = made(0)
    for a in data["annotations"]:
        a["keypoints"] = [0.] * 51
    with pytest.warns(UserWarning, match="AP is NaN"):
        out = ev.evaluate(data, [GOOD], backend=backend)
    assert all(math.isnan(v) for v in out.values())
    assert co.metric_draws([GOOD], data, resamples=2).isna().all(axis=None)


def test_input_is_not_changed_and_nothing_is_printed(capfd):
    data = made(4)
    rows = noisy(data)
    before = json.dumps([data, rows])
    ev.evaluate(data, rows)
    co.paired_bootstrap(data, rows, rows[::2], resamples=5)
    assert json.dumps([data, rows]) == before
    assert capfd.readouterr() == ("", "")


# ---- crowd index and joints ----------------------------------------------------------------------


def test_crowd_index_does_not_depend_on_order_or_place():
    data = made(5)
    index = ev.crowd_index(data)
    data["annotations"].reverse()
    for a in data["annotations"]:
        a["keypoints"] = (np.reshape(a["keypoints"], (17, 3)) + [7, 3, 0]).ravel().tolist()
        a["bbox"] = (np.array(a["bbox"]) + [7, 3, 0, 0]).tolist()
    assert ev.crowd_index(data) == pytest.approx(index)
    assert max(index.values()) > 0


def test_joint_table_and_scores():
    data = made(6)
    table = ev.joint_table(data, noisy(data, 6, noise=.03, copies=1))
    people = sum(ev.labelled_people(ev.read_ground_truth(data)).values(), [])
    assert len(table) == sum(a["num_keypoints"] for a in people)
    assert set(table["error"]) <= {"good", "undetected", *ev.ERRORS}
    assert (table[table["result"] < 0]["similarity"] == 0).all()
    used = table.groupby("ann_id")["result"].first()
    assert used[used >= 0].is_unique
    scores, n = ev.joint_scores(table), table["visibility"].value_counts()
    mean = (scores["OKS_visible"] * n[2] + scores["OKS_occluded"] * n[1]) / n.sum()
    assert scores["OKS"] == pytest.approx(mean)
    assert (ev.joint_table(data, perfect(data))["error"] == "good").all()


def test_curing_all_errors_of_everybody_found_gives_full_precision():
    data = made(8)
    rows = noisy(data, 8, noise=.02, copies=1)
    table = ev.joint_table(data, rows)
    after = ev.joint_table(data, ev.fix_errors(rows, table))
    assert set(after["error"]) <= {"good", "undetected"}
    with pytest.raises(ValueError, match="unknown kinds of error"):
        ev.fix_errors(rows, table, ["typo"])


# ---- prediction ----------------------------------------------------------------------------------


class Answers(torch.nn.Module):
    "A network that knows the joints (N,K,2), crop px, of a dataset's crops, all in one batch."

    def __init__(self, ds, joints, visible):
        super().__init__()
        self.bn, index = torch.nn.BatchNorm2d(1).eval(), list(ds.skeleton.flip_index)
        mirrored = torch.stack([ds.input_size[1] - 1 - joints[..., 0], joints[..., 1]], -1)
        pairs = (joints, visible), (mirrored[:, index], visible[:, index])
        self.queue = [encode(j, v, [n // 4 for n in ds.input_size], 4)[0] for j, v in pairs]

    def heatmaps(self, images):
        assert not self.training and not self.bn.training and torch.is_inference_mode_enabled()
        return self.queue.pop(0)


def answered(ds, joints, visible, **options):
    "Results of that network."
    model = Answers(ds, joints, visible)
    rows = ev.predict(model, make_loader(ds, len(ds)), **options)
    assert model.training and not model.bn.training  # each part as it was
    return rows


@pytest.mark.parametrize("name", ["coco", "crowdpose", "ochuman"])
@pytest.mark.parametrize("flip", [True, False])
def test_encoded_ground_truth_survives_predict_and_evaluate(name, flip):
    path = real(name)
    ds = PoseDataset(path, path.parent)
    joints, visible = (torch.stack([s[k] for s in ds]) for k in ("joints", "visible"))
    rows = answered(ds, joints, visible, flip_test=flip)
    assert [r["image_id"] for r in rows] == [s["image_id"] for s in ds]
    assert ev.evaluate(path, rows)["AP"] > 99


@pytest.mark.slow
def test_detector_boxes_of_coco():
    path = real("coco")
    ds = PoseDataset(path, path.parent, boxes=str(path.parent / "test_coco_det_AP_H_56.json"))
    people = ev.labelled_people(ev.read_ground_truth(path))
    joints, visible = torch.zeros(len(ds), 17, 2), torch.zeros(len(ds), 17)
    for i, s in enumerate(ds):  # the person whose joints fill this crop best, if there is one
        m, best = s["matrix"].double().numpy(), 4
        for a in people.get(s["image_id"], []):
            xyv = np.reshape(a["keypoints"], (17, 3))
            crop = (xyv[:, :2] - m[:, 2]) @ np.linalg.inv(m[:, :2]).T
            labelled = xyv[:, 2] > 0
            inside = ((crop > 0) & (crop < [192, 256])).all(1) & labelled
            if inside.sum() > best and np.ptp(crop[labelled], axis=0).max() > 100:
                best, joints[i], visible[i] = inside.sum(), torch.tensor(crop), torch.tensor(inside)
    rows, everything = (answered(ds, joints, visible, nms=nms) for nms in (.9, None))
    assert len(everything) == len(ds) > len(rows)
    ap = ev.evaluate(path, rows)["AP"]
    assert ap > 80 and ap >= ev.evaluate(path, everything)["AP"] - 1e-9


def brute_nms(rows, skeleton, threshold):
    kept = []
    for r in sorted(rows, key=lambda r: -r["score"]):
        a = np.array(r["keypoints"]).reshape(-1, 3)[:, :2]
        for q in kept:
            b = np.array(q["keypoints"]).reshape(-1, 3)[:, :2]
            area = (r["crop_area"] + q["crop_area"]) / 2 + np.spacing(1)
            e = ((a - b)**2).sum(1) / (2 * np.array(skeleton.sigmas))**2 / area / 2
            if q["image_id"] == r["image_id"] and np.exp(-e).mean() > threshold:
                break
        else:
            kept.append(r)
    return kept


@pytest.mark.parametrize("seed", range(4))
def test_nms_equals_the_definition_spelt_out(seed):
    data = made(seed, images=4)
    rows = [dict(r, crop_area=2e4, score=r["score"] + n * 1e-6)
            for n, r in enumerate(noisy(data, seed, .03, 4))]
    kept, want = ev.oks_nms(rows, COCO, .9), brute_nms(rows, COCO, .9)
    assert 0 < len(kept) < len(rows)
    assert sorted(r["score"] for r in kept) == sorted(r["score"] for r in want)


# ---- intervals -----------------------------------------------------------------------------------


def test_bootstrap_interval():
    data = made(9, images=60)
    good, bad = noisy(data, 9, noise=.04, copies=1), noisy(data, 9, noise=.06, copies=1)
    a, b, narrow = (co.paired_bootstrap(data, *pair, resamples=200, level=level) for pair, level
                    in (((good, bad), .95), ((bad, good), .95), ((good, bad), .5)))
    assert 0 < a["low"] <= a["difference"] <= a["high"]
    assert (b["low"], b["high"]) == pytest.approx((-a["high"], -a["low"]))
    assert a["low"] < narrow["low"] < narrow["high"] < a["high"]
    crowd = ev.crowd_images(ev.read_ground_truth(data))["crowd"]
    part = co.paired_bootstrap(data, good, bad, resamples=5, image_ids=crowd)
    assert part["images"] == len(crowd)
    assert part["AP"] == pytest.approx(ev.evaluate(data, good)["AP_crowd"])


def test_seed_interval_covers_as_often_as_it_says():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(400):
        base = rng.normal(70, 3, 3)  # what a seed does to both methods
        scores = dict(enumerate(base + rng.normal(1, .5, 3)))
        out = co.contrast(scores, dict(enumerate(base)))
        hits += out["low"] <= 1 <= out["high"]
    assert .92 < hits / 400 < .98


# ---- broken input --------------------------------------------------------------------------------

GOOD = dict(image_id=1, category_id=1, keypoints=[1.] * 51, score=.5)
BROKEN = {
    "empty list": ([], "is empty"),
    "a dictionary": (GOOD, "must be a list"),
    "no dictionary": ([GOOD, 3], "entry 1 is not a dictionary"),
    "missing field": ([GOOD, {}], r"entry 1 lacks \['image_id', 'category_id', 'keypoints', 's"),
    "null score": ([GOOD | dict(score=None)], r"entry 0 lacks \['score'\]"),
    "wrong count": ([GOOD | dict(keypoints=[1.] * 42)], "entry 0 has 42 keypoint values, 51 are"),
    "keypoints no list": ([GOOD | dict(keypoints=3.)], "entry 0 has no list of keypoint values"),
    "nested keypoints": ([GOOD | dict(keypoints=[[1., 2., 3.]] * 51)], "not numbers but list"),
    "text for a score": ([GOOD | dict(score="high")], "not numbers"),
    "text for a joint": ([GOOD | dict(keypoints=["1"] * 51)], "not numbers"),
    "null joint": ([GOOD | dict(keypoints=[None] * 51)], "not numbers"),
    "unknown image": ([GOOD, GOOD | dict(image_id=77)], "entry 1 belongs to image 77"),
    "image id as text": ([GOOD | dict(image_id="1")], "entry 0 belongs to image '1'"),
    "image id as list": ([GOOD | dict(image_id=[1])], "entry 0 belongs to image"),
    "other category": ([GOOD | dict(category_id=2)], "category_id 2"),
    "NaN joint": ([GOOD, GOOD | dict(keypoints=[math.nan] * 51)], r"1 \(image 1\) .*NaN.* 1 of 2"),
    "infinite score": ([GOOD | dict(score=math.inf)], "NaN or infinite"),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("from_file", [False, True])
def test_broken_results_give_one_clear_error(case, from_file, tmp_path):
    rows, message = BROKEN[case]
    if from_file:
        (tmp_path / "r.json").write_text(json.dumps(rows))
        rows = tmp_path / "r.json"
    with pytest.raises(ValueError, match=message):
        ev.evaluate(made(), rows)


def test_broken_files(tmp_path):
    file = tmp_path / "results.json"
    with pytest.raises(FileNotFoundError, match="results.json"):
        ev.evaluate(made(), file)
    file.write_text('[{"image_id": 1,')
    for truth, rows in ((made(), file), (file, [GOOD])):
        with pytest.raises(ValueError, match="results.json is not valid JSON"):
            ev.evaluate(truth, rows)


@pytest.mark.parametrize(("change", "message"), [
    (dict(keypoints=[1.] * 42), "42 keypoint values, 51 are needed"),
    (dict(keypoints=[math.nan] * 51), "not finite"),
    (dict(image_id=99), "image 99"),
    (dict(bbox=[0, 0, -1, 5]), "negative size"),
])
def test_broken_ground_truth(change, message):
    data = made()
    data["annotations"][2] |= change
    with pytest.raises(ValueError, match=message):
        ev.evaluate(data, [GOOD])
    kept = ev.read_ground_truth(data, skip_bad=True)["annotations"]
    assert len(kept) == len(data["annotations"]) - 1


def test_a_failed_write_leaves_the_old_file(tmp_path):
    file = tmp_path / "results.json"
    ev.write_results(file, [GOOD])
    before = file.read_bytes()
    with pytest.raises(ValueError, match="NaN or infinite"):
        ev.write_results(file, [GOOD | dict(score=math.nan)])
    assert file.read_bytes() == before and os.listdir(tmp_path) == ["results.json"]
    assert json.loads(before) == [GOOD]
