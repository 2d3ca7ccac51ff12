"""Every loader on damaged files and junk: an expected error that names the file, or a right result.

No other exception, no endless work. An example may take longer than the others, but not a multiple
of all of them together; times are of the processor, so that a busy machine does not matter.
"""
import copy
import functools
import json
import math
import os
import pickle
import shutil
import threading
import time
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT
from examples import SEEDS, examples
from hypothesis import strategies as st
from safetensors.torch import save_file
from scipy.io import savemat

from fsd_sdpose.annotations import PeopleFile, read_image, read_lsp_joints
from fsd_sdpose.checkpoints import Run, resume_run, save_epoch
from fsd_sdpose.cli import EXPECTED, boxes_for
from fsd_sdpose.data import CropCache, read_note
from fsd_sdpose.evaluation import evaluate
from fsd_sdpose.experiments import load_run
from fsd_sdpose.files import parse_settings, read_json
from fsd_sdpose.models import load_released, sdpose
from fsd_sdpose.prediction import check_boxes, load_model
from fsd_sdpose.skeletons import COCO
from fsd_sdpose.tables import contrasts, gather, gather_history, read_record

pytestmark = pytest.mark.filterwarnings("ignore")
SLOWEST = 30  # the longest example may take this many times as long as all others together


def fuzz(count, **what):
    "As `examples`, and no example takes out of all proportion."
    def wrap(test):
        seconds = []

        @functools.wraps(test)
        def timed(*args, **kwargs):
            start = time.process_time()
            try:
                test(*args, **kwargs)
            finally:
                seconds.append(time.process_time() - start)

        drawn = examples(count, **what)(timed)

        @functools.wraps(drawn)
        def whole(*args, **kwargs):
            drawn(*args, **kwargs)
            longest = max(seconds)
            assert longest <= SLOWEST * (sum(seconds) - longest), f"one example took {longest} s"
        return whole
    return wrap


def outcome(file, call, *args, **kwargs):
    "What a call returns; None where it raises an expected error, which must name the file."
    try:
        return call(*args, **kwargs)
    except EXPECTED as e:
        text = e.args[0] if isinstance(e, KeyError) and e.args else e
        text = " ".join(str(text).split())
        assert Path(file).name in text, f"{type(e).__name__} does not name the file: {text[:300]}"
        return None


# ------------------------------------------------------------------------------ what is drawn

JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 40), st.floats(), st.text(max_size=6),
    st.sampled_from([2**63, -(2**70), 10**400, 1e300, 1e-300, "1", "\0", "\n", "\ud800", "../x",
                     "", [], {}, [[]], [None], [0, 0, 10, 10], ["0", "0", "9", "9"], {"id": 1},
                     "nan", [[1, 2], [3]], [1] * 51, [True] * 4, [[[[[[0]]]]]]]))
TREES = st.recursive(JUNK, lambda v: st.lists(v, max_size=4) | st.dictionaries(
    st.sampled_from(["images", "annotations", "categories", "id", "bbox", "keypoints", "x"]), v,
    max_size=4), max_leaves=12)


@st.composite
def changed(draw, tree, most=2):
    "A copy of JSON contents with a few values replaced, removed, doubled or exchanged."
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, most))):
        at, path = tree, None
        while isinstance(at, (dict, list)) and len(at):
            keys = sorted(at) if isinstance(at, dict) else range(len(at))
            path = at, draw(st.sampled_from(keys))
            at = at[path[1]]
            if not draw(st.integers(0, 4)):
                break
        if path is None:
            return draw(JUNK)
        parent, key = path
        what = draw(st.sampled_from(["replace", "replace", "remove", "double", "nudge"]))
        if what == "remove":
            del parent[key]
        elif what == "double" and isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
        elif what == "nudge" and type(parent[key]) in (int, float):
            parent[key] = draw(st.sampled_from([-1, 0.5, 1000, math.nan])) * parent[key]
        else:
            parent[key] = draw(JUNK)
    return tree


WAYS = ("flip", "flip", "byte", "byte", "cut", "remove", "add", "copy")


