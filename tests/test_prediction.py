"""Prediction on real photographs, what must not change it, and what lacks without a package."""
import importlib.util
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fsd_sdpose import prediction
from fsd_sdpose.checkpoints import save_weights
from fsd_sdpose.data import PoseDataset, make_loader
from fsd_sdpose.evaluation import predict
from fsd_sdpose.files import read_json
from fsd_sdpose.models import sdpose
from fsd_sdpose.prediction import draw_people, load_model, load_picture, predict_people
from fsd_sdpose.skeletons import CROWDPOSE
from fsd_sdpose.synthetic import make_dataset


@pytest.fixture(scope="module")
def model():
    return load_model("demo")


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    data = read_json(make_dataset(folder, 3, seed=4, people=2, truncation=1.0))
    return [(folder / "images" / image["file_name"],
             [a["bbox"] for a in data["annotations"] if a["image_id"] == image["id"]])
            for image in data["images"]]


def joints(*args, **kwargs):
    return np.stack([p["keypoints"] for p in predict_people(*args, **kwargs)])


def test_real_photographs_are_predicted_as_in_the_evaluation(model):
    "Stored pixels, boxes at the edge, several people: the numbers are those of `predict`."
    root = Path(os.environ.get("FSD_DATA") or "/nowhere", "coco_sample")
    if not (root / "test_coco.json").exists():
        pytest.skip("FSD_DATA is not set, or test_coco.json is not in its folder coco_sample")
    ds = PoseDataset(root / "test_coco.json", root, model.variant.input_size)
    evaluated = [r["keypoints"] for r in predict(model, make_loader(ds, 16))]
    for n, file in enumerate(ds.people.files[:3]):
        here = ds.people.image == n
        boxes = ds.people.box[here]
        expected = np.reshape(evaluated[:len(boxes)], (-1, model.num_keypoints, 3))
        gap = np.abs(joints(model, root / file, boxes) - expected)
        scale = np.maximum(1, boxes[:, 2:].max(1) / 128)
        assert (gap[..., :2].max((1, 2)) < 0.01 * scale).all() and gap[..., 2].max() < 2e-3
        del evaluated[:len(boxes)]


def test_a_person_does_not_depend_on_the_others(model, people):
    path, boxes = people[0]
    together = joints(model, path, boxes)
    assert np.allclose(together[::-1], joints(model, path, boxes[::-1]), atol=1e-3)
    assert np.allclose(together[:1], joints(model, path, boxes[:1]), atol=1e-3)


def test_keypoints_move_with_the_picture(model, people):
    "A border around the picture moves boxes and keypoints alike."
    path, boxes = people[1]
    outer = cv2.copyMakeBorder(load_picture(path), 300, 300, 400, 400, cv2.BORDER_CONSTANT)
    moved = joints(model, outer, np.array(boxes) + [400, 300, 0, 0]) - [400, 300, 0]
    assert np.abs(moved - joints(model, path, boxes)).max() < 0.05


def test_upright_turns_the_picture_first(model, people, tmp_path):
    "A photograph that is stored lying down, with the mark that says so (EXIF orientation 6)."
    upright, quality = load_picture(people[0][0]), [cv2.IMWRITE_JPEG_QUALITY, 100]
    lying = cv2.imencode(".jpg", np.rot90(upright)[..., ::-1], quality)[1].tobytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    path, length = tmp_path / "lying.jpg", (len(exif) + 2).to_bytes(2, "big")
    path.write_bytes(lying[:2] + b"\xff\xe1" + length + exif + lying[2:])
    assert np.abs(load_picture(path, upright=True).astype(int) - upright).mean() < 3
    assert np.abs(load_picture(path).astype(int) - np.rot90(upright)).mean() < 3
    box = predict_people(model, path, upright=True)[0]["box"]
    assert box[2:].tolist() == list(upright.shape[1::-1])


def test_fourteen_keypoints_from_a_run_folder(people, tmp_path):
    torch.manual_seed(0)
    save_weights(sdpose("n", 14), tmp_path / "last.safetensors")
    path, boxes = people[0]
    two = predict_people(load_model(tmp_path), path, boxes)
    assert [p["keypoints"].shape for p in two] == [(14, 3)] * 2
    assert draw_people(path, two).shape == load_picture(path).shape
    prediction.write_people(tmp_path / "people.json", two, path)
    written = json.loads((tmp_path / "people.json").read_text())
    assert written["keypoint_names"] == list(CROWDPOSE.keypoints)


def test_a_failed_write_leaves_the_old_picture(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")
    path, picture = tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8)
    prediction.write_picture(path, picture)
    before = path.read_bytes()
    monkeypatch.setattr(prediction.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        prediction.write_picture(path, picture + 1)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.png"]


def test_missing_packages_are_named(model, tmp_path, monkeypatch):
    monkeypatch.setattr(prediction, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install onnx onnxscript"):
        prediction.export_onnx(model, tmp_path / "a.onnx")
    with pytest.raises(ImportError, match="pip install onnxruntime"):
        prediction.run_onnx(tmp_path / "a.onnx", np.zeros((1, 3, 128, 96)))


@pytest.mark.slow
def test_onnx_agrees_with_torch_for_any_batch_size(tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if not importlib.util.find_spec(package):
            pytest.skip(f"{package} is not installed")
    torch.manual_seed(0)
    net = sdpose("n", 14).train()  # exported in evaluation mode, and given back as it was
    file = prediction.export_onnx(net, tmp_path / "n.onnx")
    assert net.training and os.listdir(tmp_path) == ["n.onnx"]
    for n in (1, 2, 5):
        images = torch.randn(n, 3, 128, 96)
        with torch.inference_mode():
            expected = net.eval().heatmaps(images).numpy()
        assert np.abs(prediction.run_onnx(file, images) - expected).max() < 1e-4
    other = prediction.OneCycle(sdpose("n", 14).eval())
    with pytest.raises(RuntimeError, match="differs from PyTorch's"):
        prediction.check_onnx(file, other, (128, 96), 1e-9)
