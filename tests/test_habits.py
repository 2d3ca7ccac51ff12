"""What a contributor relies on: make, the checks, the merging of notebooks, the metadata, the workflows,
the model card and the checklist."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "docs")]

import check  # noqa: E402
import readme  # noqa: E402


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
CITATION, CODEMETA = yaml.safe_load(text("CITATION.cff")), json.loads(text("codemeta.json"))
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml"))


def make(*arguments, **kwargs):
    "Run make without what an outer make passes on."
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return subprocess.run(
        ["make", *arguments],
        cwd=kwargs.pop("cwd", ROOT),
        env=env | kwargs,
        capture_output=True,
        text=True,
    )


def targets_called(command):
    "Names after `make`, without variables, their values and options."
    called = []
    for words in re.findall(r"\bmake\b((?: +[^\s#;&|)`]+)*)", re.sub(r'"[^"]*"', '""', command)):
        called += [w for w in words.split() if "=" not in w and not w.startswith("-")]
    return called


# --------------------------------------------------------------------- make and the checks


@pytest.mark.parametrize("goal", [[], ["help"]])
def test_help_lists_every_target(goal):
    "Plain `make` too, and it does nothing else."
    done = make(*goal)
    assert done.returncode == 0, done.stderr
    listed = dict(re.findall(r"^make (\w+) +(\S.*)$", done.stdout, flags=re.M))
    assert listed.keys() == TARGETS and all(len(v.split()) > 1 for v in listed.values())
    assert len(done.stdout.splitlines()) == len(listed)
    (phony,) = re.findall(r"^\.PHONY: (.*)", MAKEFILE, flags=re.M)
    assert set(phony.split()) == TARGETS


def test_steps_are_those_described():
    (table,) = re.findall(r"\| step \|.*?\n\n", CONTRIBUTING, flags=re.S)
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", table, flags=re.M)
    assert [name for name, _, _ in rows] == [*check.STEPS, *check.PARTS]
    assert all(re.fullmatch(r"\d+", seconds) for _, _, seconds in rows), "seconds are whole numbers"
    for name, step in (check.STEPS | check.PARTS).items():
        assert step.__doc__, name
    named = r'(?:check\.py |STEPS=")([\w ]+)'
    used = " ".join(re.findall(named, MAKEFILE + CONTRIBUTING)).split()
    assert "quick" in used and set(used) <= {*check.STEPS, *check.PARTS}


def test_an_unknown_step_is_named():
    done = subprocess.run(
        [sys.executable, ROOT / "tools/check.py", "qick"], capture_output=True, text=True
    )
    assert done.returncode and "'qick'" in done.stderr and "quick" in done.stderr


def test_what_quick_leaves_out_exists_and_is_described():
    assert len(set(check.SLOW)) == len(check.SLOW)
    for name in check.SLOW:
        file, _, test = name.partition("::")
        assert (ROOT / file).is_file() and (
            not test or re.search(rf"^def {test}\(", text(file), flags=re.M)
        ), name
        if file != "tests/test_project.py":
            assert f"`{Path(file).name}`" in CONTRIBUTING, file


def code_of(markdown):
    "What a Markdown text sets as code: shell blocks, and the rest's backticked words, one a line."
    blocks = re.findall(r"```sh\n(.*?)```", markdown, flags=re.S)
    return "\n".join(
        [*blocks, *re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", markdown, flags=re.S))]
    )


@pytest.mark.parametrize(
    "name", ["CONTRIBUTING.md", "CHANGELOG.md", ".github/PULL_REQUEST_TEMPLATE.md"]
)
def test_documents_name_what_exists(name):
    "Make targets, files, folders and links."
    said = code_of(text(name))
    called = set(targets_called(said))
    assert called and called <= TARGETS, called - TARGETS
    folders = "nbs|docs|tests|tools|fsd_sdpose|results"
    paths = re.findall(rf"(?<![\w./~-])(?:{folders})/[\w./]*\w", said)
    assert not [p for p in paths if not (ROOT / p).exists()]
    links = re.findall(r"\]\(((?!https?:)[^)#\s]+)", text(name))
    assert not [link for link in links if not (ROOT / link).exists()]
    if name == "CONTRIBUTING.md":
        assert {"quick", "hooks", "test", "pair", "docs"} <= called and len(paths) > 10


def test_pins_are_as_explained():
    nbdev = INI["dev_requirements"].split()[0]
    section = CONTRIBUTING.split("## Why nbdev is pinned")[1].split("\n## ")[0]
    assert nbdev.startswith("nbdev==") and nbdev.removeprefix("nbdev==") in section.splitlines()[0]
    lock = dict(re.findall(r"^([\w.-]+)==(\S+)", text("requirements.lock"), flags=re.M))
    assert nbdev == f"nbdev=={lock['nbdev']}"
    assert lock["fastcore"].startswith("1.") and lock["execnb"].startswith("0.1.")
    for bound in ("fastcore<2", "execnb<0.2"):
        package, below = bound.split("<")
        assert bound in section and re.search(
            rf"\b{package}\S*<{below}(?!\S)", INI["dev_requirements"]
        ), bound


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
        who = (
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@example.org",
            "-c",
            "init.defaultBranch=main",
        )
        return subprocess.run(
            [shutil.which("git"), *who, *arguments],
            cwd=clone,
            env=env,
            capture_output=True,
            text=True,
        )

    def commit(words):
        cell = dict(cell_type="markdown", id="a1", metadata={}, source=[words])
        content = dict(cells=[cell], metadata={}, nbformat=4, nbformat_minor=5)
        notebook.write_text(json.dumps(content, indent=1) + "\n")
        git("add", "-A")
        assert git("commit", "-qm", words).returncode == 0

    git("init", "-q")
    commit("# Title")
    python = Path(sys.executable).parent
    done = make(
        "hooks",
        "-o",
        ".venv/.ready",
        f"BIN={python}",
        cwd=clone,
        HOME=str(home),
        PATH=f"{python}:{os.environ['PATH']}",
    )
    assert done.returncode == 0, done.stderr
    git("checkout", "-qb", "theirs")
    commit("# Theirs")
    git("checkout", "-q", "main")
    commit("# Ours")
    merged = git("merge", "theirs")
    assert merged.returncode and "CONFLICT" in merged.stdout
    cells = ["".join(c["source"]) for c in json.loads(notebook.read_text())["cells"]]  # still JSON
    assert "# Ours" in cells and "# Theirs" in cells
    assert os.access(clone / ".git/hooks/post-merge", os.X_OK)
    assert not git("status", "--porcelain", ".gitconfig").stdout


# -------------------------------------------------------------------------------- metadata


def bibliography():
    "Title, year and authors of each entry of the bibliography, without TeX's braces."
    found = {}
    for key, body in re.findall(
        r"^@\w+\{([^,]+),\n(.*?)^\}", text("docs/refs.bib"), flags=re.M | re.S
    ):
        fields = dict(re.findall(r"^\s*(\w+)\s*=\s*\{(.*)\},?$", body, flags=re.M))
        names = [tuple(x.strip() for x in n.split(",")) for n in fields["author"].split(" and ")]
        found[key] = (
            re.sub(r"[{}]", "", fields["title"]),
            int(fields["year"]),
            names,
            fields.get("url"),
        )
    return found


def test_citation_codemeta_and_settings_agree():
    setup = text("setup.py")
    assert CITATION["version"] == CODEMETA["version"] == INI["version"]
    assert CITATION["title"] == CODEMETA["name"] == INI["title"]
    assert INI["license"] == "apache2" and text("LICENSE").split()[:4] == [
        "Apache",
        "License",
        "Version",
        "2.0,",
    ]
    assert CITATION["license"] == "Apache-2.0" and CODEMETA["license"].endswith("/Apache-2.0")
    assert 'license="Apache-2.0"' in setup and "\nlicense: apache-2.0\n" in CARD
    assert CITATION["keywords"] == CODEMETA["keywords"] == INI["keywords"].split()
    assert (
        [a["name"] for a in CITATION["authors"]]
        == [a["name"] for a in CODEMETA["author"]]
        == [INI["author"]]
    )
    assert (
        CODEMETA["description"] == INI["description"]
        and CODEMETA["alternateName"] == INI["lib_name"]
    )
    assert CODEMETA["programmingLanguage"]["version"] == ">=" + INI["min_python"]
    assert [r["name"] + r["version"] for r in CODEMETA["softwareRequirements"]] == INI[
        "requirements"
    ].split()
    assert (
        CITATION.get("repository-code", "") == CODEMETA.get("codeRepository", "") == INI["git_url"]
    )


def test_every_entry_of_the_bibliography_is_closed():
    "An entry without its last brace would swallow the next one."
    keys = re.findall(r"^@\w+\{([^,]+),$", text("docs/refs.bib"), flags=re.M)
    assert list(bibliography()) == keys and list(readme.bibliography(text("docs/refs.bib"))) == keys


def test_references_are_those_of_the_bibliography():
    "SDPose first, as the message says, and FSD-BEV; titles, years and authors as in docs/refs.bib."
    bib = {url: (title, year, names) for title, year, names, url in bibliography().values()}
    assert (
        CITATION["references"][0]["title"].startswith("SDPose") and "SDPose" in CITATION["message"]
    )
    assert any(r["title"].startswith("FSD-BEV") for r in CITATION["references"])
    for r in CITATION["references"]:
        names = [
            (a["family-names"], a["given-names"]) if "alias" not in a else (a["alias"],)
            for a in r["authors"]
        ]
        assert (r["title"], r["year"], names) == bib[r["url"]]
    for r in CODEMETA["referencePublication"]:
        names = [(a["familyName"], a["givenName"]) for a in r["author"]]
        assert (r["name"], int(r["datePublished"]), names) == bib[r["@id"]]


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


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda f: f.stem)
def test_workflows_call_what_exists(file):
    flow = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert flow["name"] and True in flow, "YAML reads the key `on` as true"
    for job in flow["jobs"].values():
        assert job["runs-on"] and job["timeout-minutes"] and job["steps"]
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            if "uses" in step:
                assert re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]), step["uses"]
            run = step.get("run", "")
            assert set(targets_called(run)) <= TARGETS, run
            for program in re.findall(r"\.venv/bin/(\w+)", run):
                assert (Path(sys.executable).parent / program).exists(), program


def test_workflows_do_what_is_asked_of_them():
    flows = {f.stem: yaml.safe_load(f.read_text(encoding="utf-8")) for f in WORKFLOWS}
    test, docs = flows["test"]["jobs"]["test"], flows["docs"]["jobs"]
    run = "\n".join(s.get("run", "") for s in test["steps"])
    assert {"test", "demo"} <= set(targets_called(run)) and ".venv/bin/nbdev_test" in run
    assert {o.split("-")[0] for o in test["strategy"]["matrix"]["os"]} == {"ubuntu", "macos"}
    versions = {
        s["with"]["python-version"]
        for f in flows.values()
        for j in f["jobs"].values()
        for s in j["steps"]
        if "setup-python" in s.get("uses", "")
    }
    assert versions == {INI["min_python"]}
    uses = [s["uses"].split("@")[0] for j in docs.values() for s in j["steps"] if "uses" in s]
    assert {
        "actions/configure-pages",
        "actions/upload-pages-artifact",
        "actions/deploy-pages",
    } <= set(uses)
    (path,) = [
        s["with"]["path"] for s in docs["build"]["steps"] if "upload-pages" in s.get("uses", "")
    ]
    assert path in MAKEFILE and path in text("tools/check.py"), "the folder that `make docs` writes"


@pytest.mark.parametrize("file", FORMS, ids=lambda f: f.stem)
def test_forms_ask_for_what_is_needed(file):
    form = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert form["name"] and form["description"]
    ids = [b["id"] for b in form["body"] if b["type"] != "markdown"]
    assert len(ids) == len(set(ids)) and any(
        b.get("validations", {}).get("required") for b in form["body"]
    )
    if file.stem == "result":
        from fsd_sdpose.studies import STUDIES

        (studies,) = [b["attributes"]["options"] for b in form["body"] if b.get("id") == "study"]
        assert {s for s in STUDIES if not s.startswith("demo")} == set(studies[:-1])
        assert "record.json" in str(form) and "baseline" in str(form)


def test_all_forms_are_there():
    assert [f.stem for f in FORMS] == ["bug", "question", "result"]


def test_dev_container():
    box = json.loads(text(".devcontainer/devcontainer.json"))
    assert set(targets_called(box["postCreateCommand"])) <= TARGETS and box[
        "postCreateCommand"
    ].startswith("make ")
    assert f":{INI['min_python']}-" in box["image"]


# -------------------------------------------------------------------------- the model card


def start_record():
    "The record of the run whose weights ship with the package."
    shipped = json.loads(text("fsd_sdpose/starts/demo.json"))
    found = [load(f) for f in ROOT.glob("results/demo_start/runs/*/record.json")]
    same = ("seed", "initial_weights", "started")
    (record,) = [r for r in found if [r[k] for k in same] == [shipped[k] for k in same]]
    return record


def test_every_network_has_a_card_in_the_wheel():
    from fnmatch import fnmatch

    networks = sorted((ROOT / "fsd_sdpose").rglob("*.safetensors"))
    (globs,) = re.findall(r'package_data=\{cfg\["lib_path"\]: (\[.*?\])\}', text("setup.py"))
    assert networks
    for network in networks:
        for suffix in (".safetensors", ".json", ".md"):
            file = network.with_suffix(suffix)
            assert file.exists(), f"{file.name} is missing"
            name = file.relative_to(ROOT / "fsd_sdpose").as_posix()
            assert any(fnmatch(name, g) for g in json.loads(globs)), (
                f"setup.py leaves {name} out of the wheel"
            )


def test_card_says_what_the_file_and_its_record_say():
    from fsd_sdpose.studies import STUDIES

    file, r = ROOT / "fsd_sdpose/starts/demo.safetensors", start_record()
    study, config, metrics = STUDIES["demo_start"], r["config"], r["metrics"]
    words = " ".join(CARD.split())
    assert (
        f"`{hashlib.sha256(file.read_bytes()).hexdigest()}`" in CARD
        and f"{file.stat().st_size:,} bytes" in words
    )
    said = dict(re.findall(r"\{type: (AP\w*|AR), value: ([\d.]+)\}", CARD))
    assert said == {k: f"{metrics[k]:.1f}" for k in ("AP", "AP50", "AP75", "AR")}
    row = [f"{metrics[k]:.1f}" for k in ("AP", "AP50", "AP75", "AR", "AP_crowd")] + [
        f"{r['untrained']['AP']:.1f}"
    ]
    assert f"| {' | '.join(row)} |" in CARD
    begun = [load(f) for f in ROOT.glob("results/demo/runs/*/record.json")]
    (rounded,) = {f"{b['untrained']['AP']:.1f}" for b in begun}
    train, val, env = r["data"]["train"], r["data"]["val"], r["environment"]
    facts = [
        f"{rounded} AP as well",
        f"{r['parameters']:,} parameters",
        f"variant `{config['variant']}`",
        f"{config['epochs']} epochs",
        f"batch size {config['batch_size']}",
        f"learning rate {config['lr']} after {config['warmup_steps']} warm-up steps",
        f"seed {r['seed']}",
        f"took {r['seconds']:.0f} s",
        f"torch {env['versions']['torch']}",
        f"{r['peak_memory_mb']:,} MB",
        f"`{env['commit'][:10]}`",
        f"trained in {config['precision']}",
        f"{study.train_images:,} pictures with {train['people']:,} people for training",
        f"{study.val_images} pictures with {val['people']} people for validation",
        val["boxes"],
        "{} by {} px".format(*r["data"]["scene"]["size"]),
        f"{train['keypoints']} keypoints",
    ]
    assert not [f for f in facts if f not in words]
    machine, threads = env["device"].rsplit(", ", 1)
    assert machine in words and ("one core" in words) == bool(re.fullmatch("1 thread", threads))
    assert (
        all(config[k]["loss_weight"] == 0 for k in ("loss_vis_token_dist", "loss_kpt_token_dist"))
        and "have weight 0" in words
    )
    assert (
        config["flip_test"]
        and "flip test" in words
        and r["start"] is None
        and "from scratch" in words
    )
    assert len(r["data"]["scene"]["poses"]) == 5 and "five everyday poses" in words
    assert set(targets_called(code_of(CARD))) == {"start"}


def test_checklist_answers_every_heading():
    "The checklist's headings and citation, and what its tables compute from the records."
    page = json.loads(text("nbs/guide/checklist.ipynb"))["cells"]
    prose = "\n".join("".join(c["source"]) for c in page if c["cell_type"] == "markdown")
    heads = re.findall(r"^## (.*)$", prose, flags=re.M)
    assert heads == [
        "Claims and limits",
        "Models and algorithms",
        "Theoretical claims",
        "Datasets",
        "Shared code",
        "Reported results",
    ]
    assert "[@pineau2021]" in prose and "pineau2021" in readme.bibliography(text("docs/refs.bib"))
    printed = "\n".join(
        "".join(o["data"].get("text/markdown", ""))
        for c in page
        if c["cell_type"] == "code"
        for o in c["outputs"]
        if "data" in o
    )
    records = [load(f) for f in (ROOT / "results").rglob("record.json")]
    hours = sum(r["seconds"] for r in records) / 3600
    assert f"Together {len(records)} runs and {hours:.1f} hours" in printed, (
        "new records: make notebooks NB=nbs/guide/checklist.ipynb"
    )
    for study in {r["study"] for r in records}:
        assert f"| {study} |" in printed, study
