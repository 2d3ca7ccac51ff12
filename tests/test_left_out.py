"""What a dataset leaves out must not count against a model, from the files through prediction to AP."""
import json

import cv2
import numpy as np
import pytest
import torch

from fsd_sdpose.data import PoseDataset, make_loader
from fsd_sdpose.evaluation import evaluate, predict
from fsd_sdpose.experiments import run_experiment
from fsd_sdpose.heatmaps import encode
from fsd_sdpose.skeletons import CROWDPOSE
from fsd_sdpose.training import make_config, validate


class Oracle(torch.nn.Module):
    "Answers with the true heatmaps of a dataset, in the order of its loader."
    def __init__(self, dataset):
        super().__init__()
        self.samples, self.at = [dataset[i] for i in range(len(dataset))], 0

    def heatmaps(self, images):
        batch = self.samples[self.at:self.at + len(images)]
        self.at += len(images)
        return encode(torch.stack([s["joints"] for s in batch]), torch.stack([s["visible"] for s in batch]))[0]


def person(number, image, **changes):
    rng = np.random.default_rng(number)
    xy = rng.uniform([40, 30], [100, 150], (14, 2)).round(1)
    keypoints = np.concatenate([xy, np.full((14, 1), 2)], 1).flatten().tolist()
    return dict(id=number, image_id=image, category_id=1, iscrowd=0, bbox=[35, 25, 70, 130], area=5000., num_keypoints=14, keypoints=keypoints) | changes


def write(folder, people, category=1, broken=()):
    for n in (1, 2, 3):
        ok = cv2.imencode(".jpg", np.full((180, 140, 3), 90 + n, np.uint8))[1].tobytes()
        (folder / f"{n}.jpg").write_bytes(b"" if n in broken else ok)
    images = [dict(id=n, file_name=f"{n}.jpg", width=140, height=180) for n in (1, 2, 3)]
    people = [p | dict(category_id=category) for p in people]
    categories = [dict(id=category, name="person", keypoints=list(CROWDPOSE.keypoints))]
    file = folder / "people.json"
    file.write_text(json.dumps(dict(images=images, annotations=people, categories=categories)))
    return file


def ap(folder, file, skip_bad=False):
    ds = PoseDataset(file, folder, skip_bad=skip_bad)
    results = predict(Oracle(ds), make_loader(ds, 2), flip_test=False)
    return ds, evaluate(file, results, skip_bad=ds.skip_bad, without=ds.lost)["AP"]


def test_bad_annotation(tmp_path):
    file = write(tmp_path, [person(1, 1), person(2, 2), person(3, 3, keypoints=[1, 2])])
    with pytest.raises(ValueError, match="annotation 3"):
        PoseDataset(file, tmp_path)
    ds, score = ap(tmp_path, file, skip_bad=True)
    assert score == pytest.approx(100) and len(ds.skipped) == 1


def test_unreadable_image(tmp_path):
    file = write(tmp_path, [person(1, 1), person(2, 2), person(3, 3)], broken=[2])
    ds, score = ap(tmp_path, file, skip_bad=True)
    assert ds.lost == [2] and len(ds.skipped) == 1
    assert score == pytest.approx(100)
    results = predict(Oracle(ds), make_loader(ds, 2), flip_test=False)
    assert evaluate(file, results)["AP"] < 90  # counted as missed where nobody says that the image was left out


def test_unlabelled_people_and_crowds_without_keypoints(tmp_path):
    unlabelled = person(4, 1, keypoints=None, num_keypoints=0)
    crowd = person(5, 2, iscrowd=1, segmentation=dict(counts=[0, 25200], size=[180, 140]), num_keypoints=0)
    del crowd["keypoints"]
    ds, score = ap(tmp_path, write(tmp_path, [person(1, 1), person(2, 2), person(3, 3), unlabelled, crowd]))
    assert len(ds) == 3 and score == pytest.approx(100)


@pytest.mark.parametrize("category", [0, 1, 7])
def test_category_of_the_file(tmp_path, category):
    file = write(tmp_path, [person(1, 1), person(2, 2), person(3, 3)], category)
    ds, score = ap(tmp_path, file)
    assert score == pytest.approx(100)
    assert validate(Oracle(ds), ds, make_config(batch_size=2, flip_test=False), "cpu")["AP"] == pytest.approx(100)


def test_a_run_records_what_it_skipped(tmp_path, monkeypatch):
    monkeypatch.setenv("FSD_CACHE", str(tmp_path / "cache"))
    images = tmp_path / "lspet" / "images"
    images.mkdir(parents=True)
    file = write(images, [person(1, 1), person(2, 2), person(3, 3), person(4, 1, keypoints=[1, 2])], broken=[2])
    for split in ("train", "val"):
        (tmp_path / "lspet" / f"person_keypoints_{split}.json").write_text(file.read_text())
    small = dict(epochs=1, batch_size=2, flip_test=False)
    with pytest.raises(ValueError, match="annotation 4"):
        run_experiment("lspet_nano", "fsd", 0, small, out=tmp_path / "run", data=tmp_path, show=False)
    record = run_experiment("lspet_nano", "fsd", 0, small | dict(skip_bad=True), out=tmp_path / "run", data=tmp_path, show=False)
    val = record["data"]["val"]
    assert (val["people"], val["skipped"], val["unreadable_images"]) == (2, 2, 1)
