"""What a contributor relies on: make, checks, merging, metadata, workflows, card and checklist."""
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from pybtex.database import parse_file

from fsd_sdpose.studies import STUDIES

sys.path.insert(0, str(ROOT / "tools"))

import check  # noqa: E402


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def load(file):
    return json.loads(Path(file).read_text(encoding="utf-8"))


INI = ConfigParser(delimiters=["="])
INI.read(ROOT / "settings.ini", encoding="utf-8")
INI = INI["DEFAULT"]
MAKEFILE = text("Makefile")
TARGETS = set(re.findall(r"^(\w+):(?!=)", MAKEFILE, flags=re.M))
CONTRIBUTING, CARD = text("CONTRIBUTING.md"), text("fsd_sdpose/starts/demo.md")
CITATION, CODEMETA = yaml.safe_load(text("CITATION.cff")), load(ROOT / "codemeta.json")
FLOWS = {f.stem: yaml.safe_load(f.read_text(encoding="utf-8"))
         for f in sorted((ROOT / ".github/workflows").glob("*.yml"))}
FORMS = {f.stem: yaml.safe_load(f.read_text(encoding="utf-8"))
         for f in sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml"))}
BIN = Path(sys.executable).parent


def call(*command, cwd=ROOT, **env):
    "Run a command as a user's shell would, without what an outer make passes on."
    inherited = {k: v for k, v in os.environ.items()
                 if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return subprocess.run(command, cwd=cwd, env=inherited | env, capture_output=True, text=True)


def targets_called(command):
    "Names after `make`, without variables, their values and options."
    unquoted = re.sub(r'"[^"]*"', '""', command)
    words = " ".join(re.findall(r"\bmake\b((?: +[^\s#;&|)`]+)*)", unquoted)).split()
    return {w for w in words if "=" not in w and not w.startswith("-")}


# --------------------------------------------------------------------- make and the checks

@pytest.mark.parametrize("goal", [[], ["help"]])
def test_help_lists_every_target(goal):
    "Plain `make` too, and it does nothing else."
    done = call("make", *goal)
    assert done.returncode == 0, done.stderr
    listed = dict(re.findall(r"^make (\w+) +(\S.*)$", done.stdout, flags=re.M))
    assert listed.keys() == TARGETS and all(len(v.split()) > 1 for v in listed.values())
    assert len(done.stdout.splitlines()) == len(listed)
    (phony,) = re.findall(r"^\.PHONY: (.*)", MAKEFILE, flags=re.M)
    assert set(phony.split()) == TARGETS


def test_steps_are_those_described():
    (table,) = re.findall(r"\| step \|.*?\n\n", CONTRIBUTING, flags=re.S)
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", table, flags=re.M)
    steps = check.STEPS | check.PARTS
    assert [name for name, _, _ in rows] == [*steps]
    assert all(re.fullmatch(r"\d+", seconds) for _, _, seconds in rows), "seconds are whole numbers"
    assert all(step.__doc__ for step in steps.values())
    used = " ".join(re.findall(r'(?:check\.py |STEPS=")([\w ]+)', MAKEFILE + CONTRIBUTING))
    assert {"quick"} <= set(used.split()) <= steps.keys()


def test_an_unknown_step_is_named():
    done = call(sys.executable, ROOT / "tools/check.py", "qick")
    assert done.returncode and "'qick'" in done.stderr and "quick" in done.stderr


def test_what_quick_leaves_out_exists_and_is_described():
    assert len(set(check.SLOW)) == len(check.SLOW)
    for name in check.SLOW:
        file, _, test = name.partition("::")
        assert not test or re.search(rf"^def {test}\(", text(file), flags=re.M), name
        assert (ROOT / file).is_file() and f"`{Path(file).name}`" in CONTRIBUTING, file


def code_of(markdown):
    "What a Markdown text sets as code: shell blocks, and backticked words, one a line."
    blocks = re.findall(r"```sh\n(.*?)```", markdown, flags=re.S)
    rest = re.sub(r"```.*?```", "", markdown, flags=re.S)
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", rest)])


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "CHANGELOG.md",
                                  ".github/PULL_REQUEST_TEMPLATE.md"])
