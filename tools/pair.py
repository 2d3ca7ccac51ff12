"""Scripts of the templates and of the pages written by hand, for reviews and searches.

They lie in nbs/experiments/_py.

usage: python tools/pair.py [--check]    (settings: jupytext.toml; with --check nothing is written)
"""
import sys
from pathlib import Path

import jupytext
from jupytext.config import load_jupytext_config

from fsd_sdpose.studies import pages

ROOT = Path(__file__).resolve().parent.parent


def script(notebook: Path) -> str:
    "The text of a notebook's script."
    config = load_jupytext_config(str(notebook))
    return jupytext.writes(jupytext.read(notebook, config=config), "py:percent", config=config)


def pair(folder: Path, check: bool = False) -> list[str]:
    "Write the scripts of a folder's notebooks; the names of those that were not as they should be."
    made = pages()  # these follow from their template
    by_hand = [p for p in sorted(folder.glob("*.ipynb")) if p.stem not in made]
    wanted = {p.with_suffix(".py").name: script(p) for p in by_hand}
    scripts = folder / "_py"
    there = {p.name: p.read_text(encoding="utf-8") for p in scripts.glob("*.py")}
    wrong = sorted(n for n in {*wanted, *there} if wanted.get(n) != there.get(n))
    for name in () if check else wrong:
        if name in wanted:
            scripts.mkdir(exist_ok=True)
            (scripts / name).write_text(wanted[name], encoding="utf-8", newline="\n")
        else:
            (scripts / name).unlink()
    return wrong


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit(__doc__)
    check = "--check" in sys.argv
    names = ", ".join(pair(ROOT / "nbs/experiments", check))
    if check and names:
        sys.exit(f"nbs/experiments/_py is not what the notebooks say, run `make pair`: {names}")
    state = f"wrote {names}" if names else "all as they should be"
    print(f"scripts of the experiment notebooks: {state}")