@st.composite
def damaged(draw, data, most=4):
    "A copy of bytes with a few of them flipped, cut, removed, added or copied elsewhere."
    data = bytearray(data)
    for _ in range(draw(st.integers(1, most))):
        end = max(len(data) - 1, 0)
        place = draw(st.one_of(st.integers(0, min(end, 80)), st.integers(0, end)))
        length = draw(st.integers(1, 12))
        what = draw(st.sampled_from(WAYS))
        if what == "flip" and data:
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif what == "byte" and data:
            data[place] = draw(st.sampled_from([0, 1, 127, 128, 255]))
        elif what == "cut":
            del data[place:]
        elif what == "remove":
            del data[place:place + length]
        elif what == "add":
            data[place:place] = draw(st.binary(min_size=length, max_size=length))
        else:
            data[place:place + length] = data[end - place:end - place + length]
    return bytes(data)


def write(file, data):
    "Bytes, or JSON as others write it: with NaN and with halves of characters."
    file.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


# -------------------------------------------------------------------------- JSON and settings

@fuzz(150, data=st.binary(max_size=60) | damaged(b'{"a": [1, 2.5, "text", null, {"b": true}]}'))
def test_json(folder, data):
    file = write(folder / "some.json", data)
    tree = outcome(file, read_json, file)
    if tree is not None:
        assert tree == json.loads(data) or tree != tree or "NaN" in str(data)


@pytest.mark.parametrize("text", [
    "[" * 100_000, '{"a":' * 100_000, "[" * 500 + "]" * 500, "1" * 9999])
def test_json_without_end(folder, text):
    file = write(folder / "deep.json", text.encode())
    outcome(file, read_json, file)


@fuzz(200, pairs=st.lists(st.text(max_size=12) | st.builds(
    "{}={}".format, st.text("ab.", min_size=1, max_size=3),
    damaged(b'{"a": [1, 2.5, "t"]}').map(lambda b: b.decode("utf-8", "replace"))), max_size=3))
def test_settings(pairs):
    try:
        settings = parse_settings(pairs)
    except EXPECTED as e:
        assert str(e).strip()
    else:
        assert len(settings) == len(pairs)


def test_settings_without_end():
    for text in ("a=" + "[" * 5000, "a=" + '{"a":' * 5000, "a=" + "1" * 9999):
        try:
            parse_settings([text])
        except EXPECTED as e:
            assert len(str(e)) < 300


# -------------------------------------------------------------------------------- annotations

def person(n, image):
    kp = [v for j in range(17) for v in (10 + 3 * j, 12 + 2 * j, j % 3)]
    return dict(id=n, image_id=image, category_id=1, iscrowd=0, bbox=[8, 10, 60, 50], area=900,
                keypoints=kp, num_keypoints=11)


VALID = dict(images=[dict(id=n, file_name=f"{n}.jpg", width=100, height=80) for n in (1, 2)],
             annotations=[person(1, 1), person(2, 1), person(3, 2)],
             categories=[dict(id=1, name="person", keypoints=list(COCO.keypoints))])
BOXES = [dict(image_id=n, category_id=1, bbox=[5, 5, 50, 60], score=0.5) for n in (1, 1, 2)]


def check_people(people, size):
    "Arrays of finite numbers, boxes inside their pictures."
    assert 1 <= len(people) <= size and people.ann_id.dtype == people.image_id.dtype == np.int64
    for values in (people.box, people.joints, people.area, people.score):
        assert values.dtype == np.float64 and np.isfinite(values).all()
    low, high = people.box[:, :2], people.box[:, :2] + people.box[:, 2:]
    assert (people.size > 0).all() and (low >= 0).all() and (people.box[:, 2:] >= 1).all()
    assert (high <= people.size[people.image] + 1e-6).all() and (people.area > 0).all()
    assert set(np.unique(people.visible)) <= {0, 1}


@fuzz(300, data=changed(VALID) | TREES, skip_bad=st.booleans())
def test_annotations(folder, data, skip_bad):
    file = write(folder / "people.json", data)
    found = outcome(file, PeopleFile, file, skip_bad=skip_bad)
    if found is not None:
        check_people(found.people, len(data["annotations"]))
        entries = {a["id"]: a for a in data["annotations"] if type(a.get("id")) is int}
        for p, i in zip(found.people.joints, found.people.ann_id.tolist(), strict=True):
            xyv = np.array(entries[i]["keypoints"], float).reshape(-1, 3)
            assert (p == xyv[:, :2] * (xyv[:, 2:] > 0)).all() or skip_bad


@fuzz(150, data=damaged(json.dumps(VALID).encode()))
def test_bytes_of_annotations(folder, data):
    file = write(folder / "people.json", data)
    found = outcome(file, PeopleFile, file)
    if found is not None:
        check_people(found.people, 9)


