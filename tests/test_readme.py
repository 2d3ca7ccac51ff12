"""Every Python block of the README runs as written, and its Make targets exist."""
import os
import re

import pytest
from conftest import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)


def test_there_are_blocks():
    assert len(BLOCKS) >= 2


@pytest.mark.parametrize("code", BLOCKS, ids=lambda c: c.strip().splitlines()[-1][:40])
def test_python_block(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    if is_long := "data='path/to/data'" in code:  # shortened by the same call's own overrides
        if not os.environ.get("FSD_DATA"):
            pytest.skip("FSD_DATA is not set: the photographs are not at hand")
        names = dict(DATA=os.environ["FSD_DATA"])
        overrides = "overrides=dict(epochs=1, train_images=32, val_images=8)"
        code = code.replace("'path/to/data'", f"DATA, {overrides}")
    exec(code, names)
    assert not is_long or (tmp_path / "_runs/lspet_nano/runs/fsd-seed1/record.json").exists()


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"make (\w+)", TEXT))
    assert {"demo", "test"} <= named <= set(re.findall(r"^(\w+):", makefile, flags=re.M))


def test_links_of_the_readme_lead_somewhere():
    "Also those in tables that cells of the start page make."
    links = re.findall(r"\]\((?!http)([^)#\s]+?)(?:#[^)]*)?\)", TEXT)
    assert len(links) > 20 and re.search(r"\|.*torchrun.*nbs/guide", TEXT)
    assert not [link for link in links if not (ROOT / link).exists()]
