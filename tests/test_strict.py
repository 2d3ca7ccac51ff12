"""Nothing is skipped unseen where FSD_STRICT=1; and the browser that `.ci/run` installs."""
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import LIMIT, NOTEBOOKS, ROOT

sys.path.insert(0, str(ROOT / "tools"))

import check  # noqa: E402


def pytest_on(folder, strict, *options):
    "Output and exit code of the tests in a folder, under the conftest of the repository."
    shutil.copy(ROOT / "tests/conftest.py", folder)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("FSD_STRICT", "PYTEST_"))}
    if strict:
        env["FSD_STRICT"] = "1"
    # -rN: no summary at the end, which repeats every message where the variable CI is set
    command = [sys.executable, "-m", "pytest", "-q", "-rN", "-p", "no:cacheprovider", *options]
    done = subprocess.run([*command, "--rootdir", str(folder), str(folder)], cwd=folder, env=env,
                          timeout=LIMIT, capture_output=True, text=True)
    return done.stdout + done.stderr, done.returncode


INSIDE = """
import pytest
@pytest.fixture
def lamp(): pytest.skip("no lamp here")
def test_fine(): pass
def test_by_call(): pytest.skip("no moon tonight")
def test_by_fixture(lamp): pass
def test_by_import(): pytest.importorskip("a_package_of_nobody")
@pytest.mark.skipif(True, reason="not on a Sunday")
def test_by_mark(): pass
@pytest.mark.parametrize("x", [])
def test_of_nothing(x): pass
@pytest.mark.xfail(reason="known", strict=True)
def test_known_to_fail(): assert False
"""
SKIPPED = {"test_by_call": "no moon tonight", "test_by_fixture": "no lamp here",
           "test_by_import": "a_package_of_nobody", "test_by_mark": "not on a Sunday",
           "test_of_nothing": "empty parameter set"}


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["alone", "two at a time"])
def test_a_skip_is_a_failure_where_it_is_asked_for(tmp_path, options):
    (tmp_path / "test_inside.py").write_text(INSIDE)
    text, code = pytest_on(tmp_path, True, *options)
    assert code == 1 and "2 failed, 1 passed, 1 xfailed, 3 errors" in text, text
    assert text.count("FSD_STRICT is set") == len(SKIPPED), text
    for name, reason in SKIPPED.items():
        assert re.search(f"test_inside.py::{name}.* was skipped: .*{reason}", text), text
    # so is a module that skips itself
    module = "import pytest\npytest.skip('nobody at home', allow_module_level=True)\n"
    (tmp_path / "test_whole.py").write_text(module)
    text, code = pytest_on(tmp_path, False, *options)
    assert code == 0 and "1 passed, 6 skipped, 1 xfailed" in text, text
    text, code = pytest_on(tmp_path, True, *options)
    assert code != 0, text
    assert "test_whole.py was skipped: nobody at home\nFSD_STRICT is set" in text, text


def test_notebooks_are_not_shortened_unseen(tmp_path, monkeypatch):
    "The step that runs them names all that is missing, where FSD_STRICT is set."
    for variable in check.OPTIONAL:
        monkeypatch.setenv(variable, str(tmp_path))
    missing = [f"{v}/{file}" for v, files in check.OPTIONAL.items() for file in files]
    assert check.lacking() == missing
    for variable, files in check.OPTIONAL.items():
        monkeypatch.delenv(variable)
        for file in files:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).touch()
    assert check.lacking() == missing  # there, but nobody says where
    monkeypatch.setenv("FSD_STRICT", "1")
    with pytest.raises(SystemExit, match="FSD_STRICT is set.* FSD_DATA/lspet/.* FSD_REFERENCE/par"):
        check.notebooks()
    for variable in check.OPTIONAL:
        monkeypatch.setenv(variable, str(tmp_path))
    assert not check.lacking()


def test_the_list_of_what_notebooks_use_is_complete():
    "Packages, folders of data and variables that notebooks ask for are those of tools/check.py."
    cells = [c for path in NOTEBOOKS for c in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    files = [file for files in check.OPTIONAL.values() for file in files]
    assert set(re.findall(r"find_spec\('(\w+)'\)", code)) == set(check.PACKAGES)
    folders = set(re.findall(r"'(\w+_sample|lspet|parity)\b", code))
    assert {"coco_sample", "parity"} < folders <= {file.split("/")[0] for file in files}
    variables = set(re.findall(r"environ(?:\.get)?[(\[]'(FSD_\w+)'", code))
    assert variables - {"FSD_CACHE", "FSD_COMMIT"} == set(check.OPTIONAL)


@pytest.fixture
def machine(tmp_path):
    "`machine(apt)` runs .ci/run where there is next to nothing; `apt` is what its apt-get does."
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "env", "dirname", "id", "mktemp", "rm", "tail", "chmod"):
        (programs / name).symlink_to(shutil.which(name))
    (tmp_path / "repository/.ci").mkdir(parents=True)
    shutil.copy(ROOT / ".ci/run", tmp_path / "repository/.ci/run")

    def program(name, text):
        (programs / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (programs / name).chmod(0o755)

    def call(apt):
        program("make", "echo make $* $FSD_STRICT ${FSD_DATA:-none} ${FSD_REFERENCE:-none}")
        program("apt-get", apt)
        program("sudo", 'shift; exec "$@"')
        log = tmp_path / "log"
        log.touch()
        env = dict(PATH=str(programs), TMPDIR=str(tmp_path), BIN=str(programs), LOG=str(log))
        done = subprocess.run([programs / "bash", tmp_path / "repository/.ci/run"], env=env,
                              timeout=LIMIT, capture_output=True, text=True)
        return done, log.read_text().splitlines()
    return call


INSTALLS = """
echo "$*" >>"$LOG"; echo noise
if [ "${@: -1}" = chromium ]; then echo >"$BIN/chromium"; chmod +x "$BIN/chromium"; fi
"""


def test_ci_installs_a_browser_once_and_is_strict(machine, tmp_path):
    done, calls = machine(INSTALLS)
    assert (done.returncode, done.stderr) == (0, "")
    assert [c.split()[-1] for c in calls] == ["update", "chromium"]
    assert done.stdout == "installing Debian's package chromium\nmake test 1 none none\n"
    shared = tmp_path / "shared"
    (shared / "data").mkdir(parents=True)
    (shared / "parity").mkdir()
    done, again = machine(INSTALLS)
    assert again == calls and done.stdout == f"make test 1 {shared}/data {shared}\n"


@pytest.mark.parametrize("apt", ['echo "E: no network"; exit 100', "exit 0"],
                         ids=["fails", "installs nothing"])
def test_ci_says_so_where_it_cannot(machine, apt):
    done, _ = machine(apt)
    assert done.returncode == 1 and "make test" not in done.stdout
    assert re.search("no Chromium, and apt-get could not install one: .*CHROMIUM=", done.stderr)
