"""Prediction on real photographs and odd pictures, invariance where it must hold, and what happens without the optional packages."""
import importlib.util
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fsd_sdpose import prediction
from fsd_sdpose.data import PoseDataset, make_loader
from fsd_sdpose.files import read_json
from fsd_sdpose.evaluation import predict
from fsd_sdpose.models import sdpose
from fsd_sdpose.prediction import (
    draw_people,
    export_onnx,
    load_model,
    load_picture,
    predict_people,
    run_onnx,
    write_people,
    write_picture,
)
from fsd_sdpose.skeletons import CROWDPOSE
from fsd_sdpose.synthetic import make_dataset
from fsd_sdpose.checkpoints import save_weights


@pytest.fixture(scope="module")
def model():
    return load_model("demo")


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    file = make_dataset(tmp_path_factory.mktemp("people"), 3, seed=4, people=2, truncation=1.0)
    data = read_json(file)
    boxes = {i["id"]: [a["bbox"] for a in data["annotations"] if a["image_id"] == i["id"]] for i in data["images"]}
    return [(file.parent / "images" / i["file_name"], boxes[i["id"]]) for i in data["images"]]


def joints(found):
    return np.stack([p["keypoints"] for p in found])


def test_real_photographs_are_predicted_as_in_the_evaluation(model):
    "Stored pixels, boxes at the edge, several people: the numbers are those of `predict`."
    if not os.environ.get("FSD_DATA"):
        pytest.skip("FSD_DATA is not set: it names the folder with the real data")
    root = Path(os.environ["FSD_DATA"], "coco_sample")
    if not (root / "test_coco.json").exists():
        pytest.skip("test_coco.json is not under FSD_DATA")
    ds = PoseDataset(root / "test_coco.json", root, model.variant.input_size)
    expected = iter(predict(model, make_loader(ds, 16)))
    for n, file in enumerate(ds.people.files[:3]):
        boxes = ds.people.box[ds.people.image == n]
        for p in predict_people(model, root / file, boxes):
            q = np.reshape(next(expected)["keypoints"], (-1, 3))
            scale = max(p["box"][2:]) / 128
            assert np.abs(p["keypoints"] - q)[:, :2].max() < 0.01 * max(1, scale) and np.abs(p["keypoints"] - q)[:, 2].max() < 2e-3


def test_a_person_does_not_depend_on_the_others(model, people):
    path, boxes = people[0]
    together = joints(predict_people(model, path, boxes))
    assert np.allclose(together[::-1], joints(predict_people(model, path, boxes[::-1])), atol=1e-3)
    assert np.allclose(together[:1], joints(predict_people(model, path, boxes[:1])), atol=1e-3)


def test_keypoints_move_with_the_picture(model, people):
    "A border around the picture moves boxes and keypoints alike."
    path, boxes = people[1]
    inner = load_picture(path)
    outer = cv2.copyMakeBorder(inner, 300, 300, 400, 400, cv2.BORDER_CONSTANT)
    moved = joints(predict_people(model, outer, np.array(boxes) + [400, 300, 0, 0])) - [400, 300, 0]
    assert np.abs(moved - joints(predict_people(model, inner, boxes))).max() < 0.05


def test_upright_turns_the_picture_first(model, people, tmp_path):
    "A photograph that is stored lying down, with the mark that says so (EXIF orientation 6)."
    upright = load_picture(people[0][0])
    lying = cv2.imencode(".jpg", np.rot90(upright)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    path = tmp_path / "lying.jpg"
    path.write_bytes(lying[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + lying[2:])
    assert np.abs(load_picture(path, upright=True).astype(int) - upright).mean() < 3
    assert np.abs(load_picture(path).astype(int) - np.rot90(upright)).mean() < 3
    assert predict_people(model, path, upright=True)[0]["box"][2:].tolist() == list(upright.shape[1::-1])


def test_fourteen_keypoints_from_a_run_folder(people, tmp_path):
    torch.manual_seed(0)
    save_weights(sdpose("n", 14), tmp_path / "last.safetensors")
    path, boxes = people[0]
    found = predict_people(load_model(tmp_path), path, boxes)
    assert joints(found).shape == (2, 14, 3)
    assert draw_people(path, found).shape == load_picture(path).shape
    write_people(tmp_path / "people.json", found, path)
    assert json.loads((tmp_path / "people.json").read_text())["keypoint_names"] == list(CROWDPOSE.keypoints)


@pytest.mark.parametrize("picture, boxes, message", [
    ("absent.png", None, "no image"), (np.zeros((9, 9, 3)), None, "uint8, red first"), (np.zeros((0, 9, 3), np.uint8), None, "uint8, red first"),
    (np.zeros((9, 9, 3), np.uint8), [[0, 0, np.nan, 4]], "box 0 is"), (np.zeros((9, 9, 3), np.uint8), [["a", 0, 1, 1]], "boxes must be numbers"),
    (np.zeros((9, 9, 3), np.uint8), [[-9, 0, 9, 9]], "wholly outside the 9x9 picture"), (np.zeros((9, 9, 3), np.uint8), [[[1, 1, 2, 2]]], "shape \\(1, 1, 4\\)")],
    ids=lambda v: str(v)[:20] if isinstance(v, str) else None)
def test_bad_input_is_one_clear_error(model, picture, boxes, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        predict_people(model, picture, boxes)


def test_a_failed_write_leaves_the_old_picture(tmp_path, monkeypatch):
    write_picture(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    before = (tmp_path / "a.png").read_bytes()
    monkeypatch.setattr(prediction.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_picture(tmp_path / "a.png", np.ones((4, 4, 3), np.uint8))
    assert (tmp_path / "a.png").read_bytes() == before and os.listdir(tmp_path) == ["a.png"]


def test_missing_packages_are_named(model, tmp_path, monkeypatch):
    monkeypatch.setattr(prediction, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install onnx onnxscript"):
        export_onnx(model, tmp_path / "a.onnx")
    with pytest.raises(ImportError, match="pip install onnxruntime"):
        run_onnx(tmp_path / "a.onnx", np.zeros((1, 3, 128, 96)))


@pytest.mark.slow
def test_onnx_agrees_with_torch_for_any_batch_size(tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if not importlib.util.find_spec(package):
            pytest.skip(f"{package} is not installed")
    torch.manual_seed(0)
    net = sdpose("n", 14).train()  # exported in evaluation mode, and given back as it was
    file = export_onnx(net, tmp_path / "n.onnx")
    assert net.training and os.listdir(tmp_path) == ["n.onnx"]
    for n in (1, 2, 5):
        images = torch.randn(n, 3, 128, 96)
        with torch.inference_mode():
            assert np.abs(run_onnx(file, images) - net.eval().heatmaps(images).numpy()).max() < 1e-4
    with pytest.raises(RuntimeError, match="differs from PyTorch's"):
        prediction.check_onnx(file, prediction.OneCycle(sdpose("n", 14).eval()), (128, 96), 1e-9)
