"""Write README.md from nbs/index.ipynb, with its figures in index_files/; `--check` tells whether they are current."""
import argparse
import base64
import json
import posixpath
import re
import sys
from pathlib import Path

from nbdev_sphinx import is_hidden, source_of, split_directives

NOTE = "<!-- Made from nbs/index.ipynb by docs/readme.py: edit the notebook, not this file. -->"
_FENCE = re.compile(r"(^(`{3,}|~{3,}).*?^\2\s*?$|`[^`\n]+`)", re.M | re.S)
_LINK = re.compile(r"(\]\(|\b(?:src|href)=[\"'])(?![a-z][a-z0-9+.-]*:|[#/])([^)\s\"']+)")
_ADMONITION = re.compile(r"^(:{3,})\s*\{(note|tip|important|warning|caution)\}[^\n]*\n(.*?)^\1\s*$", re.M | re.S)


def bibliography(
    bib: str,  # text of a BibTeX file, one field per line
) -> dict[str, str]:  # citation key to a Markdown link such as "[Lin et al., 2014](https://...)"
    "Short citations of every entry."
    found = {}
    for key, body in re.findall(r"^@\w+\{([^,]+),\n(.*?)^\}", bib, flags=re.M | re.S):
        fields = dict(re.findall(r"^\s*(\w+)\s*=\s*\{(.*)\},?$", body, flags=re.M))
        names = [n.split(",")[0] for n in fields["author"].split(" and ")]
        text = (" and ".join(names) if len(names) < 3 else f"{names[0]} et al.") + f", {fields['year']}"
        found[key] = f"[{text}]({fields['url']})" if "url" in fields else text
    return found


def from_root(
    link: re.Match,  # of `_LINK`, relative to nbs/
) -> str:  # the same relative to the repository
    "Where the front page must look for a link of the start page."
    return link[1] + posixpath.normpath(posixpath.join("nbs", link[2]))


def prose(
    markdown: str,  # a Markdown cell
    citations: dict[str, str],  # from `bibliography`
    numbers: dict[str, str],  # label of a figure or equation to the text of a reference to it
) -> str:  # the same for the repository's front page
    "Make links relative to the root, and turn citations, references and admonitions into plain Markdown."
    def cite(m): return "(" + "; ".join(citations.get(k.strip(" @"), k.strip()) for k in m[1].split(";")) + ")"
    def alert(m): return "\n".join([f"> [!{m[2].upper()}]", *(f"> {x}".rstrip() for x in m[3].strip().splitlines())])
    parts = _FENCE.split(markdown)  # text, code, fence, text, ...
    for i in range(0, len(parts), 3):
        s = re.sub(r"\[(@[^\]]+)\]", cite, parts[i])
        s = re.sub(r"(?<![\w`/])@((?:fig|eq)-[\w-]+)", lambda m: numbers.get(m[1], m[0]), s)
        parts[i] = _LINK.sub(from_root, re.sub(r"(\$\$)[ \t]*\{#[\w-]+\}", r"\1", s))
    return _ADMONITION.sub(alert, "".join(p for i, p in enumerate(parts) if i % 3 < 2))


def result(
    output: dict,  # one output of a code cell
    figure: tuple[str, str],  # file name for a picture, and its caption
    files: dict[str, bytes],  # pictures so far, by file name; this one is added
) -> str:  # Markdown, empty where there is nothing to show
    "Show one stored output."
    data = {k: "".join(v) for k, v in output.get("data", {}).items() if isinstance(v, str | list)}
    if "image/png" in data:
        name, caption = figure
        files[name] = base64.b64decode(data["image/png"])
        return f"![{re.sub(r'[$`*]', '', caption)}]({name})" + (f"\n\n*{caption}*" if caption else "")
    if "text/markdown" in data: return _LINK.sub(from_root, data["text/markdown"].strip())
    html = re.sub(r"<style.*?</style>\s*", "", data.get("text/html", ""), flags=re.S)
    if "<table" in html: return html.strip()
    text = data.get("text/plain") or ("".join(output.get("text", "")) if output.get("name") != "stderr" else "")
    return f"```text\n{text.rstrip()}\n```" if text.strip() else ""


def render(
    notebook: dict,  # the start page, as JSON
    bib: str = "",  # text of a BibTeX file
) -> tuple[str, dict[str, bytes]]:  # README.md, and the pictures it shows by file name
    "The start page as plain Markdown."
    everything = "\n".join(source_of(c) for c in notebook["cells"])
    numbers = {}
    for kind, label in (("Figure", r"^#\|\s*label:\s*([\w-]+)"), ("Equation", r"\$\$[ \t]*\{#([\w-]+)\}")):
        numbers |= {x: f"{kind} {i}" for i, x in enumerate(re.findall(label, everything, flags=re.M), 1)}
    citations, files, out = bibliography(bib), {}, []
    for i, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "markdown": out.append(prose(source_of(cell), citations, numbers).strip())
        if cell["cell_type"] != "code": continue
        given, source = split_directives(source_of(cell))
        if is_hidden(given) or "export" in given: continue
        if source.strip() and given.get("echo") != "false": out.append(f"```python\n{source.strip()}\n```")
        if given.get("output") == "false": continue
        label, caption = given.get("label", f"cell-{i}"), prose(given.get("fig-cap", ""), citations, numbers)
        if label in numbers and caption: caption = f"{numbers[label]}. {caption}"
        for j, output in enumerate(cell.get("outputs", [])):
            out.append(result(output, (f"index_files/{label}{f'-{j}' * (j > 0)}.png", caption), files))
    first, *rest = [o for o in out if o]
    return "\n\n".join([first, NOTE, *rest]) + "\n", files


def main(argv=None):
    "Command line; exits with 1 where `--check` finds a difference."
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a file is out of date")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent, help="the repository")
    args = parser.parse_args(argv)
    text, files = render(json.loads((args.root / "nbs/index.ipynb").read_text(encoding="utf-8")),
                         (args.root / "docs/refs.bib").read_text(encoding="utf-8"))
    want = {args.root / name: content for name, content in ({"README.md": text.encode()} | files).items()}
    stray = [p for p in (args.root / "index_files").glob("*") if p not in want]
    stale = [p for p, content in want.items() if not p.exists() or p.read_bytes() != content] + stray
    if args.check:
        names = ", ".join(p.relative_to(args.root).as_posix() for p in stale)
        sys.exit(f"out of date: {names}; run python docs/readme.py" if stale else 0)
    for p in stray: p.unlink()
    for p, content in want.items():
        p.parent.mkdir(exist_ok=True)
        p.write_bytes(content)


if __name__ == "__main__": main()
