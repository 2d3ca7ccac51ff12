"Evaluation on real files, against pycocotools used directly, against brute force, and on input that is broken."
import contextlib
import io
import json
import math
import os
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO as CocoIndex
from pycocotools.cocoeval import COCOeval

from fsd_sdpose import evaluation as ev
from fsd_sdpose.comparisons import contrast
from fsd_sdpose.data import PoseDataset, make_loader
from fsd_sdpose.heatmaps import encode
from fsd_sdpose.skeletons import COCO, CROWDPOSE, SKELETONS, skeleton_for
from fsd_sdpose.synthetic import make_dataset

FILES = {
    "coco": "coco_sample/test_coco.json",
    "crowdpose": "crowdpose_sample/test_crowdpose.json",
    "ochuman": "ochuman_sample/test_ochuman.json",
    "lspet": "lspet/person_keypoints_val.json",
}
SIX = ("AP", "AP50", "AP75", "AP_M", "AP_L", "AR")


def real(name):
    "Path of a real annotation file, or skip."
    if not os.environ.get("FSD_DATA"):
        pytest.skip("FSD_DATA is not set: it names the folder with the real data")
    path = Path(os.environ["FSD_DATA"], FILES[name])
    if not path.exists():
        pytest.skip(f"{path.name} is not under FSD_DATA")
    return path


def made(seed=0, skeleton=COCO, images=12, most=4):
    "Random people, some unlabelled, some in a crowd region, as a COCO file in memory."
    rng, people, k = np.random.default_rng(seed), [], skeleton.num_keypoints
    for image in range(1, images + 1):
        for _ in range(rng.integers(0, most + 1)):
            x, y, w, h = *rng.uniform(0, 300, 2), *rng.uniform(40, 200, 2)
            v = rng.integers(0, 3, k) * (rng.random() > .15)
            xyv = np.column_stack([x + rng.uniform(0, w, k), y + rng.uniform(0, h, k), v]) * (v[:, None] > 0)
            people.append(dict(id=len(people), image_id=image, category_id=1, bbox=[x, y, w, h], area=.5 * w * h,
                               keypoints=xyv.ravel().tolist(), iscrowd=int(rng.random() < .05)))
    return dict(images=[dict(id=i + 1, file_name=f"{i}.jpg", width=640, height=480) for i in range(images)],
                annotations=people, categories=[dict(id=1, name="person", keypoints=list(skeleton.keypoints))])


def noisy(data, seed=0, noise=.06, copies=2):
    "Predictions: noisy copies of everybody and false alarms, with many equal scores."
    rng, rows = np.random.default_rng(seed), []
    for a in ev.read_ground_truth(data)["annotations"]:
        for _ in range(copies):
            xyv = np.array(a["keypoints"], float).reshape(-1, 3)
            xyv[:, :2] += rng.standard_normal((len(xyv), 2)) * noise * math.sqrt(a["area"]) * rng.exponential()
            rows.append(dict(image_id=a["image_id"], category_id=1, keypoints=xyv.ravel().tolist(),
                             score=float(np.round(rng.random(), 1))))
    return rows


def perfect(data):
    "Labelled people as predictions."
    return [dict(image_id=a["image_id"], category_id=1, keypoints=a["keypoints"], score=1.)
            for a in ev.read_ground_truth(data)["annotations"] if a["num_keypoints"] and not a["iscrowd"]]


def same(a, b):
    "Equal to the ninth digit, NaN where the other is NaN."
    assert a.keys() == b.keys()
    for k in a:
        assert (math.isnan(a[k]) and math.isnan(b[k])) or abs(a[k] - b[k]) < 1e-8, (k, a[k], b[k])


# ---- numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["synthetic", *FILES])
def test_ground_truth_scores_100(name, tmp_path):
    path = make_dataset(tmp_path / "people", 12, seed=3) if name == "synthetic" else real(name)
    out = ev.evaluate(path, perfect(path))
    assert out["AP"] == out["AR"] == out["OKS"] == 100
    assert all(v == 100 or math.isnan(v) for v in out.values())
    assert not any(v == -100 or v == -1 for v in out.values())


