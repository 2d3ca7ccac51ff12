"""Every shell command of the guide pages names things that exist: make targets and their variables, notebooks and their parameters, files of the study."""
import inspect
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from fsd_sdpose.experiments import resolve, run_experiment
from fsd_sdpose.studies import METHODS, STUDIES, SWEEPS

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "nbs/guide").glob("*.ipynb"))
OWN = [ROOT / f"nbs/guide/{n}.ipynb" for n in ("the_guide", "train_on_coco", "reproduce")]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^(\w+):", MAKEFILE, flags=re.M))
VARIABLES = set(re.findall(r"^(?:export )?(\w+) \?=", MAKEFILE, flags=re.M)) | set(re.findall(r"\$\((?:if )?(RERUN|STEPS|NB)\b", MAKEFILE))


def cells(page):
    return json.loads(page.read_text(encoding="utf-8"))["cells"]


def prose(page):
    return "\n\n".join("".join(c["source"]) for c in cells(page) if c["cell_type"] == "markdown")


def commands(page):
    "Lines of the shell blocks, continued ones joined."
    blocks = re.findall(r"```(?:sh|bash|shell|console)\n(.*?)```", prose(page), flags=re.S)
    return [line.strip() for b in blocks for line in b.replace("\\\n", " ").splitlines() if line.strip() and not line.strip().startswith("#")]


def parameters(notebook):
    "Names in the cell tagged 'parameters'."
    (cell,) = [c for c in cells(notebook) if "parameters" in c["metadata"].get("tags", [])]
    return set(re.findall(r"^(\w+)(?:: \w+)? = ", "".join(cell["source"]), flags=re.M))


def of_program(program, pages=None):
    found = [(p, w) for p in pages or PAGES for line in commands(p) if (w := shlex.split(line, comments=True))[0].split("/")[-1] == program]
    return [pytest.param(words, id=f"{p.stem}-{n}") for n, (p, words) in enumerate(found)]


def check_values(values):
    "Names of studies, methods, sweeps and settings."
    study, method = values.get("study", "demo"), values.get("method", "baseline")
    resolve(study, method, int(values.get("seed", 0)), values.get("overrides") or {})
    if values.get("overrides") and values.get("out"):
        assert not str(values["out"]).startswith("results/"), "runs with overrides are not the study's own"


def test_the_pages_have_commands():
    assert all(p in PAGES for p in OWN)
    assert len(of_program("make")) >= 8 and len(of_program("papermill")) >= 4 and len(of_program("torchrun")) >= 2 and of_program("fsd-sdpose", OWN)
    assert {"demo", "grid", "start", "test"} <= TARGETS and {"STUDY", "METHODS", "SEEDS", "PROFILE", "RESULTS", "STEPS", "NB", "RERUN"} <= VARIABLES


@pytest.mark.parametrize("words", of_program("make"))
def test_make(words):
    targets, settings = [w for w in words[1:] if "=" not in w], dict(w.split("=", 1) for w in words[1:] if "=" in w)
    assert targets and set(targets) <= TARGETS and set(settings) <= VARIABLES
    assert settings.get("STUDY", "demo") in STUDIES
    assert set(settings.get("METHODS", "").split()) <= set(METHODS)
    assert set(settings.get("SWEEPS", "").split()) <= {*SWEEPS, "all"}
    assert all(s.isdecimal() for s in settings.get("SEEDS", "0").split()) and settings.get("THREADS", "1").isdecimal()
    assert (ROOT / "workflow/profiles" / settings.get("PROFILE", "local") / "config.yaml").exists()
    steps = re.search(r"^STEPS = dict\((.*)\)$", (ROOT / "tools/check.py").read_text(encoding="utf-8"), flags=re.M)[1]
    assert set(settings.get("STEPS", "").split()) <= set(re.findall(r"(\w+)=", steps))
    assert all((ROOT / nb).exists() for nb in settings.get("NB", "").split())
    if "PYTHON" not in settings:
        for name in settings:  # read by a recipe of the target, not only known
            recipe = "".join(re.findall(rf"^{targets[0]}:.*\n((?:\t.*\n)*)", MAKEFILE, flags=re.M)) + MAKEFILE[MAKEFILE.index("WORKFLOW ="):].splitlines()[0]
            assert name in recipe, f"make {targets[0]} does not use {name}"


@pytest.mark.parametrize("words", of_program("papermill"))
def test_papermill(words):
    notebook, output, *options = words[1:]
    assert (ROOT / notebook).exists() and output.endswith(".ipynb") and (ROOT / output) != (ROOT / notebook)
    values = {}
    while options:
        flag = options.pop(0)
        assert flag in ("-p", "-r", "-y"), f"{flag} is not checked by this test"
        if flag == "-y":
            values |= yaml.safe_load(options.pop(0))
        else:
            name, values[name] = options.pop(0), options.pop(0)
    made = {line.split()[-1] for p in PAGES for line in commands(p) if line.startswith("mkdir -p ")}
    assert Path(output).parent.as_posix() in {".", *made}, "papermill does not make the folder of its output"
    known = parameters(ROOT / notebook)
    assert set(values) <= known, f"{notebook} has the parameters {sorted(known)}"
    check_values(values)


