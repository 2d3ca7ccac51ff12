"""Experiments as a person runs them: the guide's dictionaries, papermill, runs that die."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import LIMIT

from fsd_sdpose.experiments import resolve, run_experiment
from fsd_sdpose.files import read_json
from fsd_sdpose.studies import METHODS, STUDIES
from fsd_sdpose.tables import read_record

ROOT = Path(__file__).resolve().parent.parent
TINY = dict(epochs=1, train_images=24, val_images=8, batch_size=16, warmup_steps=1,
            scene=dict(size=[128, 96], people=1))

# copied from the guide, letter by letter
TOKEN = dict(type='TokenDistilLoss', loss_weight=5e-6)
FSD = dict(type='ForegroundTokenDistilLoss', loss_weight=5e-6, foreground_weight=2.0,
           background_weight=0.5, threshold=0.1, temperature=1.0, use_spatial_weight=True)
STRONG = FSD | dict(foreground_weight=3.0, background_weight=0.3)
ADAPTIVE = dict(type='AdaptiveForegroundDistilLoss', loss_weight=5e-6, num_keypoints=17,
                use_keypoint_guidance=True)
DYNAMIC = dict(type='DynamicForegroundDistilLoss', loss_weight=5e-6, start_epoch=50, end_epoch=150,
               max_fg_weight=3.0, min_bg_weight=0.3)
GUIDE = dict(baseline=(TOKEN, TOKEN), fsd=(FSD, TOKEN), fsd_strong=(STRONG, TOKEN),
             adaptive=(TOKEN, ADAPTIVE), dynamic=(DYNAMIC, TOKEN), fsd_adaptive=(FSD, ADAPTIVE))


@pytest.mark.slow
@pytest.mark.parametrize("method", GUIDE)
def test_the_guides_dictionaries_build_and_run(method, tmp_path):
    visual, keypoint = GUIDE[method]
    assert METHODS[method].losses == dict(loss_vis_token_dist=visual, loss_kpt_token_dist=keypoint)
    record = run_experiment("demo", method, 1, TINY, out=tmp_path, show=False)
    used = record["config"]["loss_vis_token_dist"]
    if method == "dynamic":  # 50 and 150 of 300 epochs, as shares of one epoch
        assert used == visual | dict(start_epoch=50 / 300, end_epoch=150 / 300, unit="fraction")
        assert resolve("coco", "dynamic", 0, {})[1].loss_vis_token_dist == visual
    else:
        assert used == visual
    assert record["config"]["loss_kpt_token_dist"] == keypoint
    assert read_json(tmp_path / "record.json") == json.loads(json.dumps(record))


def papermill(notebook, out, *arguments, cwd):
    env = os.environ | dict(PYTHONPATH=str(ROOT))
    path = str(ROOT / "nbs/experiments" / notebook)
    command = [sys.executable, "-m", "papermill", "--no-progress-bar",
               "--start-timeout", str(LIMIT), path, str(out), *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=LIMIT)


def test_a_finished_record_is_not_replaced_unasked(tmp_path, monkeypatch):
    "Without out=, a study's own record that is there stays as it is."
    monkeypatch.chdir(tmp_path)
    record = tmp_path / "results/demo/runs/fsd-seed0/record.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    with pytest.raises(FileExistsError, match="fsd-seed0 holds a record already: say where with"):
        run_experiment("demo", "fsd", 0)
    assert record.read_text(encoding="utf-8") == "{}"


@pytest.mark.slow
def test_a_study_with_test_sets_measures_each(tmp_path):
    "AP, people and draws of every set; the sets of one kind show the same people."
    tiny = {k: v for k, v in TINY.items() if k != "scene"} | dict(train_images=16)
    record = run_experiment("clutter_and_crowd", "fsd", 0, tiny, out=tmp_path, show=False)
    assert set(record["tests"]) == set(STUDIES["clutter_and_crowd"].tests)
    for kind in ("clutter", "crowd"):
        people = {t["people"] for name, t in record["tests"].items() if name.startswith(kind)}
        assert len(people) == 1 and people.pop() >= 8
    row, draws = read_record(tmp_path / "record.json"), pd.read_csv(tmp_path / "draws.csv")
    assert row["tests_AP"] == pytest.approx(draws.filter(regex="^test_").mean().mean(), abs=15)
    assert {f"test_{name}" for name in record["tests"]} <= set(row) & set(draws)


@pytest.mark.slow
def test_papermill_from_another_folder(tmp_path):
    "The record states the parameters that really arrived."
    done = papermill("fsd.ipynb", "out.ipynb", "-p", "seed", "3", "-p", "out", "run",
                     "-y", f"overrides: {json.dumps(TINY)}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    expected = dict(study="demo", method="fsd", seed=3, overrides=TINY)
    assert expected.items() <= read_json(tmp_path / "run/record.json").items()


@pytest.mark.slow
@pytest.mark.parametrize("arguments, message", [
    (["-p", "sede", "3"], "did you mean 'seed'?"),
    (["-p", "seed", "three"], "seed must be of type int, not 'three'"),
    (["-p", "overrides", "{epochs: 1}"], "overrides must be of type dict"),
    (["-y", "overrides: {epoch: 1}"], "did you mean 'epochs'?"),
    (["-p", "study", "dema"], "did you mean 'demo'?")], ids=lambda v: str(v)[:30])
def test_wrong_parameters_fail_before_work_begins(arguments, message, tmp_path):
    done = papermill("fsd.ipynb", "out.ipynb", "-p", "out", "run", *arguments, cwd=tmp_path)
    assert done.returncode != 0 and message in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("change, message", [
    ({"max_token_rms": 1e-3}, "foreground_weight=1.5, temperature=2.0"),
    ({"lr": 1e30, "epochs": 3, "warmup_steps": 0, "val_every": 0},
     r"epoch \d+, step \d+ of \d+: \w+ term of cycle \d")])
def test_a_run_that_diverges_leaves_no_record(change, message, tmp_path):
    "The error names the place and the guide's remedy."
    with pytest.raises(FloatingPointError, match=message):
        run_experiment("demo", "fsd", 1, TINY | change, out=tmp_path, show=False)
    assert not (tmp_path / "record.json").exists()


def test_a_run_leaves_other_files_of_its_folder_alone(tmp_path):
    (tmp_path / "mine.safetensors").write_bytes(b"of somebody else")
    run_experiment("demo", "fsd", 1, TINY, out=tmp_path, show=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "draws.csv", "history.csv", "mine.safetensors", "record.json", "results.json"]