@pytest.mark.parametrize("name", ["coco", "ochuman", "lspet"])
def test_agrees_with_pycocotools_used_directly(name, tmp_path):
    path = real(name)
    rows = noisy(path, seed=3)
    ev.write_results(tmp_path / "results.json", rows)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = CocoIndex(str(path))
        e = COCOeval(truth, truth.loadRes(str(tmp_path / "results.json")), "keypoints")
        e.params.kpt_oks_sigmas = np.array(skeleton_for(truth.dataset["categories"][0]["keypoints"]).sigmas)
        e.evaluate()
        e.accumulate()
        e.summarize()
    got = ev.evaluate(path, tmp_path / "results.json")
    want = {k: v * 100 if v > -1 else math.nan for k, v in zip(SIX, e.stats[:6], strict=True)}
    same({k: got[k] for k in SIX}, want)


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=lambda s: s.name)
@pytest.mark.parametrize("seed", range(3))
def test_hotcoco_gives_the_same_numbers(skeleton, seed):
    pytest.importorskip("hotcoco")
    data = made(seed, skeleton, images=30)
    rows = noisy(data, seed)
    out = ev.evaluate(data, rows)
    assert 0 < out["AP"] < 100
    same(out, ev.evaluate(data, rows, backend="hotcoco"))


@pytest.mark.parametrize("name", FILES)
def test_hotcoco_agrees_on_real_files(name):
    pytest.importorskip("hotcoco")
    path = real(name)
    rows = noisy(path, seed=1)
    same(ev.evaluate(path, rows), ev.evaluate(path, rows, backend="hotcoco"))


def test_sigmas_of_the_skeleton_are_used():
    data = made(skeleton=CROWDPOSE)
    strict = CROWDPOSE.__class__(**{**CROWDPOSE.__dict__, "sigmas": tuple(s / 2 for s in CROWDPOSE.sigmas)})
    rows = noisy(data)
    assert ev.evaluate(data, rows, skeleton=strict)["AP"] < ev.evaluate(data, rows)["AP"] - 1


@pytest.mark.parametrize("seed", range(5))
def test_weighted_ap_equals_a_dataset_with_copied_images(seed):
    data, rng = made(seed), np.random.default_rng(seed)
    rows, weight = noisy(data, seed), rng.integers(0, 4, 12)
    rows = [dict(r, score=r["score"] + n * 1e-6) for n, r in enumerate(rows)]  # equal scores come in another order
    big = dict(data, images=[], annotations=[])
    copied = []
    for i, n in enumerate(weight, 1):
        for c in range(n):
            new = 1000 * i + c
            big["images"].append(dict(data["images"][i - 1], id=new))
            big["annotations"] += [dict(a, image_id=new) for a in data["annotations"] if a["image_id"] == i]
            copied += [dict(r, image_id=new) for r in rows if r["image_id"] == i]
    m = ev.image_matches(ev.coco_evaluator(ev.read_ground_truth(data), rows, COCO))
    want = ev.evaluate(big, copied)["AP"]
    assert abs(ev.weighted_ap(m, weight.astype(float)) - want) < 1e-8


def test_slices_equal_the_subset_evaluated_alone():
    data = made(7, images=20)
    rows, keep = noisy(data, 7), {2, 3, 5, 7, 11, 13}
    part = dict(data, images=[i for i in data["images"] if i["id"] in keep],
                annotations=[a for a in data["annotations"] if a["image_id"] in keep])
    e = ev.coco_evaluator(ev.read_ground_truth(data), rows, COCO)
    alone = ev.evaluate(part, [r for r in rows if r["image_id"] in keep])
    same(ev.average_precision(*ev.accumulate(e, keep)), {k: alone[k] for k in SIX})