@fuzz(200, data=changed(BOXES) | TREES, skip_bad=st.booleans())
def test_detections(folder, data, skip_bad):
    truth, file = write(folder / "truth.json", VALID), write(folder / "boxes.json", data)
    try:
        found = outcome(file, PeopleFile, truth, boxes=file, skip_bad=skip_bad)
    except AssertionError as e:
        assert "has nobody to show" in str(e)  # names the annotation file and the boxes
        return
    if found is not None:
        assert len(found.people) <= len(data) and np.isfinite(found.people.box).all()
        assert (found.people.ann_id == -1).all() and np.isfinite(found.people.score).all()


# ----------------------------------------------------------------------------------- pictures

PICTURE = np.random.default_rng(0).integers(0, 255, (16, 24, 3), np.uint8)
KINDS = (".jpg", ".png", ".webp", ".gif", ".tiff", ".bmp")
ENCODED = {kind: cv2.imencode(kind, PICTURE)[1].tobytes() for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_pictures(folder, kind):
    begun = st.binary(max_size=60).map(lambda b: ENCODED[kind][:12] + b)

    @fuzz(120, data=damaged(ENCODED[kind]) | begun, sized=st.booleans())
    def look(data, sized):
        file = write(folder / f"picture{kind}", data)
        pixels = outcome(file, read_image, file, (24, 16) if sized else None)
        if pixels is not None:
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
            assert not sized or pixels.shape == PICTURE.shape
            assert pixels.nbytes < 2**30
    look()


@fuzz(100, data=st.binary(max_size=200))
def test_bytes_that_are_no_picture(folder, data):
    file = write(folder / "noise.jpg", data)
    pixels = outcome(file, read_image, file)
    assert pixels is None or 0 not in pixels.shape


def test_a_pipe_is_not_waited_for(tmp_path):
    "What is no file is refused before it is opened."
    pipe, opened = tmp_path / "pipe.jpg", []
    os.mkfifo(pipe)

    def feed():
        with open(pipe, "wb"):  # returns when somebody reads
            opened.append(True)

    writer = threading.Thread(target=feed, daemon=True)
    writer.start()
    assert outcome(pipe, read_image, pipe) is None and not opened
    os.close(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))
    for name in ("", "/dev/zero", "/dev/null"):
        file = Path(name) if name else tmp_path
        assert outcome(file, read_image, file) is None


# ------------------------------------------------------------------------------- MATLAB files

@pytest.fixture(scope="module")
def matlab(folder):
    joints = np.random.default_rng(0).uniform(0, 100, (3, 14, 4))
    savemat(folder / "plain.mat", dict(joints=joints))
    savemat(folder / "packed.mat", dict(joints=joints), do_compression=True)
    return {name: (folder / f"{name}.mat").read_bytes() for name in ("plain", "packed")}


@pytest.mark.parametrize("name", ["plain", "packed"])
def test_joints_of_leeds(folder, matlab, name):
    @fuzz(200, data=damaged(matlab[name]) | st.binary(max_size=60))
    def look(data):
        file = write(folder / "joints.mat", data)
        joints = outcome(file, read_lsp_joints, file)
        if joints is not None:
            assert joints.dtype == np.float64 and joints.shape[1:] == (14, 3)
            if name == "packed":  # it has a checksum
                sound = read_lsp_joints(folder / "packed.mat")
                assert joints.shape == sound.shape and np.array_equal(joints, sound)
    look()


@fuzz(60, name=st.sampled_from(["joints", "other"]), seed=SEEDS,
      kind=st.sampled_from(["f", "i", "c", "b", "U", "O", "struct"]),
      shape=st.lists(st.sampled_from([0, 1, 3, 14]), max_size=4))
def test_other_variables(folder, name, kind, shape, seed):
    values = np.random.default_rng(seed).uniform(0, 9, shape)
    make = dict(f=lambda: values, i=lambda: values.astype(int), c=lambda: values + 1j,
                b=lambda: values > 4, U=lambda: values.astype(str),
                O=lambda: values.astype(object), struct=lambda: dict(a=values))
    savemat(folder / "joints.mat", {name: make[kind]()})
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        joints = outcome(folder / "joints.mat", read_lsp_joints, folder / "joints.mat")
    if joints is not None:
        assert name == "joints" and joints.shape[1:] == (14, 3) and kind in "fibO" and not said


