"""The program as a shell sees it: exit status, one line per error, files for the next command."""
import json
import os
import subprocess
import sys
from configparser import ConfigParser
from importlib import import_module
from pathlib import Path

import pytest
from conftest import LIMIT, ROOT
from typer.testing import CliRunner

from fsd_sdpose.cli import app

TINY = ["epochs=1", "train_images=24", "val_images=8", "batch_size=16",
        'scene={"size": [128, 96], "people": 1}', "loss_vis_token_dist.foreground_weight=3.0"]


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.mark.slow
def test_entry_point_is_there_and_prints_no_traceback(tmp_path):
    "What `setup.py` installs, run in another process from another folder."
    ini = ConfigParser(delimiters=["="])
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    name, target = ini["DEFAULT"]["console_scripts"].split("=")
    module, function = target.split(":")
    assert name == "fsd-sdpose" and callable(getattr(import_module(module), function))
    code = f"from {module} import {function}; {function}()"
    done = subprocess.run([sys.executable, "-c", code, "train", "demo", "fsd_stong"], cwd=tmp_path,
                          env=os.environ | dict(PYTHONPATH=str(ROOT)), capture_output=True,
                          text=True, timeout=LIMIT)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "fsd-sdpose: unknown method 'fsd_stong'; did you mean 'fsd_strong'?\n"
    assert not os.listdir(tmp_path)


@pytest.mark.slow
def test_a_pipeline_from_pictures_to_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    people = "people/person_keypoints.json"
    assert run("data", "make", "people", "--images", 6, "--people", 1, 1).exit_code == 0
    assert "people: 6" in run("data", "show", people).stdout
    predict = ["predict", "people/images", "--dataset", people, "--out", "poses"]
    done = run(*predict, "--no-flip-test")
    assert done.exit_code == 0 and "ground-truth boxes, flip test False" in done.stdout
    done = run("evaluate", people, "poses/results.json", "--out", "scores.json", "--joints")
    assert done.exit_code == 0
    scores = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert 0 < scores["OKS"] <= 100
    assert scores["AP_crowd"] is None  # nobody in a crowd is null, not NaN
    image = json.loads(Path(people).read_text(encoding="utf-8"))["images"][0]["id"]
    box = dict(image_id=image, category_id=1, bbox=[5, 5, 150, 180], score=0.5)
    Path("boxes.json").write_text(json.dumps([box]))
    done = run(*predict, "--boxes", "boxes.json")
    assert "1 people, detected boxes (boxes.json" in done.stdout


def test_a_run_and_its_record(tmp_path):
    folder = tmp_path / "demo/runs/fsd-seed2"
    settings = [word for setting in TINY for word in ("--set", setting)]
    done = run("train", "demo", "fsd", "--seed", 2, "--quiet", *settings, "--out", folder,
               "--keep-weights")
    assert done.exit_code == 0, done.output
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    config = record["config"]
    assert (record["seed"], config["epochs"]) == (2, 1)
    assert config["loss_vis_token_dist"]["foreground_weight"] == 3
    done = run("table", "demo", "--results", tmp_path, "--expected", ROOT / "results", "--write")
    table = (tmp_path / "demo/table.md").read_text(encoding="utf-8")
    assert done.exit_code == 0 and table == done.stdout.removesuffix("\n")
    picture, poses = next(Path(os.environ["FSD_CACHE"]).rglob("images/*.jpg")), tmp_path / "poses"
    assert run("predict", picture, "--weights", folder, "--out", poses).exit_code == 0
    assert sorted(os.listdir(poses)) == [f"{picture.stem}.json", f"{picture.stem}.png"]


@pytest.mark.parametrize("arguments, message", [
    ("data show absent.json", "no file absent.json"),
    ("data make x --images 0", "num_images is a whole number between 1 and 1000000, not 0"),
    ("train demo fsd --set epochs", "a setting is name=value"),
    ("train demo fsd --set epochs=2", "say where to write it"),
    ("evaluate absent.json absent.json", "no file absent.json"),
    ("predict absent.jpg --out .", "no image absent.jpg"),
    ("predict . --out poses", "no regular file but a directory"),
    ("predict a/x.jpg b/x.png --out .", "two pictures are called x"),
    ("predict x.jpg --out . --dataset absent.json", "the folder of its images"),
    ("predict x.jpg --out . --device warp", "device 'warp' cannot be used"),
    ("table demo --results absent", "no records in")])
def test_errors_are_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(*arguments.split())
    assert done.exit_code == 1 and done.stdout == ""
    assert message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not os.listdir(tmp_path)