def test_documents_name_what_exists(name):
    "Make targets, files, folders and links."
    code = code_of(text(name))
    called = targets_called(code)
    assert called and called <= TARGETS, called - TARGETS
    folders = "nbs|docs|tests|tools|fsd_sdpose|results"
    paths = re.findall(rf"(?<![\w./~-])(?:{folders})/[\w./]*\w", code)
    links = re.findall(r"\]\(((?!https?:)[^)#\s]+)", text(name))
    assert not [p for p in paths + links if not (ROOT / p).exists()]
    if name == "CONTRIBUTING.md":
        assert {"quick", "hooks", "test", "pair", "docs"} <= called and len(paths) > 10


def test_pins_are_as_explained():
    pin = INI["dev_requirements"].split()[0]
    section = CONTRIBUTING.split("## Why nbdev is pinned")[1].split("\n## ")[0]
    lock = dict(re.findall(r"^([\w.-]+)==(\S+)", text("requirements.lock"), flags=re.M))
    assert pin == f"nbdev=={lock['nbdev']}" and lock["nbdev"] in section.splitlines()[0]
    assert lock["fastcore"].startswith("1.") and lock["execnb"].startswith("0.1.")
    for package, below in (("fastcore", "2"), ("execnb", "0.2")):
        assert f"{package}<{below}" in section
        assert re.search(rf"\b{package}\S*<{below}(?!\S)", INI["dev_requirements"]), package