# ------------------------------------------------------------------------------------ weights

@pytest.fixture(scope="module")
def network(folder):
    torch.manual_seed(0)
    model = sdpose("n", 3)
    torch.save(dict(state_dict=model.state_dict()), folder / "sound.pth")
    torch.save(model.state_dict(), folder / "legacy.pth", _use_new_zipfile_serialization=False)
    return model


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(),
                                                  strict=True))


@pytest.mark.parametrize("name", ["sound", "legacy"])
def test_bytes_of_released_weights(folder, network, name):
    "The usual format has checksums: what is loaded is what was saved."
    data, model = (folder / f"{name}.pth").read_bytes(), sdpose("n", 3)

    @fuzz(60, data=damaged(data))
    def look(data):
        file = write(folder / "net.pth", data)
        if outcome(file, load_released, model, file) is not None:
            assert equal(model, network) or name == "legacy"
    look()


ODD = st.one_of(st.integers(), st.text(max_size=9), st.none(), st.binary(max_size=5), st.tuples(
    st.integers()), st.sampled_from(["module.", "state_dict", "backbone.conv1.weight"]))
ANY_TENSOR = st.sampled_from([
    torch.zeros(2), torch.zeros(2, dtype=torch.int8), torch.tensor(1.0), torch.tensor(1j),
    torch.zeros(3, device="meta"), torch.zeros(2).to_sparse(), torch.full((2,), math.nan), None, 3,
    [torch.zeros(1)], "text"])


@fuzz(80, content=st.one_of(ODD, st.dictionaries(ODD, ANY_TENSOR, max_size=4),
                            st.lists(ANY_TENSOR, max_size=3)),
      wrapped=st.booleans(), protocol=st.sampled_from([2, 4, "zip"]))
def test_pickles_of_anything(folder, network, content, wrapped, protocol):
    file, content = folder / "odd.pth", dict(state_dict=content) if wrapped else content
    if protocol == "zip":
        torch.save(content, file)
    else:
        try:
            file.write_bytes(pickle.dumps(content, protocol))
        except (RuntimeError, NotImplementedError, pickle.PicklingError):
            return
    assert outcome(file, load_released, sdpose("n", 3), file) is None


@fuzz(60, data=st.data())
def test_one_odd_tensor_among_the_right_ones(folder, network, data):
    state = dict(network.state_dict())
    name = data.draw(st.sampled_from(sorted(state)))
    value = state[name]
    odd = data.draw(st.sampled_from(["half", "int8", "nan", "complex", "sparse", "meta", "shape"]))
    make = dict(half=value.half, int8=lambda: value.to(torch.int8), meta=lambda: value.to("meta"),
                nan=lambda: value.float() * math.nan, complex=lambda: value + 1j,
                sparse=value.to_sparse, shape=lambda: value[None])
    state[name] = make[odd]()
    file, model = folder / "net.pth", sdpose("n", 3)
    torch.save(state, file)
    loaded = outcome(file, load_released, model, file)
    if loaded is not None:
        assert odd in ("half", "int8") or not value.is_floating_point(), odd
        assert all(torch.isfinite(v.float()).all() for v in model.state_dict().values())
        assert odd != "int8" or not value.is_floating_point()


def test_bytes_of_safetensors(folder, network):
    "Its header is checked; of its numbers only the digest, where the file has one, knows."
    sound = folder / "sound.safetensors"
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, sound)
    data = sound.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")

    @fuzz(100, head=damaged(data[:header]), cut=st.sampled_from([0, 1, 8, 10**6]))
    def look(head, cut):
        file = write(folder / "net.safetensors", head + data[header:len(data) - cut])
        loaded = outcome(file, load_model, file)
        if loaded is not None:
            assert loaded.num_keypoints == 3
            assert all(torch.isfinite(v.float()).all() for v in loaded.state_dict().values())
    look()


# ------------------------------------------------------------------------------ resumed state

def tiny_run():
    torch.manual_seed(0)
    model, losses = torch.nn.Linear(3, 2), torch.nn.Linear(1, 1)
    optimizer = torch.optim.Adam([*model.parameters(), *losses.parameters()])
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    return Run(model, losses, optimizer, scheduler, dict(lr=1.0, who="me"))


