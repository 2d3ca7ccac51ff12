"""What a dataset leaves out must not count against a model, from the files to AP."""
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
        self.samples = iter([dataset[i] for i in range(len(dataset))])

    def heatmaps(self, images):
        batch = [next(self.samples) for _ in images]
        return encode(*(torch.stack([s[k] for s in batch]) for k in ("joints", "visible")))[0]


def person(number, image, **changes):
    xy = np.random.default_rng(number).uniform([40, 30], [100, 150], (14, 2)).round(1)
    keypoints = np.concatenate([xy, np.full((14, 1), 2)], 1).flatten().tolist()
    return dict(id=number, image_id=image, category_id=1, iscrowd=0, bbox=[35, 25, 70, 130],
                area=5000., num_keypoints=14, keypoints=keypoints) | changes


PEOPLE = [person(1, 1), person(2, 2), person(3, 3)]


def write(folder, people, category=1, broken=(), grey=90):
    images = [dict(id=n, file_name=f"{n}.jpg", width=140, height=180) for n in (1, 2, 3)]
    for n in (1, 2, 3):
        picture = cv2.imencode(".jpg", np.full((180, 140, 3), grey + n, np.uint8))[1].tobytes()
        (folder / f"{n}.jpg").write_bytes(b"" if n in broken else picture)
    people = [p | dict(category_id=category) for p in people]
    categories = [dict(id=category, name="person", keypoints=list(CROWDPOSE.keypoints))]
    file = folder / "people.json"
    file.write_text(json.dumps(dict(images=images, annotations=people, categories=categories)))
    return file


def predicted(ds):
    return predict(Oracle(ds), make_loader(ds, 2), flip_test=False)


def perfect(file, skip_bad=False):
    "The dataset of a file, where the oracle reaches full AP."
    ds = PoseDataset(file, file.parent, skip_bad=skip_bad)
    scores = evaluate(file, predicted(ds), skip_bad=ds.skip_bad, without=ds.lost)
    assert scores["AP"] == pytest.approx(100)
    return ds


def test_bad_annotation(tmp_path):
    file = write(tmp_path, PEOPLE[:2] + [person(3, 3, keypoints=[1, 2])])
    with pytest.raises(ValueError, match="annotation 3"):
        PoseDataset(file, tmp_path)
    assert len(perfect(file, skip_bad=True).skipped) == 1


def test_unreadable_image(tmp_path):
    file = write(tmp_path, PEOPLE, broken=[2])
    ds = perfect(file, skip_bad=True)
    assert ds.lost == [2] and len(ds.skipped) == 1
    # counted as missed where nobody says that the image was left out
    assert evaluate(file, predicted(ds))["AP"] < 90


def test_unlabelled_people_and_crowds_without_keypoints(tmp_path):
    unlabelled = person(4, 1, keypoints=None, num_keypoints=0)
    mask = dict(counts=[0, 25200], size=[180, 140])
    crowd = person(5, 2, iscrowd=1, segmentation=mask, num_keypoints=0)
    del crowd["keypoints"]
    assert len(perfect(write(tmp_path, [*PEOPLE, unlabelled, crowd]))) == 3


@pytest.mark.parametrize("category", [0, 1, 7])
def test_category_of_the_file(tmp_path, category):
    ds = perfect(write(tmp_path, PEOPLE, category))
    scores = validate(Oracle(ds), ds, make_config(batch_size=2, flip_test=False), "cpu")
    assert scores["AP"] == pytest.approx(100)


def test_a_run_records_what_it_skipped(tmp_path, monkeypatch):
    monkeypatch.setenv("FSD_CACHE", str(tmp_path / "cache"))
    images = tmp_path / "lspet" / "images"
    for split, grey in (("train", 90), ("val", 120)):
        (images / split).mkdir(parents=True)
        people = PEOPLE + [person(4, 1, keypoints=[1, 2])]
        data = json.loads(write(images / split, people, broken=[2], grey=grey).read_text())
        for image in data["images"]:
            image["file_name"] = f"{split}/{image['file_name']}"
        (tmp_path / f"lspet/person_keypoints_{split}.json").write_text(json.dumps(data))
    def run(**settings):
        settings |= dict(epochs=1, batch_size=2, warmup_steps=1, flip_test=False)
        return run_experiment("lspet_nano", "fsd", 0, settings, out=tmp_path / "run",
                              data=tmp_path, show=False)
    with pytest.raises(ValueError, match="annotation 4"):
        run()
    val = run(skip_bad=True)["data"]["val"]
    assert (val["people"], val["skipped"], val["unreadable_images"]) == (2, 2, 1)