def test_hooks_merge_notebooks(tmp_path):
    "Two people change one cell: the notebook can still be opened, and holds both versions."
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    home, clone = tmp_path / "home", tmp_path / "clone"
    (clone / "nbs").mkdir(parents=True)
    home.mkdir()
    for name in ("Makefile", "settings.ini", ".gitattributes", ".gitignore"):
        shutil.copy(ROOT / name, clone)
    notebook = clone / "nbs/one.ipynb"

    def git(*arguments):
        env = dict(HOME=str(home), PATH="/usr/local/bin:/usr/bin:/bin", GIT_CONFIG_NOSYSTEM="1")
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        return subprocess.run([shutil.which("git"), *who, "-c", "init.defaultBranch=main",
                               *arguments], cwd=clone, env=env, capture_output=True, text=True)

    def commit(words):
        cell = dict(cell_type="markdown", id="a1", metadata={}, source=[words])
        content = dict(cells=[cell], metadata={}, nbformat=4, nbformat_minor=5)
        notebook.write_text(json.dumps(content, indent=1) + "\n")
        git("add", "-A")
        assert git("commit", "-qm", words).returncode == 0

    git("init", "-q")
    commit("# Title")
    done = call("make", "hooks", "-o", ".venv/.ready", f"BIN={BIN}", cwd=clone, HOME=str(home),
                PATH=f"{BIN}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    git("checkout", "-qb", "theirs")
    commit("# Theirs")
    git("checkout", "-q", "main")
    commit("# Ours")
    merged = git("merge", "theirs")
    assert merged.returncode and "CONFLICT" in merged.stdout
    sources = ["".join(c["source"]) for c in load(notebook)["cells"]]  # still JSON
    assert "# Ours" in sources and "# Theirs" in sources
    assert os.access(clone / ".git/hooks/post-merge", os.X_OK)
    assert not git("status", "--porcelain", ".gitconfig").stdout


# -------------------------------------------------------------------------------- metadata

def test_citation_codemeta_and_settings_agree():
    assert CITATION["version"] == CODEMETA["version"] == INI["version"]
    assert CITATION["title"] == CODEMETA["name"] == INI["title"]
    assert INI["license"] == "apache2"
    assert text("LICENSE").split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert CITATION["license"] == "Apache-2.0" and CODEMETA["license"].endswith("/Apache-2.0")
    assert 'license="Apache-2.0"' in text("setup.py") and "\nlicense: apache-2.0\n" in CARD
    assert CITATION["keywords"] == CODEMETA["keywords"] == INI["keywords"].split()
    for authors in (CITATION["authors"], CODEMETA["author"]):
        assert [a["name"] for a in authors] == [INI["author"]]
    assert CODEMETA["description"] == INI["description"]
    assert CODEMETA["alternateName"] == INI["lib_name"]
    assert CODEMETA["programmingLanguage"]["version"] == ">=" + INI["min_python"]
    required = [r["name"] + r["version"] for r in CODEMETA["softwareRequirements"]]
    assert required == INI["requirements"].split()
    assert CITATION.get("repository-code", "") == INI["git_url"]
    assert CODEMETA.get("codeRepository", "") == INI["git_url"]


def test_references_are_those_of_the_bibliography():
    "SDPose first, as the message says, and FSD-BEV; titles, years and authors as in docs/refs.bib."
    entries = parse_file(ROOT / "docs/refs.bib").entries  # raises where one is open or twice there
    bib = {e.fields.get("url"): (re.sub(r"[{}]", "", e.fields["title"]), e.fields["year"],
                                 [tuple(str(p).split(", ")) for p in e.persons["author"]])
           for e in entries.values()}
    references = CITATION["references"]
    assert references[0]["title"].startswith("SDPose") and "SDPose" in CITATION["message"]
    assert any(r["title"].startswith("FSD-BEV") for r in references)
    for r in references:
        names = [(a["alias"],) if "alias" in a else (a["family-names"], a["given-names"])
                 for a in r["authors"]]
        assert (r["title"], str(r["year"]), names) == bib[r["url"]]
    for r in CODEMETA["referencePublication"]:
        names = [(a["familyName"], a["givenName"]) for a in r["author"]]
        assert (r["name"], r["datePublished"], names) == bib[r["@id"]]


def test_changelog_has_the_version():
    "Unreleased first, then versions in falling order, the present one among them."
    heads = re.findall(r"^## \[(.+?)\](?: - (\S+))?$", text("CHANGELOG.md"), flags=re.M)
    assert heads[0] == ("Unreleased", "") and heads[1][0] == INI["version"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", day) for _, day in heads[1:])
    numbers = [tuple(map(int, v.split("."))) for v, _ in heads[1:]]
    assert numbers == sorted(numbers, reverse=True)
    kinds = set(re.findall(r"^### (.*)$", text("CHANGELOG.md"), flags=re.M))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


# ---------------------------------------------------------------------------------- GitHub

def steps(name):
    return [step for job in FLOWS[name]["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("name", FLOWS)
def test_workflows_call_what_exists(name):
    assert FLOWS[name]["name"] and True in FLOWS[name], "YAML reads the key `on` as true"
    for job in FLOWS[name]["jobs"].values():
        assert job["runs-on"] and job["timeout-minutes"] and job["steps"]
    for step in steps(name):
        assert ("uses" in step) != ("run" in step)
        if "uses" in step:
            assert re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]), step["uses"]
        if "setup-python" in step.get("uses", ""):
            assert step["with"]["python-version"] == INI["min_python"]
        run = step.get("run", "")
        assert targets_called(run) <= TARGETS, run
        assert all((BIN / p).exists() for p in re.findall(r"\.venv/bin/(\w+)", run)), run


def test_workflows_do_what_is_asked_of_them():
    run = "\n".join(step.get("run", "") for step in steps("test"))
    assert {"test", "demo"} <= targets_called(run) and ".venv/bin/nbdev_test" in run
    systems = FLOWS["test"]["jobs"]["test"]["strategy"]["matrix"]["os"]
    assert {system.split("-")[0] for system in systems} == {"ubuntu", "macos"}
    used = {re.split("[/@]", step["uses"])[1]: step for step in steps("docs") if "uses" in step}
    assert {"configure-pages", "deploy-pages", "setup-python"} <= used.keys()
    path = used["upload-pages-artifact"]["with"]["path"]
    assert path in MAKEFILE and path in text("tools/check.py"), "the folder that `make docs` writes"


@pytest.mark.parametrize("name", ["bug", "question", "result"])
def test_forms_ask_for_what_is_needed(name):
    form = FORMS[name]
    assert form["name"] and form["description"] and len(FORMS) == 3
    fields = {b["id"]: b for b in form["body"] if b["type"] != "markdown"}
    assert len(fields) == sum(b["type"] != "markdown" for b in form["body"])
    assert any(b.get("validations", {}).get("required") for b in fields.values())
    if name == "result":
        studies = fields["study"]["attributes"]["options"]
        assert {s for s in STUDIES if not s.startswith("demo")} == set(studies[:-1])
        assert "record.json" in str(form) and "baseline" in str(form)


def test_dev_container():
    box = load(ROOT / ".devcontainer/devcontainer.json")
    command = box["postCreateCommand"]
    assert command.startswith("make ") and targets_called(command) <= TARGETS
    assert f":{INI['min_python']}-" in box["image"]


# -------------------------------------------------------------------------- the model card

def test_every_network_has_a_card_in_the_wheel():
    networks = sorted((ROOT / "fsd_sdpose").rglob("*.safetensors"))
    data = r'package_data=\{cfg\["lib_path"\]: (\[.*?\])\}'
    (globs,) = re.findall(data, text("setup.py"), flags=re.S)
    assert networks
    for file in (n.with_suffix(s) for n in networks for s in (".safetensors", ".json", ".md")):
        name = file.relative_to(ROOT / "fsd_sdpose").as_posix()
        assert file.exists() and any(fnmatch(name, g) for g in json.loads(globs)), (
            f"{name} is missing, or setup.py leaves it out of the wheel")


def test_card_says_what_the_file_and_its_record_say():
    file = ROOT / "fsd_sdpose/starts/demo.safetensors"
    shipped, same = load(file.with_suffix(".json")), ("seed", "initial_weights", "started")
    (r,) = [r for r in map(load, ROOT.glob("results/demo_start/runs/*/record.json"))
            if all(r[key] == shipped[key] for key in same)]
    study, config, metrics = STUDIES["demo_start"], r["config"], r["metrics"]
    train, val, env = r["data"]["train"], r["data"]["val"], r["environment"]
    values = dict(re.findall(r"\{type: (AP\w*|AR), value: ([\d.]+)\}", CARD))
    assert values == {k: f"{metrics[k]:.1f}" for k in ("AP", "AP50", "AP75", "AR")}
    row = [metrics[k] for k in ("AP", "AP50", "AP75", "AR", "AP_crowd")] + [r["untrained"]["AP"]]
    begun = map(load, ROOT.glob("results/demo/runs/*/record.json"))
    (rounded,) = {f"{b['untrained']['AP']:.1f}" for b in begun}
    machine, threads = env["device"].rsplit(", ", 1)
    facts = [
        f"`{hashlib.sha256(file.read_bytes()).hexdigest()}`", f"{file.stat().st_size:,} bytes",
        f"| {' | '.join(f'{value:.1f}' for value in row)} |", f"{rounded} AP as well",
        f"{r['parameters']:,} parameters", f"variant `{config['variant']}`",
        f"{config['epochs']} epochs", f"batch size {config['batch_size']}",
        f"learning rate {config['lr']} after {config['warmup_steps']} warm-up steps",
        f"seed {r['seed']}", f"took {r['seconds']:.0f} s", f"torch {env['versions']['torch']}",
        f"{r['peak_memory_mb']:,} MB", f"trained in {config['precision']}",
        f"`{env['commit'][:10]}`", machine, val["boxes"], f"{train['keypoints']} keypoints",
        f"{study.train_images:,} pictures with {train['people']:,} people for training",
        f"{study.val_images} pictures with {val['people']} people for validation",
        "{} by {} px".format(*r["data"]["source"]["scene"]["size"])]
    card = " ".join(CARD.split())
    assert not [fact for fact in facts if fact not in card]
    losses = [config[loss] for loss in ("loss_vis_token_dist", "loss_kpt_token_dist")]
    choices = {
        "one core": threads == "1 thread", "from scratch": r["start"] is None,
        "have weight 0": all(loss["loss_weight"] == 0 for loss in losses),
        "flip test": config["flip_test"],
        "five everyday poses": len(r["data"]["source"]["scene"]["poses"]) == 5}
    assert choices == {words: words in card for words in choices}
    assert targets_called(code_of(CARD)) == {"start"}


def test_checklist_answers_every_heading():
    "The checklist's headings and citation, and what its tables compute from the records."
    cells = load(ROOT / "nbs/guide/checklist.ipynb")["cells"]
    prose = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    assert re.findall(r"^## (.*)$", prose, flags=re.M) == [
        "Claims and limits", "Models and algorithms", "Theoretical claims", "Datasets",
        "Shared code", "Reported results"]
    assert "[@pineau2021]" in prose
    outputs = [o for c in cells for o in c.get("outputs", [])]
    printed = "\n".join("".join(o.get("data", {}).get("text/markdown", "")) for o in outputs)
    records = [load(f) for f in (ROOT / "results").rglob("record.json")]
    hours = sum(r["seconds"] for r in records) / 3600
    computed = [f"Together {len(records)} runs and {hours:.1f} hours"]
    missing = [s for s in computed + [f"| {r['study']} |" for r in records] if s not in printed]
    assert not missing, f"{missing}: make notebooks NB=nbs/guide/checklist.ipynb"
