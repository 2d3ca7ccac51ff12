"""Every Python block of the README runs as written, and its Make targets exist."""
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)


def test_there_are_blocks():
    assert len(BLOCKS) >= 2


@pytest.mark.parametrize("code", BLOCKS, ids=lambda c: c.strip().splitlines()[-1][:40])
def test_python_block(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "data='path/to/data'" in code:  # the long run, shortened by the same call's own overrides
        if not os.environ.get("FSD_DATA"):
            pytest.skip("FSD_DATA is not set: the photographs are not at hand")
        code = code.replace("'path/to/data'", "DATA, overrides=dict(epochs=1, train_images=32, val_images=8)")
        exec(code, dict(DATA=os.environ["FSD_DATA"]))
        assert (tmp_path / "_runs/lspet_nano/runs/fsd-seed1/record.json").exists()
    else:
        exec(code, {})


def test_make_targets_exist():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M)
    named = set(re.findall(r"make (\w+)", TEXT))
    assert {"demo", "test"} <= named <= set(targets)


def test_links_of_the_readme_lead_somewhere():
    "Also those in tables that cells of the start page make."
    links = [t for t in re.findall(r"\]\(([^)#\s]+?)(?:#[^)]*)?\)", TEXT) if not t.startswith("http")]
    assert len(links) > 20 and any("|" in line and "torchrun" in line and "nbs/guide" in line for line in TEXT.splitlines())
    assert not [t for t in links if not (ROOT / t).exists()]
