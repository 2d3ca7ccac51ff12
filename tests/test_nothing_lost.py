"""No way to lose work: finished runs stand, stopped runs go on as themselves or not at all."""
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LIMIT

from fsd_sdpose import experiments, training
from fsd_sdpose.checkpoints import STATES, own_folder
from fsd_sdpose.experiments import run_experiment
from fsd_sdpose.files import host_name, read_json, sha256

ROOT = Path(__file__).resolve().parent.parent
TINY = dict(epochs=2, train_images=24, val_images=8, batch_size=16, warmup_steps=1, val_every=1,
            save_every=1, scene=dict(size=[128, 96], people=1))


def tiny(out, method="fsd", seed=0, settings=None, **kwargs):
    return run_experiment("demo", method, seed, TINY | (settings or {}), out=out, show=False,
                          **kwargs)


def digests(folder):
    return {p.name: sha256(p) for p in folder.iterdir()}


class Stopped(BaseException):
    pass


def stopped(out, monkeypatch, at=experiments, name="measure_run"):
    "A run that is stopped when it calls a function; by default, when it is trained."
    def stop(*args, **kwargs):
        raise Stopped
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(at, name, stop)
        tiny(out)
    return digests(out)


@pytest.fixture
def no_work(monkeypatch):
    "Whoever asks for data has gone too far."
    def study_sets(*args):
        raise AssertionError("data was made")
    monkeypatch.setattr(experiments, "study_sets", study_sets)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("done") / "run"
    tiny(folder)
    return folder


def test_resuming_a_finished_run_changes_nothing(done, no_work, capsys):
    before = digests(done)
    assert tiny(done, resume=True) == read_json(done / "record.json")
    assert "holds this run, finished already" in capsys.readouterr().out
    assert digests(done) == before


@pytest.mark.parametrize("settings, text", [
    ({"scene": TINY["scene"] | dict(occlusion=0.9)},
     "overrides.scene.occlusion was 'not set' and is 0.9"),
    (dict(start=""), "overrides.start was"),
    (dict(val_images=40), "overrides.val_images was 8 and is 40"),
    (dict(lr=1e-4), "lr was 0.002 and is 0.0001"), (dict(method="baseline"), "method was 'fsd'"),
    (dict(seed=1), "seed was 0 and is 1"), ({}, "holds a record already")])
def test_a_finished_record_is_of_one_run(done, no_work, settings, text):
    before, settings = digests(done), dict(settings)
    which = {k: settings.pop(k) for k in ("method", "seed") if k in settings}
    with pytest.raises((ValueError, FileExistsError), match=text):
        tiny(done, settings=settings, resume=text != "holds a record already", **which)
    assert digests(done) == before


@pytest.mark.parametrize("settings, text", [
    ({"scene": TINY["scene"] | dict(occlusion=0.9)}, "scene.occlusion was 'not set' and is 0.9"),
    (dict(start=""), "start was"),
    (dict(val_images=9), "val_images was 8 and is 9"), (dict(method="baseline"), "method was")])
def test_a_resumed_run_is_the_same_run(tmp_path, monkeypatch, settings, text):
    "Refused by name, before any data is made, and the state stays as it was."
    before, settings = stopped(tmp_path / "run", monkeypatch), dict(settings)
    which = {k: settings.pop(k) for k in ("method",) if k in settings}
    monkeypatch.setattr(experiments, "study_sets", None)
    with pytest.raises(ValueError, match=f"cannot resume from .*resume.pt: {text}"):
        tiny(tmp_path / "run", settings=settings, resume=True, **which)
    assert digests(tmp_path / "run") == before


def test_a_resumed_run_has_the_same_code(tmp_path, monkeypatch):
    stopped(tmp_path, monkeypatch)
    monkeypatch.setattr(experiments, "code_digest", lambda: "other")
    with pytest.raises(ValueError, match="code was '[0-9a-f]{16}' and is 'other'"):
        tiny(tmp_path, resume=True)


@pytest.mark.parametrize("which, text", [(0, "training set was"), (1, "validation set was")])
def test_a_resumed_run_has_the_same_people(tmp_path, monkeypatch, which, text):
    "A box that was moved under the same file name."
    stopped(tmp_path, monkeypatch)
    def moved(*args):
        sets = study_sets(*args)
        sets[which].people.box[0, 0] += 1
        return sets
    study_sets = experiments.study_sets
    monkeypatch.setattr(experiments, "study_sets", moved)
    with pytest.raises(ValueError, match=text):
        tiny(tmp_path, resume=True)