def test_bytes_of_a_saved_state(folder):
    run = tiny_run()
    run.rows = [dict(epoch=1, AP=1.0)]
    (folder / "run").mkdir()
    save_epoch(run, folder / "run", 2, save_every=1)
    data = (folder / "run/resume.pt").read_bytes()

    @fuzz(150, data=damaged(data) | st.binary(max_size=80))
    def look(data):
        (folder / "again").mkdir(exist_ok=True)
        file, again = write(folder / "again/resume.pt", data), tiny_run()
        state = torch.get_rng_state()
        done = outcome(file, resume_run, again, file.parent, True)
        if done is None:
            assert not again.rows and torch.equal(torch.get_rng_state(), state)
        else:
            assert done == 1 and again.rows == run.rows and equal(again.model, run.model)
            assert again.best == run.best
    look()


STATE = ["settings", "rows", "best", "model", "optimizer", "scheduler", "losses", "random",
         "sittings"]


@fuzz(80, name=st.sampled_from(STATE), value=st.one_of(
    st.none(), st.integers(), st.text(max_size=5), st.just([]), st.just({}), st.just({"a": 1})),
    gone=st.booleans())
def test_a_saved_state_of_another_form(folder, name, value, gone):
    (folder / "form").mkdir(exist_ok=True)
    file, run = folder / "form/resume.pt", tiny_run()
    run.rows = [dict(epoch=1)]
    save_epoch(run, file.parent, 2, save_every=1)
    (file.parent / "resume-before.pt").unlink(missing_ok=True)
    state = torch.load(file, weights_only=True)
    if gone:
        state.pop(name, None)
    else:
        state[name] = value
    torch.save(state, file)
    again = tiny_run()
    outcome(file, resume_run, again, file.parent, True)


# ------------------------------------------------------------------------------------ records

@pytest.fixture(scope="module")
def results(tmp_path_factory):
    "Records of two methods and two seeds."
    out = tmp_path_factory.mktemp("results")
    for method in ("baseline", "fsd"):
        for seed in (0, 1):
            name = f"demo/runs/{method}-seed{seed}"
            (out / name).mkdir(parents=True)
            for file in ("record.json", "history.csv", "draws.csv"):
                shutil.copy(ROOT / "results" / name / file, out / name / file)
    return out


@pytest.fixture
def one(results):
    "One of the runs, which is put back afterwards."
    run = results / "demo/runs/fsd-seed1"
    before = {file: file.read_bytes() for file in run.iterdir()}
    yield run
    for file, data in before.items():
        file.write_bytes(data)


RECORD = json.loads((ROOT / "results/demo/runs/fsd-seed1/record.json").read_text(encoding="utf-8"))


def check_rows(rows):
    assert len(rows) == 4 and sorted(rows.seed) == [0, 0, 1, 1]
    assert all(type(v) is int for v in rows.seed.tolist())
    assert set(rows.method) == {"baseline", "fsd"}
    for name in ("AP", "AR", "OKS", "untrained_AP"):
        assert rows[name].dtype == float and rows[name].between(0, 100).all(), name


@fuzz(250, record=changed(RECORD) | TREES)
def test_records(results, one, record):
    file = write(one / "record.json", record)
    row = outcome(file, read_record, file)
    rows = outcome(file, gather, "demo", results)
    assert row is not None or rows is None
    if rows is not None:
        check_rows(rows)
        outcome(file, contrasts, rows)


@fuzz(80, data=damaged(json.dumps(RECORD, indent=1).encode()))
def test_bytes_of_records(results, one, data):
    file = write(one / "record.json", data)
    rows = outcome(file, gather, "demo", results)
    if rows is not None:
        check_rows(rows)
    outcome(file, load_run, one)


def test_bytes_of_histories(results, one):
    data, epochs = (one / "history.csv").read_bytes(), RECORD["config"]["epochs"]

    @fuzz(120, data=damaged(data) | st.binary(max_size=60))
    def look(data):
        file = write(one / "history.csv", data)
        table = outcome(file, gather_history, "demo", results)
        if table is not None:
            assert len(table) == 4 * epochs and np.isfinite(table.loss.astype(float)).all()
            assert sorted(table.epoch) == sorted([*range(1, epochs + 1)] * 4)
        run = outcome(file, load_run, one)
        assert run is None or len(run[1]) == epochs
    look()


