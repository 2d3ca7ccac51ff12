"The shell commands of the guide pages name what exists: targets, variables, notebooks, settings."
import inspect
import json
import re
import runpy
import shlex
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import get_args_parser
from typer.main import get_command

from fsd_sdpose.cli import app
from fsd_sdpose.experiments import resolve, run_experiment
from fsd_sdpose.files import parse_settings
from fsd_sdpose.studies import METHODS, STUDIES, SWEEPS

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "nbs/guide").glob("*.ipynb"))
OWN = [ROOT / f"nbs/guide/{n}.ipynb" for n in ("the_guide", "train_on_coco", "reproduce")]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^(\w+):", MAKEFILE, flags=re.M))
DEFAULTS = re.findall(r"^(?:export )?(\w+) \?=", MAKEFILE, flags=re.M)
VARIABLES = {*DEFAULTS, *re.findall(r"\$\((?:if )?(RERUN|STEPS|NB)\b", MAKEFILE)}


def cells(page):
    return json.loads(page.read_text(encoding="utf-8"))["cells"]


def prose(page):
    return "\n\n".join("".join(c["source"]) for c in cells(page) if c["cell_type"] == "markdown")


def commands(page):
    "Lines of the shell blocks, continued ones joined."
    blocks = re.findall(r"```(?:sh|bash|shell|console)\n(.*?)```", prose(page), flags=re.S)
    lines = [line.strip() for b in blocks for line in b.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def parameters(notebook):
    "Names in the cell tagged 'parameters'."
    (cell,) = [c for c in cells(notebook) if "parameters" in c["metadata"].get("tags", [])]
    return set(re.findall(r"^(\w+)(?:: \w+)? = ", "".join(cell["source"]), flags=re.M))


def of_program(program, pages=PAGES):
    calls = [(p, shlex.split(line, comments=True)) for p in pages for line in commands(p)]
    calls = [(p, words) for p, words in calls if words[0].split("/")[-1] == program]
    return [pytest.param(words, id=f"{p.stem}-{n}") for n, (p, words) in enumerate(calls)]


def check_values(values):
    "Names of studies, methods, sweeps and settings."
    study, method = values.get("study", "demo"), values.get("method", "baseline")
    resolve(study, method, int(values.get("seed", 0)), values.get("overrides") or {})
    if values.get("overrides"):
        assert not str(values.get("out")).startswith("results/"), "runs with overrides go elsewhere"


def test_the_pages_have_commands():
    assert all(p in PAGES for p in OWN) and of_program("fsd-sdpose", OWN)
    least = dict(make=8, papermill=4, torchrun=2)
    assert all(len(of_program(program)) >= n for program, n in least.items())
    assert {"demo", "grid", "start", "test"} <= TARGETS
    assert set("STUDY METHODS SEEDS PROFILE RESULTS STEPS NB RERUN".split()) <= VARIABLES


@pytest.mark.parametrize("words", of_program("make"))
def test_make(words):
    targets = [w for w in words[1:] if "=" not in w]
    settings = dict(w.split("=", 1) for w in words[1:] if "=" in w)
    assert targets and set(targets) <= TARGETS and set(settings) <= VARIABLES
    assert settings.get("STUDY", "demo") in STUDIES
    steps = runpy.run_path(str(ROOT / "tools/check.py"))["STEPS"]
    for name, known in dict(METHODS=METHODS, SWEEPS={*SWEEPS, "all"}, STEPS=steps).items():
        assert set(settings.get(name, "").split()) <= set(known)
    numbers = f"{settings.get('SEEDS', '')} {settings.get('THREADS', '')}"
    assert all(n.isdecimal() for n in numbers.split())
    assert (ROOT / "workflow/profiles" / settings.get("PROFILE", "local") / "config.yaml").exists()
    assert all((ROOT / nb).exists() for nb in settings.get("NB", "").split())
    recipe = re.search(rf"^{targets[0]}:.*\n((?:\t.*\n)*)", MAKEFILE, flags=re.M)[1]
    recipe += re.search(r"^WORKFLOW =.*", MAKEFILE, flags=re.M)[0]
    unused = [name for name in settings if name not in recipe and name != "PYTHON"]
    assert not unused, f"make {targets[0]} does not use them"


@pytest.mark.parametrize("words", of_program("papermill"))
def test_papermill(words):
    notebook, output, *options = words[1:]
    assert (ROOT / notebook).exists() and output.endswith(".ipynb") and output != notebook
    values = {}
    while options:
        flag = options.pop(0)
        assert flag in ("-p", "-r", "-y"), f"{flag} is not checked by this test"
        if flag == "-y":
            values |= yaml.safe_load(options.pop(0))
        else:
            name, values[name] = options.pop(0), options.pop(0)
    made = [line.split() for p in PAGES for line in commands(p) if line.startswith("mkdir -p ")]
    folders = {".", *(words[-1] for words in made)}
    assert Path(output).parent.as_posix() in folders, "papermill does not make this folder"
    known = parameters(ROOT / notebook)
    assert set(values) <= known, f"{notebook} has the parameters {sorted(known)}"
    check_values(values)


def check_train(program, command, *words):
    "The program's own parser, and the library's check of study, method and settings."
    assert (program, command) == ("fsd-sdpose", "train")
    values = get_command(app).commands["train"].make_context("train", list(words)).params
    check_values(values | dict(overrides=parse_settings(values["settings"] or [])))


@pytest.mark.parametrize("words", of_program("fsd-sdpose", OWN))
def test_train(words):
    check_train(*words)


@pytest.mark.parametrize("words", of_program("torchrun"))
def test_torchrun(words):
    launch = get_args_parser().parse_args(words[1:])
    assert launch.no_python and int(launch.nproc_per_node) >= 1
    assert launch.standalone or int(launch.nnodes) > 1
    check_train(launch.training_script, *launch.training_script_args)


@pytest.mark.parametrize("page", OWN, ids=lambda p: p.stem)
def test_other_commands_and_blocks(page):
    "Blocks of prose are shell commands with known programs; everything else is a cell and runs."
    assert set(re.findall(r"^```(\w*)\n(?=.)", prose(page), flags=re.M)) - {""} <= {"sh"}
    known = "make papermill source export mkdir cd curl unzip fsd-sdpose torchrun".split()
    for line in commands(page):
        program = shlex.split(line)[0]
        assert program in known
        if program == "export":
            assert re.match(r"export FSD_(DATA|CACHE)=", line)
        if program == "source":
            assert line == "source .venv/bin/activate" and "BIN := .venv/bin" in MAKEFILE


def test_downloads_are_what_the_study_expects():
    "The archives, unpacked in FSD_DATA/coco, give every path of the study but the detected boxes."
    page, coco = ROOT / "nbs/guide/train_on_coco.ipynb", STUDIES["coco"]
    lines, annotations, boxes = commands(page), (coco.train, coco.val), Path(coco.val_boxes)
    fetched, unpacked = ({Path(line.split()[-1]).stem for line in lines if line.startswith(program)}
                         for program in ("curl", "unzip"))
    assert fetched == unpacked
    images = [coco.images, coco.val_images_from]
    assert {*(Path(f).name for f in images), "annotations_trainval2017"} <= fetched
    assert {Path(f).parent.name for f in annotations} == {"annotations"}
    assert {Path(f).parts[0] for f in (*images, *annotations, boxes)} == {"coco"}
    assert {"cd $FSD_DATA/coco", f"mkdir -p {boxes.parent.name}"} <= set(lines)
    assert boxes.name in prose(page)


@pytest.mark.parametrize("page", OWN, ids=lambda p: p.stem)
def test_links_and_inline_calls(page):
    "Links, also in tables that cells make, lead somewhere; inline calls have known arguments."
    outputs = [o.get("data", {}) for c in cells(page) for o in c.get("outputs", [])]
    shown = ["".join(data.get("text/markdown", "")) for data in outputs]
    text = "\n".join([prose(page), *shown])
    links = [t for t in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text) if not t.startswith("http")]
    assert len(links) >= 3
    for target in links:
        assert (page.parent / target).exists(), target
    for name in re.findall(r"`make (\w+)", text):
        assert name in TARGETS
    for call in re.findall(r"`run_experiment\(([^)]*)\)`", text):
        assert set(re.findall(r"(\w+)=", call)) <= set(inspect.signature(run_experiment).parameters)


def test_the_guide_is_bilingual_and_complete():
    "Every section is in both languages; every method, sweep and loss of the guide is on the page."
    page = ROOT / "nbs/guide/the_guide.ipynb"
    sections = re.split(r"^## ", prose(page), flags=re.M)[1:]
    for s in sections:
        assert re.search("[가-힣]", s), s.splitlines()[0]
    everything = "".join("".join(c["source"]) for c in cells(page))
    for name in "baseline fsd fsd_strong adaptive dynamic fsd_adaptive".split():
        assert f"METHODS['{name}']" in everything and f"../experiments/{name}.ipynb" in everything
    for name in "foreground_weight background_weight temperature loss_weight normalize".split():
        assert f"../experiments/sweep_{name}.ipynb" in everything
    losses = "Token ForegroundToken AdaptiveForeground DynamicForeground".split()
    words = {*(f"{loss}DistilLoss" for loss in losses), "FSD-BEV", "LiDAR", "9.2M", "기대값"}
    assert all(word in everything for word in {*words, "never"})