def test_oks_equals_pycocotools():
    data = ev.read_ground_truth(made(2))
    rows = noisy(data, 2)
    e = ev.coco_evaluator(data, rows, COCO)
    for (image, category), table in e.ious.items():
        people = e._gts[image, category]
        if len(table) == 0:
            continue
        found = sorted(e._dts[image, category], key=lambda d: -d["score"])[:20]
        guess = np.array([d["keypoints"] for d in found]).reshape(len(found), 1, 17, 3)[..., :2]
        truth = np.array([a["keypoints"] for a in people]).reshape(-1, 17, 3)
        got = ev.oks(guess, truth[..., :2], truth[..., 2], np.array([a["area"] for a in people]), COCO.sigmas)
        labelled = np.array([a["num_keypoints"] > 0 for a in people])
        np.testing.assert_allclose(got[:, labelled], table[:, labelled], atol=1e-12)
        assert np.isnan(got[:, ~labelled]).all()


def test_unlabelled_people_are_neither_missed_nor_false_alarms():
    data = made(1)
    alone = ev.evaluate(data, perfect(data))
    unlabelled = dict(data["annotations"][0], id=999, keypoints=[0.] * 51, bbox=[500, 300, 100, 150], num_keypoints=0)
    on_it = np.column_stack([np.linspace(505, 595, 17), np.linspace(305, 445, 17), np.ones(17)]).ravel().tolist()
    extra = [*perfect(data), dict(image_id=unlabelled["image_id"], category_id=1, keypoints=on_it, score=1.)]
    same(alone, ev.evaluate(dict(data, annotations=[*data["annotations"], unlabelled]), extra))
    assert ev.evaluate(data, extra)["AP"] < 100  # without the unlabelled person it is a false alarm


def test_nobody_labelled_is_nan_everywhere():
    data = made(0)
    for a in data["annotations"]:
        a["keypoints"] = [0.] * 51
    row = dict(image_id=1, category_id=1, keypoints=[1.] * 51, score=1.)
    for backend in ("pycocotools", "hotcoco"):
        if backend == "hotcoco":
            pytest.importorskip("hotcoco")
        out = ev.evaluate(data, [row], backend=backend)
        assert all(math.isnan(v) for v in out.values())


def test_input_is_not_changed_and_nothing_is_printed(capfd):
    data = made(4)
    rows = noisy(data)
    before = json.dumps([data, rows])
    ev.evaluate(data, rows)
    ev.paired_bootstrap(data, rows, rows[::2], resamples=5)
    assert json.dumps([data, rows]) == before
    assert capfd.readouterr() == ("", "")


# ---- crowd index and joints -------------------------------------------------------------------------------------


def test_crowd_index_matches_the_field_of_crowdpose():
    path = real("crowdpose")
    index = ev.crowd_index(path)
    for im in json.loads(path.read_text())["images"]:
        assert abs(index[im["id"]] - im["crowdIndex"]) < .005


def test_crowd_index_does_not_depend_on_order_or_place():
    data = made(5)
    index = ev.crowd_index(data)
    moved = dict(data, annotations=[])
    for a in data["annotations"][::-1]:
        xyv = np.array(a["keypoints"]).reshape(-1, 3) + [7, 3, 0]
        x, y, w, h = a["bbox"]
        moved["annotations"].append(dict(a, keypoints=xyv.ravel().tolist(), bbox=[x + 7, y + 3, w, h]))
    assert ev.crowd_index(moved) == pytest.approx(index)
    assert max(index.values()) > 0


def test_joint_table_and_scores():
    data = made(6)
    rows = noisy(data, 6, noise=.03, copies=1)
    table = ev.joint_table(data, rows)
    labelled = [a for a in ev.read_ground_truth(data)["annotations"] if a["num_keypoints"] and not a["iscrowd"]]
    assert len(table) == sum(a["num_keypoints"] for a in labelled)
    assert set(table["error"]) <= {"good", "undetected", *ev.ERRORS}
    assert (table[table["result"] < 0]["similarity"] == 0).all()
    used = table.groupby("ann_id")["result"].first()
    assert used[used >= 0].is_unique
    scores = ev.joint_scores(table)
    n = table["visibility"].value_counts()
    mean = (scores["OKS_visible"] * n[2] + scores["OKS_occluded"] * n[1]) / n.sum()
    assert scores["OKS"] == pytest.approx(mean)
    assert (ev.joint_table(data, perfect(data))["error"] == "good").all()