def test_bytes_of_draws(results, one):
    lines = (one / "draws.csv").read_bytes().splitlines(keepends=True)
    sound, number = contrasts(gather("demo", results)), iter(range(10**6))

    @fuzz(80, few=damaged(b"".join(lines[:4])), more=st.sampled_from([0, 4, 200]) | st.none())
    def look(few, more):
        rest = b"".join(lines[4:] if more is None else lines[4:more])
        file = write(one / "draws.csv", few + rest)
        os.utime(file, ns=(next(number),) * 2)  # tables are kept by the time of their file
        table = outcome(file, contrasts, gather("demo", results))
        if table is not None:
            row, before = (t[t.method == "fsd"].iloc[0] for t in (table, sound))
            assert row.difference == before.difference and row.seeds == 2
            assert not math.isnan(row.low) and row.images in (0, before.images)
    look()


# -------------------------------------------------------------------------------- predictions

RESULTS = [dict(image_id=a["image_id"], category_id=1, keypoints=a["keypoints"], score=0.5 + n / 8)
           for n, a in enumerate(VALID["annotations"])]


@fuzz(200, rows=changed(RESULTS) | TREES)
def test_results(folder, rows):
    truth, file = write(folder / "truth.json", VALID), write(folder / "results.json", rows)
    scores = outcome(file, evaluate, truth, file)
    if scores is not None:
        assert all(math.isnan(v) or 0 <= v <= 100 for v in scores.values())
        assert not math.isnan(scores["AP"])
        assert rows != RESULTS or scores["AP"] == 100


@fuzz(200, data=changed(VALID), skip_bad=st.booleans())
def test_ground_truth(folder, data, skip_bad):
    truth, file = write(folder / "truth.json", data), write(folder / "results.json", RESULTS)
    try:
        scores = outcome(truth, evaluate, truth, file, skip_bad=skip_bad)
    except AssertionError as e:
        assert file.name in str(e)  # a result of a picture that the truth lacks
        return
    if scores is not None:
        assert all(math.isnan(v) or 0 <= v <= 100 for v in scores.values())


@fuzz(200, data=changed({"a.jpg": [[1, 2, 30, 40], [5, 5, 9.5, 9]], "b.jpg": []}, 3) | TREES)
def test_boxes_of_pictures(folder, data):
    file = write(folder / "boxes.json", data)
    boxes = outcome(file, boxes_for, file, "some/a.jpg")
    if boxes is None:
        return
    try:
        found = check_boxes(boxes, 50, 60)
    except EXPECTED as e:
        assert "box" in str(e)
    else:
        assert found.shape[1:] == (4,) and found.dtype == np.float64 and np.isfinite(found).all()
        assert (found[:, 2:] >= 1).all() and len(found) == len(boxes)
        for box in boxes:  # numbers only: a text or a truth value is none
            assert all(type(v) in (int, float) for v in box)


# -------------------------------------------------------------------------------- crop caches

def test_bytes_of_a_crop_cache(folder):
    "A damaged cache is built again, or refused; its pixels are never other ones."
    rects = np.array([[0, 0, 4, 3], [2, 2, 10, 9]])
    pictures = [np.random.default_rng(n).integers(0, 255, (16, 16, 3), np.uint8) for n in (0, 1)]
    file = folder / "people.crops"
    size = int(((rects[:, 2:] - rects[:, :2]).prod(1) * 3).sum())
    CropCache(file, rects, pictures.__getitem__)
    sound = file.read_bytes()

    @fuzz(150, data=damaged(sound) | damaged(sound[size:]).map(lambda end: sound[:size] + end))
    def look(data):
        write(file, data)
        note = read_note(file, size)
        assert note is None or isinstance(note, dict)
        cache = outcome(file, CropCache, file, rects, pictures.__getitem__)
        if cache is not None:
            assert not cache.bad
            for n, (x0, y0, x1, y1) in enumerate(rects):
                assert np.array_equal(cache.pixels(n, rects[n]), pictures[n][y0:y1, x0:x1])
    look()


def test_the_check_of_time_can_fail():
    "One example that works far longer than the others is noticed."
    @fuzz(20, n=st.integers(0, 10**6))
    def look(n):
        if n > 0 and not found:
            found.append(n)
            end = time.process_time() + 0.5
            while time.process_time() < end:
                pass

    found = []
    with pytest.raises(AssertionError, match="one example took"):
        look()


def test_an_error_without_the_file_is_noticed():
    def load():
        raise ValueError("bad")

    with pytest.raises(AssertionError, match="does not name the file: bad"):
        outcome("x.json", load)
    with pytest.raises(ZeroDivisionError):
        outcome("x.json", lambda: 1 / 0)