def check_train(words):
    "The program's own parser, and the library's check of study, method and settings."
    from typer.main import get_command

    from fsd_sdpose.cli import app
    from fsd_sdpose.files import parse_settings
    assert words[:2] == ["fsd-sdpose", "train"]
    values = get_command(app).commands["train"].make_context("train", words[2:]).params
    check_values(dict(study=values["study"], method=values["method"], seed=values["seed"], overrides=parse_settings(values["settings"] or []), out=values["out"]))


@pytest.mark.parametrize("words", of_program("fsd-sdpose", OWN))
def test_train(words):
    check_train(words)


@pytest.mark.parametrize("words", of_program("torchrun"))
def test_torchrun(words):
    from torch.distributed.run import get_args_parser
    launch = get_args_parser().parse_args(words[1:])
    assert launch.no_python and int(launch.nproc_per_node) >= 1 and (launch.standalone or int(launch.nnodes) > 1)
    check_train([launch.training_script, *launch.training_script_args])


@pytest.mark.parametrize("page", OWN, ids=lambda p: p.stem)
def test_other_commands_and_blocks(page):
    "Blocks of prose are shell commands, whose programs are known; everything else on the page is a cell and runs."
    assert set(re.findall(r"^```(\w*)\n(?=.)", prose(page), flags=re.M)) - {""} <= {"sh"}
    programs = {shlex.split(line)[0] for line in commands(page)}
    assert programs <= {"make", "papermill", "source", "export", "mkdir", "cd", "curl", "unzip", "fsd-sdpose", "torchrun"}, programs
    for line in commands(page):
        if line.startswith("export "):
            assert re.match(r"export FSD_(DATA|CACHE)=", line)
        if line.startswith("source "):
            assert line == "source .venv/bin/activate" and "BIN := .venv/bin" in MAKEFILE


def test_downloads_are_what_the_study_expects():
    "Unpacking the archives in FSD_DATA/coco gives every path of the study but the detection file, whose folder is made."
    page, coco = ROOT / "nbs/guide/train_on_coco.ipynb", STUDIES["coco"]
    lines = commands(page)
    fetched = {line.rsplit("/", 1)[1].removesuffix(".zip") for line in lines if line.startswith("curl")}
    assert fetched == {line.split()[-1].removesuffix(".zip") for line in lines if line.startswith("unzip")}
    assert {Path(coco.images).name, Path(coco.val_images_from).name} <= fetched
    assert {Path(f).parent.name for f in (coco.train, coco.val)} == {"annotations"} and "annotations_trainval2017" in fetched
    assert {Path(f).parts[0] for f in (coco.train, coco.val, coco.images, coco.val_images_from, coco.val_boxes)} == {"coco"} and "cd $FSD_DATA/coco" in lines
    assert f"mkdir -p {Path(coco.val_boxes).parent.name}" in lines and Path(coco.val_boxes).name in prose(page)


@pytest.mark.parametrize("page", OWN, ids=lambda p: p.stem)
def test_links_and_inline_calls(page):
    "Relative links, in prose and in tables that cells make, lead somewhere; calls in running text have known arguments."
    shown = [d["text/markdown"] for c in cells(page) for o in c.get("outputs", []) if "text/markdown" in (d := o.get("data", {}))]
    text = prose(page) + "\n" + "\n".join("".join(s) for s in shown)
    links = [t for t in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text) if not t.startswith("http")]
    assert len(links) >= 3
    for target in links:
        assert (page.parent / target).exists(), target
    for name in re.findall(r"`make (\w+)", text):
        assert name in TARGETS
    for call in re.findall(r"`run_experiment\(([^)]*)\)`", text):
        assert set(re.findall(r"(\w+)=", call)) <= set(inspect.signature(run_experiment).parameters)


def test_the_guide_is_bilingual_and_complete():
    "Every section is in both languages; every method, sweep and loss type of the guide is on the page; expected values say so."
    page = ROOT / "nbs/guide/the_guide.ipynb"
    sections = re.split(r"^## ", prose(page), flags=re.M)[1:]
    for s in sections:
        assert re.search("[가-힣]", s), s.splitlines()[0]
    everything = prose(page) + "".join("".join(c["source"]) for c in cells(page))
    for name in ("baseline", "fsd", "fsd_strong", "adaptive", "dynamic", "fsd_adaptive"):
        assert f"METHODS['{name}']" in everything and f"../experiments/{name}.ipynb" in everything
    for name in ("foreground_weight", "background_weight", "temperature", "loss_weight", "normalize"):
        assert f"../experiments/sweep_{name}.ipynb" in everything
    for word in ("TokenDistilLoss", "ForegroundTokenDistilLoss", "AdaptiveForegroundDistilLoss", "DynamicForegroundDistilLoss", "FSD-BEV", "LiDAR", "9.2M", "기대값", "never"):
        assert word in everything