def test_curing_all_errors_of_everybody_found_gives_full_precision():
    data = made(8)
    rows = noisy(data, 8, noise=.02, copies=1)
    table = ev.joint_table(data, rows)
    cured = ev.fix_errors(rows, table)
    after = ev.joint_table(data, cured)
    assert set(after["error"]) <= {"good", "undetected"}
    with pytest.raises(ValueError, match="unknown kinds of error"):
        ev.fix_errors(rows, table, ["typo"])


# ---- prediction -------------------------------------------------------------------------------------------------


class Answers(torch.nn.Module):
    "A network that knows the answer for each crop of a dataset, in order: `joints` (N,K,2) crop px, `visible` (N,K)."

    def __init__(self, ds, joints, visible, batch, flip=True, stride=4):
        super().__init__()
        self.bn, self.queue = torch.nn.BatchNorm2d(1), []
        (h, w), index = ds.input_size, list(ds.skeleton.flip_index)
        for j, v in zip(joints.split(batch), visible.split(batch), strict=True):
            mirrored = torch.stack([w - 1 - j[..., 0], j[..., 1]], -1)[:, index]
            for jj, vv in ((j, v), (mirrored, v[:, index]))[:1 + flip]:
                self.queue.append(encode(jj, vv, (h // stride, w // stride), stride)[0])

    def heatmaps(self, images):
        assert not self.training and not self.bn.training and torch.is_inference_mode_enabled()
        return self.queue.pop(0)


@pytest.mark.parametrize("name", ["coco", "crowdpose", "ochuman"])
@pytest.mark.parametrize("flip", [True, False])
def test_encoded_ground_truth_survives_predict_and_evaluate(name, flip):
    path = real(name)
    ds = PoseDataset(path, path.parent)
    joints, visible = (torch.stack([s[k] for s in ds]) for k in ("joints", "visible"))
    model = Answers(ds, joints, visible, 4, flip)
    model.bn.eval()
    rows = ev.predict(model, make_loader(ds, 4), flip_test=flip)
    assert len(rows) == len(ds) and [r["image_id"] for r in rows] == [s["image_id"] for s in ds]
    assert ev.evaluate(path, rows)["AP"] > 99
    assert model.training and not model.bn.training  # each part as it was


@pytest.mark.slow
def test_detector_boxes_of_coco():
    path = real("coco")
    ds = PoseDataset(path, path.parent, boxes=str(path.parent / "test_coco_det_AP_H_56.json"))
    people = ev.labelled_people(ev.read_ground_truth(path))
    joints, visible = torch.zeros(len(ds), 17, 2), torch.zeros(len(ds), 17)
    for i, s in enumerate(ds):  # the person whose joints fill this crop best, if there is one
        m = s["matrix"].double().numpy()
        back = np.linalg.inv(m[:, :2])
        best = 4
        for a in people.get(s["image_id"], []):
            xyv = np.array(a["keypoints"], float).reshape(-1, 3)
            crop = (xyv[:, :2] - m[:, 2]) @ back.T
            inside = ((crop > 0) & (crop < [192, 256])).all(1) & (xyv[:, 2] > 0)
            extent = np.ptp(crop[xyv[:, 2] > 0], axis=0).max()
            if inside.sum() > best and extent > 100:
                best, joints[i], visible[i] = inside.sum(), torch.tensor(crop), torch.tensor(inside)
    all_rows = ev.predict(Answers(ds, joints, visible, 16), make_loader(ds, 16), nms=None)
    rows = ev.predict(Answers(ds, joints, visible, 16), make_loader(ds, 16))
    assert len(all_rows) == len(ds) > len(rows)
    with_nms, without = ev.evaluate(path, rows), ev.evaluate(path, all_rows)
    assert with_nms["AP"] > 80 and with_nms["AP"] >= without["AP"] - 1e-9


def brute_nms(rows, skeleton, threshold):
    kept = []
    for r in sorted(rows, key=lambda r: -r["score"]):
        a = np.array(r["keypoints"]).reshape(-1, 3)[:, :2]
        for q in kept:
            b = np.array(q["keypoints"]).reshape(-1, 3)[:, :2]
            area = (r["crop_area"] + q["crop_area"]) / 2
            e = ((a - b)**2).sum(1) / (2 * np.array(skeleton.sigmas))**2 / (area + np.spacing(1)) / 2
            if q["image_id"] == r["image_id"] and np.exp(-e).mean() > threshold:
                break
        else:
            kept.append(r)
    return kept


@pytest.mark.parametrize("seed", range(4))
def test_nms_equals_the_definition_spelt_out(seed):
    data = made(seed, images=4)
    rows = [dict(r, crop_area=2e4, score=r["score"] + n * 1e-6) for n, r in enumerate(noisy(data, seed, .03, 4))]
    kept = ev.oks_nms(rows, COCO, .9)
    want = brute_nms(rows, COCO, .9)
    assert 0 < len(kept) < len(rows)
    assert sorted(r["score"] for r in kept) == sorted(r["score"] for r in want)


def test_person_score_convention():
    peaks = np.array([[.5, .2, .21], [.2, .1, 0], [1, 1, 1]])
    assert ev.person_scores(peaks, [1, 1, .5]) == pytest.approx([(.5 + .21) / 2, 0, .5])


def test_modes_come_back_after_an_error():
    net = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Dropout())
    net[0].eval()
    with pytest.raises(RuntimeError, match="boom"), ev.inference(net):
        raise RuntimeError("boom")
    assert [net.training, net[0].training, net[1].training] == [True, False, True]
    assert not torch.is_inference_mode_enabled()


# ---- intervals --------------------------------------------------------------------------------------------------


def test_bootstrap_interval():
    data = made(9, images=60)
    good, bad = noisy(data, 9, noise=.04, copies=1), noisy(data, 9, noise=.06, copies=1)
    a = ev.paired_bootstrap(data, good, bad, resamples=200)
    b = ev.paired_bootstrap(data, bad, good, resamples=200)
    assert 0 < a["low"] <= a["difference"] <= a["high"]
    assert (b["low"], b["high"]) == pytest.approx((-a["high"], -a["low"]))
    narrow = ev.paired_bootstrap(data, good, bad, resamples=200, level=.5)
    assert a["low"] < narrow["low"] < narrow["high"] < a["high"]
    crowd = ev.crowd_images(ev.read_ground_truth(data))["crowd"]
    part = ev.paired_bootstrap(data, good, bad, resamples=5, image_ids=crowd)
    assert part["images"] == len(crowd) and part["AP"] == pytest.approx(ev.evaluate(data, good)["AP_crowd"])


def test_seed_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        base = rng.normal(70, 3, 3)  # what a seed does to both methods
        a = dict(enumerate(base + rng.normal(1, .5, 3)))
        out = contrast(a, dict(enumerate(base)))
        hits += out["low"] <= 1 <= out["high"]
    assert .92 < hits / 400 < .98


# ---- broken input -----------------------------------------------------------------------------------------------

GOOD = dict(image_id=1, category_id=1, keypoints=[1.] * 51, score=.5)
BROKEN = {
    "empty list": ([], "is empty"),
    "a dictionary": (dict(GOOD), "must be a list"),
    "no dictionary": ([GOOD, 3], "entry 1 is not a dictionary"),
    "missing field": ([GOOD, {k: v for k, v in GOOD.items() if k != "keypoints"}], r"entry 1 lacks \['keypoints'\]"),
    "null score": ([dict(GOOD, score=None)], r"entry 0 lacks \['score'\]"),
    "wrong count": ([dict(GOOD, keypoints=[1.] * 42)], "entry 0 has 42 keypoint values, 51 are needed"),
    "keypoints no list": ([dict(GOOD, keypoints=3.)], "entry 0 has no list of keypoint values"),
    "nested keypoints": ([dict(GOOD, keypoints=[[1., 2., 3.]] * 51)], "nested"),
    "text for a score": ([dict(GOOD, score="high")], "not numbers"),
    "text for a joint": ([dict(GOOD, keypoints=["1"] * 51)], "not numbers"),
    "null joint": ([dict(GOOD, keypoints=[None] * 51)], "not numbers"),
    "unknown image": ([GOOD, dict(GOOD, image_id=77)], "entry 1 belongs to image 77"),
    "image id as text": ([dict(GOOD, image_id="1")], "entry 0 belongs to image '1'"),
    "image id as list": ([dict(GOOD, image_id=[1])], "entry 0 belongs to image"),
    "other category": ([dict(GOOD, category_id=2)], "category_id 2"),
    "NaN joint": ([GOOD, dict(GOOD, keypoints=[math.nan] * 51)], r"entry 1 \(image 1\) holds NaN .* 1 of 2"),
    "infinite score": ([dict(GOOD, score=math.inf)], "NaN or infinite"),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("from_file", [False, True])
def test_broken_results_give_one_clear_error(case, from_file, tmp_path):
    rows, message = BROKEN[case]
    if from_file:
        (tmp_path / "r.json").write_text(json.dumps(rows))
        rows, message = tmp_path / "r.json", message
    with pytest.raises(ValueError, match=message):
        ev.evaluate(made(), rows)


def test_broken_files(tmp_path):
    file = tmp_path / "results.json"
    with pytest.raises(FileNotFoundError, match="results.json"):
        ev.evaluate(made(), file)
    file.write_text('[{"image_id": 1,')
    with pytest.raises(ValueError, match="results.json is not valid JSON"):
        ev.evaluate(made(), file)
    with pytest.raises(ValueError, match="results.json is not valid JSON"):
        ev.evaluate(file, [GOOD])


@pytest.mark.parametrize(("change", "message"), [
    (dict(keypoints=[1.] * 42), "42 keypoint values, 51 are needed"),
    (dict(keypoints=[math.nan] * 51), "not finite"),
    (dict(image_id=99), "image 99"),
    (dict(bbox=[0, 0, -1, 5]), "negative size"),
])
def test_broken_ground_truth(change, message):
    data = made()
    data["annotations"][2] = data["annotations"][2] | change
    with pytest.raises(ValueError, match=message):
        ev.evaluate(data, [GOOD])
    assert len(ev.read_ground_truth(data, skip_bad=True)["annotations"]) == len(data["annotations"]) - 1


def test_a_failed_write_leaves_the_old_file(tmp_path):
    file = tmp_path / "results.json"
    ev.write_results(file, [GOOD])
    before = file.read_bytes()
    with pytest.raises(ValueError, match="NaN or infinite"):
        ev.write_results(file, [dict(GOOD, score=math.nan)])
    assert file.read_bytes() == before and os.listdir(tmp_path) == ["results.json"]
    assert json.loads(before) == [GOOD]


def test_other_arguments():
    data = made()
    with pytest.raises(ValueError, match="backend is"):
        ev.evaluate(data, [GOOD], backend="gpu")
    with pytest.raises(ValueError, match="does not name the keypoints"):
        ev.evaluate(data, [GOOD], skeleton=CROWDPOSE)
    with pytest.raises(ValueError, match="resamples must be positive"):
        ev.paired_bootstrap(data, [GOOD], [GOOD], resamples=0)
    with pytest.raises(ValueError, match="same seeds"):
        contrast({}, {})


# ---- what a dataset leaves out ----------------------------------------------------------------------------------


class Oracle(torch.nn.Module):
    "A network that knows what stands in each crop of a dataset, in order; one crop at a time, no flip test."

    def __init__(self, ds, stride=4):
        super().__init__()
        self.queue = [encode(s["joints"][None], s["visible"][None], [n // stride for n in ds.input_size], stride)[0] for s in ds]

    def heatmaps(self, images):
        return self.queue.pop(0)


@pytest.fixture
def folder(tmp_path):
    "Twelve random people on six images on disk: (annotation file, its content)."
    content, rng = made(3, images=6), np.random.default_rng(0)
    content["annotations"] = [dict(_everywhere(rng, 1 + n // 2, n), id=n + 1) for n in range(12)]
    for im in content["images"]:
        cv2.imwrite(str(tmp_path / im["file_name"]), rng.integers(0, 255, (480, 640, 3), np.uint8))
    return tmp_path / "people.json", content


def _everywhere(rng, image, n):
    x, y, w, h = 20 + 300 * (n % 2), 30, 250, 400
    xyv = np.column_stack([rng.uniform(x, x + w, 17), rng.uniform(y, y + h, 17), np.full(17, 2)])
    return dict(image_id=image, category_id=1, bbox=[x, y, w, h], area=.5 * w * h, iscrowd=0, num_keypoints=17,
                keypoints=xyv.ravel().tolist())


def full_circle(path, content, **options):
    "Dataset, prediction by a network that knows, evaluation: AP, and the dataset."
    path.write_text(json.dumps(content))
    ds = PoseDataset(path, path.parent, **options)
    rows = ev.predict(Oracle(ds), make_loader(ds, 1), flip_test=False)
    return ev.evaluate(path, rows, skip_bad=ds.skip_bad, without=ds.lost)["AP"], ds


def test_a_bad_annotation_is_left_out_everywhere(folder):
    path, content = folder
    content["annotations"][3]["keypoints"] = [1., 2.]
    content["annotations"][5]["id"] = content["annotations"][4]["id"]  # a twin: the second is left out
    ap, ds = full_circle(path, content, skip_bad=True)
    assert ap > 99.99 and len(ds) == 10 and ds.lost == []
    with pytest.raises(ValueError, match="annotation 4 has 2 keypoint values"):
        ev.evaluate(path, perfect(dict(content, annotations=content["annotations"][:3])))


def test_people_and_crowds_without_keypoints_are_legal(folder):
    path, content = folder
    content["annotations"][1].update(keypoints=None, num_keypoints=0)
    crowd = content["annotations"][2]
    del crowd["keypoints"], crowd["num_keypoints"]
    crowd.update(iscrowd=1, segmentation=dict(counts="PYj50", size=[480, 640]))
    ap, ds = full_circle(path, content)
    assert ap > 99.99 and len(ds) == 10
    on_the_crowd = dict(perfect(made(3))[0], image_id=crowd["image_id"], score=2.)
    x, y, w, h = crowd["bbox"]
    on_the_crowd["keypoints"] = np.column_stack([np.linspace(x, x + w, 17), np.linspace(y, y + h, 17), np.ones(17)]).ravel().tolist()
    assert ev.evaluate(path, [*perfect(path), on_the_crowd])["AP"] == 100  # an ignore region


@pytest.mark.parametrize("use_cache", [False, True])
def test_unreadable_images_do_not_count(folder, use_cache):
    path, content = folder
    (path.parent / content["images"][1]["file_name"]).write_bytes(b"")
    (path.parent / content["images"][4]["file_name"]).unlink()
    ap, ds = full_circle(path, content, skip_bad=True, cache=path.parent / "cache" if use_cache else None)
    assert ap > 99.99 and len(ds) == 8 and ds.lost == [2, 5] and ds.skip_bad
    everything = ev.evaluate(path, perfect(path), without=ds.lost)
    assert everything["AP"] == 100  # results on these images are allowed and do not count
    assert ev.evaluate(path, perfect(ev.read_ground_truth(path, without=ds.lost)))["AP"] < 90


def test_category_0(folder):
    path, content = folder
    content["categories"][0]["id"] = 0
    for a in content["annotations"]:
        a["category_id"] = 0
    ap, ds = full_circle(path, content)
    assert ap > 99.99 and ds.category_id == 0 and not ds.skip_bad
    rows = [dict(r, category_id=0) for r in perfect(path)]
    assert ev.evaluate(path, rows)["AP"] == 100
    if find_spec("hotcoco"):
        same(ev.evaluate(path, rows), ev.evaluate(path, rows, backend="hotcoco"))