@pytest.mark.parametrize("name", ["write_csv", "write_json", "run_draws", "measure_tests"])
def test_what_fails_while_files_are_written_costs_nothing(done, tmp_path, monkeypatch, name):
    "The state goes last: the resumed run trains nothing, and writes the same record."
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(experiments, name, full)
        tiny(tmp_path / "run")
    assert not (tmp_path / "run/record.json").exists() and (tmp_path / "run/resume.pt").exists()
    monkeypatch.setattr(training, "train_step", None)
    record = tiny(tmp_path / "run", resume=True)
    assert record["sittings"] == 2 and sorted(digests(done)) == sorted(digests(tmp_path / "run"))
    times = ("started", "seconds", "peak_memory_mb", "sittings")
    first, second = ({k: v for k, v in read_json(folder / "record.json").items() if k not in times}
                     for folder in (done, tmp_path / "run"))
    assert json.dumps(first) == json.dumps(second)
    for file in ("results.json", "draws.csv"):
        assert sha256(done / file) == sha256(tmp_path / "run" / file)


def test_a_damaged_state_gives_way_to_the_one_before(tmp_path, monkeypatch):
    stopped(tmp_path, monkeypatch)
    last, before = (tmp_path / name for name in STATES)
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="resume.pt cannot be read and is damaged .* is used"):
        history = tiny(tmp_path, resume=True)
    assert history["sittings"] == 2
    assert not last.exists() and not before.exists()


def test_a_new_run_clears_its_folder_and_no_more(tmp_path):
    "Nothing of an earlier run stands beside a new record; what a dead process left half is gone."
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    half = [tmp_path / f".record.json.{host_name()}-{pid}-1.part"
            for pid in (gone.pid, os.getpid())]
    for file in (*half, tmp_path / "masks.npz", tmp_path / "mine.txt"):
        file.write_text("here before")
    tiny(tmp_path, settings=dict(save_every=0))
    assert {*digests(tmp_path)} == {"draws.csv", "history.csv", "mine.txt", "record.json",
                                    "results.json", half[1].name}


def test_two_runs_do_not_share_a_folder(tmp_path, no_work):
    program = ("import sys; from fsd_sdpose.checkpoints import own_folder\n"
               "with own_folder(sys.argv[1]): print('mine', flush=True); sys.stdin.read()")
    other = subprocess.Popen([sys.executable, "-c", program, tmp_path], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert other.stdout.readline() == "mine\n"
    with pytest.raises(FileExistsError, match=f"in use by process {other.pid} on .* since"):
        tiny(tmp_path)
    other.communicate("", timeout=LIMIT)
    with own_folder(tmp_path):
        pass
    assert not digests(tmp_path)


@pytest.mark.parametrize("out", ["/proc/nowhere", __file__])
def test_a_folder_that_cannot_be_written_fails_first(out, no_work):
    with pytest.raises(OSError, match=out):
        tiny(out)


def test_kept_weights_are_as_readable_as_the_record(tmp_path):
    tiny(tmp_path, keep_weights=True, settings=dict(epochs=1))
    modes = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.iterdir()}
    assert modes["last.safetensors"] == modes["record.json"] == modes["best.safetensors"]


def test_doubts_stand_in_the_record(tmp_path):
    loss = {"loss_vis_token_dist.loss_weight": 10.0, "warmup_steps": 99,
            "loss_vis_token_dist.threshold": 0.999, "epochs": 1, "save_every": 0}
    with pytest.warns(UserWarning) as warned:
        record = tiny(tmp_path, settings=loss)
    said = " ".join(str(w.message) for w in warned)
    assert "warmup_steps=99 is longer than the schedule of 1 steps" in said
    assert "visual tokens' loss is" in said and all(text in said for text in record["doubts"])
    assert len(record["doubts"]) >= 1


soak = importlib.util.module_from_spec(
    spec := importlib.util.spec_from_file_location("soak", ROOT / "tools/soak.py"))
sys.modules["soak"] = soak
spec.loader.exec_module(soak)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("soak") / "reference"
    assert soak.run(folder).status == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("point, sent", [
    ("half resume.pt#2", "KILL"), ("before record.json", "INT"), ("step 3", "TERM")])
def test_killed_runs_go_on_to_the_same_record(point, sent, undisturbed, tmp_path):
    "Three of the points of `make soak`."
    row = soak.kill(point, sent, undisturbed, tmp_path)
    assert row["ok"], row


@pytest.mark.slow
def test_interrupted_with_loader_processes(tmp_path):
    ended = soak.run(tmp_path / "run", point="step 2", sent="INT", settings=dict(workers=2))
    assert ended.status == 130
