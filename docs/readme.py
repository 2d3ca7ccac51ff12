"""Write README.md from nbs/index.ipynb, with its figures in index_files/.

usage: python docs/readme.py [--check]    (with --check nothing is written)
"""
import base64
import posixpath
import re
import sys
from pathlib import Path

from nbdev_sphinx import is_hidden, split_directives
from nbformat.v4 import reads
from pybtex.database import parse_string

ROOT = Path(__file__).resolve().parent.parent
NOTE = "<!-- Made from nbs/index.ipynb by docs/readme.py: edit the notebook, not this file. -->"
_MARKS = re.compile(r"""
    ^(?P<fence>`{3,}|~{3,}).*?^(?P=fence)\s*?$ | `[^`\n]+`  # kept: code
  | \[ (?P<cite>@[^\]]+) \]
  | (?<![\w`/]) @ (?P<figure>fig-[\w-]+)
  | (?P<before>\]\(|\b(?:src|href)=["']) (?![a-z][a-z0-9+.-]*:|[\#/]) (?P<link>[^)\s"']+)
""", re.M | re.S | re.X)


def bibliography(
    bib: str,  # text of a BibTeX file
) -> dict[str, str]:  # citation key to a Markdown link such as "[Lin et al., 2014](https://...)"
    "Short citations of every entry."
    found = {}
    for key, entry in parse_string(bib, "bibtex").entries.items():
        names = [" ".join(person.last_names) for person in entry.persons["author"]]
        authors = " and ".join(names) if len(names) < 3 else f"{names[0]} et al."
        text = f"{authors}, {entry.fields['year']}"
        found[key] = f"[{text}]({entry.fields['url']})" if "url" in entry.fields else text
    return found


def prose(
    markdown: str,  # a Markdown cell or output
    citations: dict[str, str],  # from `bibliography`
    numbers: dict[str, str],  # label of a figure to the text of a reference to it
) -> str:  # the same for the repository's front page
    "Make links relative to the root, and turn citations and references into plain Markdown."
    def replace(match):
        if match["cite"]:
            keys = [key.strip(" @") for key in match["cite"].split(";")]
            return f"({'; '.join(citations.get(key, key) for key in keys)})"
        if match["link"]:
            return match["before"] + posixpath.normpath(posixpath.join("nbs", match["link"]))
        return numbers.get(match["figure"], match[0])
    return _MARKS.sub(replace, markdown)


def printed(
    output: dict,  # one output of a code cell, without a picture
) -> str:  # Markdown, empty where there is nothing to show
    "Show one stored output."
    data = output.get("data", {})
    if "text/markdown" in data:
        return prose(data["text/markdown"].strip(), {}, {})
    html = re.sub(r"<style.*?</style>\s*", "", data.get("text/html", ""), flags=re.S)
    if "<table" in html:
        return html.strip()
    stream = "" if output.get("name") == "stderr" else output.get("text", "")
    text = data.get("text/plain") or stream
    return f"```text\n{text.rstrip()}\n```" if text.strip() else ""


def render(
    notebook: dict,  # the start page
    bib: str = "",  # text of a BibTeX file
) -> tuple[str, dict[str, bytes]]:  # README.md, and the pictures it shows by file name
    "The start page as plain Markdown."
    code = "\n".join(cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code")
    labels = re.findall(r"^#\|\s*label:\s*([\w-]+)", code, flags=re.M)
    numbers = {label: f"Figure {n}" for n, label in enumerate(labels, 1)}
    citations, files, parts = bibliography(bib), {}, []
    for n, cell in enumerate(notebook["cells"]):
        directives, source = split_directives(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(prose(cell["source"], citations, numbers).strip())
        if cell["cell_type"] != "code" or is_hidden(directives) or "export" in directives:
            continue
        if source.strip() and directives.get("echo") != "false":
            parts.append(f"```python\n{source.strip()}\n```")
        label = directives.get("label", f"cell-{n}")
        caption = prose(directives.get("fig-cap", ""), citations, numbers)
        if label in numbers and caption:
            caption = f"{numbers[label]}. {caption}"
        for m, output in enumerate(cell["outputs"] if directives.get("output") != "false" else []):
            if picture := output.get("data", {}).get("image/png"):
                name = f"index_files/{label}-{m}.png" if m else f"index_files/{label}.png"
                files[name] = base64.b64decode(picture)
                parts += [f"![{re.sub(r'[$`*]', '', caption)}]({name})", caption and f"*{caption}*"]
            else:
                parts.append(printed(output))
    first, *rest = filter(None, parts)
    return "\n\n".join([first, NOTE, *rest]) + "\n", files


def main(root=ROOT, check=False):
    "Write what has changed, and remove pictures that are no longer shown; or only name them."
    notebook = reads((root / "nbs/index.ipynb").read_text(encoding="utf-8"))
    text, files = render(notebook, (root / "docs/refs.bib").read_text(encoding="utf-8"))
    wanted = {root / name: content for name, content in files.items()}
    wanted[root / "README.md"] = text.encode()
    there = {p: p.read_bytes() for p in [*root.glob("README.md"), *root.glob("index_files/*")]}
    stale = [p for p in wanted | there if wanted.get(p) != there.get(p)]
    if check and stale:
        names = ", ".join(p.relative_to(root).as_posix() for p in stale)
        sys.exit(f"out of date: {names}; run python docs/readme.py")
    for p in stale:
        p.parent.mkdir(exist_ok=True)
        if p in wanted:
            p.write_bytes(wanted[p])
        else:
            p.unlink()


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit(__doc__)
    main(check="--check" in sys.argv)
