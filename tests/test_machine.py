"""The machine decides: precision, imports of the command line, progress of a grid."""
import os
import subprocess
import sys
import time
import warnings

import pytest
from conftest import LIMIT, ROOT

from fsd_sdpose import doctor, processes, training
from fsd_sdpose.experiments import resolve, run_experiment
from fsd_sdpose.studies import STUDIES

sys.path.insert(0, str(ROOT / "workflow"))
from progress import Watch  # noqa: E402

TINY = dict(epochs=1, train_images=24, val_images=8, batch_size=16, warmup_steps=1,
            scene=dict(size=[128, 96], people=1))


@pytest.fixture(params=[False, True])
def units(request, monkeypatch):
    "A CPU without and with units for bf16."
    for module in (processes, training):
        monkeypatch.setattr(module, "has_bf16_units", lambda device: request.param)
    return request.param


def test_studies_leave_the_precision_to_the_machine():
    for name, study in STUDIES.items():
        assert resolve(name, study.methods[0], 0, {})[1].precision == "auto", name


def test_the_record_says_which_precision_was_chosen(units, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what the machine chose itself is no reason to warn
        record = run_experiment("demo", "fsd", 0, TINY, out=tmp_path, show=False)
    assert record["config"]["precision"] == ("bf16" if units else "fp32")


def test_bf16_without_units_says_what_it_costs(units, tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run_experiment("demo", "fsd", 0, TINY | dict(precision="bf16"), out=tmp_path, show=False)
    said = [str(w.message) for w in caught if "no units for bf16" in str(w.message)]
    assert len(said) == (not units) and all("times as long as fp32 here" in text for text in said)


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="unknown precision 'fp64'; .*fp32"):
        resolve("demo", "fsd", 0, dict(precision="fp64"))


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["data", "--help"]])
def test_help_needs_no_torch(arguments):
    code = ("import sys; sys.argv = ['fsd-sdpose', *sys.argv[1:]]\n"
            "from fsd_sdpose.cli import main\n"
            "try: main()\n"
            "finally: print({'torch', 'pandas', 'cv2'} & {*sys.modules}, file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, text=True,
                          capture_output=True, timeout=LIMIT)
    assert done.returncode == 0 and done.stderr == "set()\n", done.stderr
    assert "Usage" in done.stdout


def test_doctor_says_what_a_study_costs(units, monkeypatch):
    monkeypatch.setattr(doctor, "training_speed", lambda *args: 100.0)  # the page measures
    lines = list(doctor.report("cpu", 1.0))
    text = "\n".join(lines)
    assert f"precision: {'bf16' if units else 'fp32'}" in lines
    assert all(f"  {variant}: fp32 " in text for variant in training.VARIANTS)
    assert ("bf16 would take" in text) == (not units)
    assert "  demo (n): " in text and text.count(" runs") >= 5


def test_a_grid_says_how_far_it_is(tmp_path):
    "Runs done, steps of the others, time left; nothing before there is something, or at the end."
    files = {name: (tmp_path / f"{name}.json", tmp_path / f"{name}.log") for name in "abcd"}
    files["d"][0].touch()  # was there before: not counted
    files["c"][1].write_text("n seed 0 step 90/100  about 9 s left")  # of an earlier call
    past = time.time() - 3600
    os.utime(files["c"][1], (past, past))
    watch = Watch(files)
    assert watch.line() == "0 of 3 runs done"
    files["a"][0].touch()
    files["b"][1].write_text("n seed 0 step 10/100  about 9 s left\nn seed 0 step 50/100  ...")
    watch.begun -= 30
    assert watch.line() == "1 of 3 runs done; b step 50/100; about 30 s left"
    for record, _ in files.values():
        record.touch()
    assert watch.line() is None
