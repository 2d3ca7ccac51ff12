"""A bridge from nbdev notebooks to MyST-NB: each notebook is rewritten in memory before Sphinx parses it.

* Hidden, export and bookkeeping cells go. What an export cell defines becomes API documentation: the signature,
  the docstring, and a parameter list from the comment behind each argument or field. The code is read, never imported.
* `#| label` and `#| fig-cap` make numbered figures; `[@key]`, `@fig-x`, `@eq-x` and `$$ ... $$ {#eq-x}` become
  citations, references and numbered equations; backticked names of exported symbols become links.
* The start page gets the tables of contents, grouped by `nbdev_groups`; pages in `nbdev_downloads` offer their notebook.
* What Sphinx and the theme write is corrected where screen readers and keyboards would stumble.
"""
from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

# ------------------------------------------------------------------------------------------------ cells

HIDDEN = {"hide", "default_exp", "exporti"}  # directives whose cells no reader sees
TAGS = {  # directives that MyST-NB has a tag for
    ("echo", "false"): "remove-input", ("output", "false"): "remove-output", ("code-fold", "true"): "hide-input",
}
_DIRECTIVE = re.compile(r"\s*#\s*\|\s*([\w-]+)\s*:?\s*(.*?)\s*$")


def split_directives(
    source: str,  # source of a code cell
) -> tuple[dict[str, str], str]:  # directives, name to argument, and the code without them
    "Separate the leading `#| name argument` and `#| name: value` lines of a cell from its code."
    lines, found = source.splitlines(), {}
    while lines and (not lines[0].strip() or (m := _DIRECTIVE.match(lines[0]))):
        if lines.pop(0).strip(): found[m[1]] = m[2].strip("\"'")
    return found, "\n".join(lines)


def source_of(cell: dict) -> str:
    "Source of a cell, which a notebook stores as a text or as a list of lines."
    return "".join(cell["source"])


def is_hidden(directives: dict) -> bool:
    "Whether a code cell with these directives is kept from the reader."
    return bool(HIDDEN & directives.keys()) or directives.get("include") == "false"


# ------------------------------------------------------------------------------------------------ API entries

@dataclass
class Entry:
    "One documented name, as a directive of Sphinx's Python domain."
    kind: str  # function, class, method, property, ... or data
    name: str  # name within its module, `Class.method` for a member
    signature: str = ""  # "(a: int = 1) -> str"; empty for data
    options: list[str] = field(default_factory=list)  # options of the directive, ":type: int"
    doc: str = ""  # docstring
    params: list[tuple[str, str, str]] = field(default_factory=list)  # name, type and comment of each argument
    returns: str = ""  # comment on the result
    members: list[Entry] = field(default_factory=list)  # methods and properties of a class

    def markdown(self, module: str, text=lambda s: s, fence: str = "``````") -> str:
        "The directive in MyST; `text` rewrites the prose in it."
        fields = []
        for name, kind, comment in self.params:
            if comment: fields += [f":param {name}: {text(comment)}"] + [f":type {name}: {kind}"] * bool(kind)
        if self.returns: fields.append(f":returns: {text(self.returns)}")
        members = [m.markdown(module, text, fence[1:]) for m in self.members]
        head = [f"{fence}{{py:{self.kind}}} {self.name}{self.signature}", f":module: {module}", *self.options]
        return "\n".join([*head, "", text(self.doc), "", *fields, "", *members, fence])


def _comments(code: str) -> dict[int, str]:
    "Comment of each line, without linters' marks."
    found = {}
    for t in tokenize.generate_tokens(io.StringIO(code).readline):
        if t.type == tokenize.COMMENT: found[t.start[0]] = re.split(r"#?\s*\bnoqa\b", t.string.lstrip("# "))[0].strip()
    return found


def _text(node) -> str: return ast.unparse(node) if node else ""


def _function(node, comments: dict[int, str], owner: str = "") -> Entry:
    "Entry of a function or, where it has an `owner`, of a method."
    marks = {_text(d).split(".")[-1] for d in node.decorator_list}
    args = node.args
    if owner and "staticmethod" not in marks: del (args.posonlyargs or args.args)[:1]
    every = [a for a in (*args.posonlyargs, *args.args, args.vararg, *args.kwonlyargs, args.kwarg) if a]
    defaults = dict(zip(reversed(args.posonlyargs + args.args), reversed(args.defaults), strict=False))
    defaults |= {a: d for a, d in zip(args.kwonlyargs, args.kw_defaults, strict=True) if d}
    owners = {defaults.get(a, a).end_lineno: a.arg for a in every}  # a comment belongs to the last argument on its line
    if node.returns: owners[node.returns.end_lineno] = "return"
    for line in range(max([node.lineno, *owners]), node.body[0].lineno): owners.setdefault(line, "return")
    said = {name: comments[line] for line, name in owners.items() if line in comments and line < node.body[0].lineno}
    entry = Entry("method" if owner else "function", f"{owner}.{node.name}".lstrip("."), f"({_text(args)})",
                  [f":{m}:" for m in marks & {"classmethod", "staticmethod"}], ast.get_docstring(node) or "",
                  [(a.arg, _text(a.annotation), said.get(a.arg, "")) for a in every], said.get("return", ""))
    result = _text(node.returns)
    if marks & {"property", "cached_property"}:
        entry.kind, entry.signature, entry.options = "property", "", [f":type: {json.dumps(result)}"] * bool(result)
    elif result: entry.signature += f" -> {result}"
    return entry


def _class(node, comments: dict[int, str]) -> Entry:
    "Entry of a class: its arguments are those of `__init__` or, without one, its annotated fields."
    functions = [f for f in node.body if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef)]
    methods = {f.name: _function(f, comments, node.name) for f in functions
               if not any(_text(d).endswith((".setter", ".deleter")) for d in f.decorator_list)}
    entry = Entry("class", node.name, doc=ast.get_docstring(node) or "")
    if init := methods.pop("__init__", None):
        entry.signature, entry.params = init.signature.removesuffix(" -> None"), init.params
    elif fields := [f for f in node.body if isinstance(f, ast.AnnAssign) and _public(_text(f.target))]:
        entry.params = [(_text(f.target), _text(f.annotation), comments.get(f.end_lineno, "")) for f in fields]
        given = [f"{p[0]}: {p[1]}{_default(f.value)}" for p, f in zip(entry.params, fields, strict=True)]
        entry.signature = f"({', '.join(given)})"
    entry.members = [m for name, m in methods.items() if m.doc and (_public(name) or name == "__call__")]
    return entry


def _public(name: str) -> bool: return not name.startswith("_")


def _default(value) -> str:
    "Default of a dataclass field as a call would write it."
    if isinstance(value, ast.Call) and _text(value.func).endswith("field"):
        given = {k.arg: _text(k.value) for k in value.keywords}
        text = given.get("default", given["default_factory"] + "()" if "default_factory" in given else "")
        return " = " + ("..." if text.startswith("lambda") else text) if text else ""
    return f" = {_text(value)}" if value else ""


class _Qualify(ast.NodeTransformer):
    "Writes the exported names in annotations in full, so that they become links."
    def __init__(self, links): self.links = links
    def visit_Name(self, node): return ast.copy_location(ast.Name(self.links.get(node.id, node.id)), node)
    def annotation(self, node):
        quoted = isinstance(node, ast.Constant) and isinstance(node.value, str)
        return self.visit(ast.copy_location(ast.parse(node.value, mode="eval").body, node) if quoted else node)


def entries(
    code: str,  # code of an export cell
    links: dict[str, str] | None = None,  # exported names to their full names, for annotations
) -> list[Entry]:  # one per public function, class and constant, in order
    "What a cell defines for the library's users."
    tree, comments, found = ast.parse(code), _comments(code), []
    qualify = _Qualify(links or {})
    for node in ast.walk(tree):
        for name in ("annotation", "returns"):
            if getattr(node, name, None): setattr(node, name, qualify.annotation(getattr(node, name)))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _public(node.name):
            found.append(_function(node, comments))
        elif isinstance(node, ast.ClassDef) and _public(node.name): found.append(_class(node, comments))
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            value = json.dumps(_text(node.value))
            comment = comments.get(node.lineno) or comments.get(node.end_lineno, "")
            for t in getattr(node, "targets", None) or [node.target]:
                if isinstance(t, ast.Name) and _public(t.id):
                    found.append(Entry("data", t.id, options=[f":value: {value}"] * (len(value) < 60), doc=comment))
    return found


# ------------------------------------------------------------------------------------------------ prose

_PROSE = re.compile(r"""
    ^(?P<fence>`{3,}|~{3,}).*?^(?P=fence)\s*?$ | ^\#+\s.*?$  # kept: code blocks, headings,
  | \{[\w:-]+\}`[^`]+` | ``.+?`` | !?\[[^\]]*\]\([^)]*\) | (?<!\$)\$[^$\n]+\$(?!\$)  # roles, code, links, formulas
  | \$\$ (?P<equation>.*?) \$\$ (?: [ \t]* \{\#(?P<label>[\w-]+)\} )?
  | ` (?P<code>[^`\n]+) `
  | (?<=\w) (?P<times>\*) (?=\w) | (?P<angle><) (?=[A-Za-z/])
  | \[ (?P<cite>@[^\]]+) \]
  | (?<![\w`/]) @ (?P<ref>[A-Za-z][\w-]*)
""", re.M | re.S | re.X)


def rewrite(
    markdown: str,  # a Markdown cell, docstring or comment
    links: dict[str, str],  # exported names to their full names
    keys: set[str] = frozenset(),  # citation keys
    html: bool = True,  # whether `<name>` is a tag; in comments and docstrings it is a placeholder
) -> str:  # the same in MyST
    "Citations, references, equation labels and links to exported names; headings, code and links stay as they are."
    def replace(m):
        if m["label"]: return f"$${m['equation']}$$ ({m['label']})"
        if full := links.get((m["code"] or "").removesuffix("()")): return f"{{py:obj}}`{m['code']} <{full}>`"
        if m["times"]: return "\\*"  # a product such as h*w, not emphasis
        if m["angle"]: return "<" if html else "\\<"
        if m["cite"]: return "{cite:p}`" + ",".join(k.strip(" @") for k in m["cite"].split(";")) + "`"
        if m["ref"] and m["ref"].startswith("fig-"): return f"{{numref}}`{m['ref']}`"
        if m["ref"] and m["ref"].startswith("eq-"): return f"{{eq}}`{m['ref']}`"
        return f"{{cite:t}}`{m['ref']}`" if m["ref"] in keys else m[0]
    return _PROSE.sub(replace, markdown)


# ------------------------------------------------------------------------------------------------ notebooks

def exports(notebook: dict) -> list[tuple[str, Entry]]:
    "Module and entry of everything that a notebook exports."
    default, found = "", []
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code": continue
        given, code = split_directives(source_of(cell))
        default = given.get("default_exp", default)
        for name in given.keys() & {"export", "exports"}: found += [(given[name] or default, e) for e in entries(code)]
    return found


def link_table(notebooks: list[dict], library: str) -> dict[str, str]:
    "Exported names, with and without their module, to their full names; the first of two equal names wins."
    table = {}
    for module, entry in (x for nb in notebooks for x in exports(nb)):
        for e in (entry, *entry.members):
            for short in (e.name, f"{module}.{e.name}", f"{library}.{module}.{e.name}"):
                table.setdefault(short, f"{library}.{module}.{e.name}")
    return table


def convert(
    notebook: dict,  # a notebook, as JSON
    library: str,  # name of the package
    links: dict[str, str],  # from `link_table`
    keys: set[str] = frozenset(),  # citation keys
) -> dict:  # the notebook that MyST-NB shall see
    "Rewrite the cells of one notebook."
    links = links | link_table([notebook], library)  # its own names first
    module, cells = "", []

    def text(s, html=False): return rewrite(s, links, keys, html)
    def prose(s): cells.append({"cell_type": "markdown", "id": f"cell-{len(cells)}", "metadata": {}, "source": s})

    for cell in notebook["cells"]:
        source = source_of(cell)
        if cell["cell_type"] == "markdown":
            prose(text(re.sub(r"^- skip_\w+:.*\n?", "", source, flags=re.M), html=True))  # without nbdev's settings
        if cell["cell_type"] != "code": continue
        given, code = split_directives(source)
        if "default_exp" in given:
            module = given["default_exp"]
            prose(f"```{{py:module}} {library}.{module}\n```")
        if is_hidden(given): continue
        tags = [*cell["metadata"].get("tags", []), *(TAGS[d] for d in given.items() if d in TAGS)]
        meta = {**cell["metadata"], "tags": tags}
        if exported := next((k for k in ("export", "exports") if k in given), None):
            defined = entries(code, links)
            for e in defined: prose(e.markdown(f"{library}.{given[exported] or module}", text))
            long = any(e.kind == "data" and not e.options for e in defined)  # its entry cannot show the value
            if exported == "export" and not long: continue
            tags.append("hide-input")
        if caption := given.get("fig-cap"):
            meta["mystnb"] = {"figure": {"caption": text(caption)}, "image": {"alt": re.sub(r"[$`*]", "", caption)}}
            if "label" in given: meta["mystnb"]["figure"]["name"] = given["label"]
        if code.strip(): cells.append({**cell, "source": code, "metadata": meta})
    return {**notebook, "cells": cells}


# ------------------------------------------------------------------------------------------------ Sphinx

def toctrees(
    pages,  # names of the documents to place
    groups: list[tuple[str, list[str]]],  # caption and file patterns, in order; a page goes to the first that fits
) -> str:  # Markdown
    "Hidden tables of contents; pages that fit nowhere go under `More`, and a pattern without a page does no harm."
    left, found = sorted(pages), []
    for caption, patterns in [*groups, ("More", ["*"])]:
        chosen = list(dict.fromkeys(p for pattern in patterns for p in left if fnmatch(p, pattern)))
        left = [p for p in left if p not in chosen]
        if chosen: found.append("\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *chosen, "```"]))
    return "\n\n".join(found)


def offer(
    notebook: dict,  # a notebook after `convert`
    docname: str,  # its path below the notebooks' folder, without suffix
    repository: str = "",  # address of the repository; empty where it is not published
    folder: str = "main/nbs",  # branch and folder of the notebooks in it
) -> dict:  # the same with a line under its title and promise
    "Offer the notebook as a file and, where the repository is on GitHub, in Colab."
    links = f"{{download}}`Download this notebook <{docname.split('/')[-1]}.ipynb>`"
    if m := re.fullmatch(r"https?://github\.com/([\w.-]+/[\w.-]+?)(\.git)?/?", repository):
        colab = f"https://colab.research.google.com/github/{m[1]}/blob/{folder}/{docname}.ipynb"
        links += f" · [Open in Colab]({colab}), first cell there: `%pip install git+https://github.com/{m[1]}`"
    first, *rest = notebook["cells"]
    source = re.sub(r"\A# .*\n*(^>.*\n?)*\n*", lambda m: f"{m[0].rstrip()}\n\n:::{{div}} notebook-links\n{links}\n:::\n\n",
                    source_of(first), count=1, flags=re.M)
    return {**notebook, "cells": [{**first, "source": source}, *rest]}


def _scan(app, env, docnames):
    "Collect exported names and citation keys before the first page is read."
    paths = [p for d in sorted(env.found_docs) if (p := Path(env.doc2path(d))).suffix == ".ipynb"]
    links = link_table([json.loads(p.read_text(encoding="utf-8")) for p in paths], app.config.nbdev_library)
    bib = "".join(Path(app.confdir, b).read_text(encoding="utf-8") for b in app.config.bibtex_bibfiles)
    app.nbdev_names = links, set(re.findall(r"@\w+\{([\w:-]+),", bib))


def _read(app, docname, source):
    "Convert a notebook; the start page also gets the tables of contents."
    if Path(app.env.doc2path(docname)).suffix != ".ipynb": return
    notebook = convert(json.loads(source[0]), app.config.nbdev_library, *app.nbdev_names)
    if any(fnmatch(docname, p) for p in app.config.nbdev_downloads):
        notebook = offer(notebook, docname, *app.config.nbdev_repository)
    if docname == app.config.root_doc:
        contents = toctrees(app.env.found_docs - {docname}, app.config.nbdev_groups)
        notebook["cells"].append({"cell_type": "markdown", "id": "contents", "metadata": {}, "source": contents})
    source[0] = json.dumps(notebook)


def _languages(app, doctree):
    "Mark Korean headings and paragraphs, so that they are read out and broken into lines as Korean."
    from docutils import nodes
    for node in doctree.findall(lambda n: isinstance(n, nodes.title | nodes.paragraph | nodes.term | nodes.caption)):
        text = node.astext()
        if len(re.findall("[가-힣]", text)) > len(re.findall("[A-Za-z]", text)): node["classes"].append("language-ko")


def _accessible(app, pagename, templatename, context, doctree):
    "Correct the HTML: levels for the captions of the contents, no lists of something else, no anchor twice."
    if tree := context.get("furo_navigation_tree"):
        context["furo_navigation_tree"] = tree.replace('role="heading"', 'role="heading" aria-level="2"')
    if body := context.get("body"): context["body"] = repaired(body)


def repaired(html: str) -> str:
    "The arguments of a signature and the references as plain blocks; an equation's anchor on the equation only."
    def blocks(m): return '<div class="sig-params">' + re.sub(r"(</?)d[ld]\b", r"\1div", m[1]) + "</div>"
    html = re.sub(r"<dl>(\s*<dd>.*?)</dl>", blocks, html, flags=re.S)
    html = html.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
    return re.sub(r'(<div class="math-wrapper[^"]*") id="([\w-]+)"(>\s*<div class="math[^"]*" id="\2")', r"\1\3", html)


@cache
def _find_source(root: Path, module: str):
    "Source of a module and where each name is in it, without importing it."
    from sphinx.pycode import ModuleAnalyzer
    path = root / (module.replace(".", "/") + ".py")
    if not path.exists(): return None
    analyzer = ModuleAnalyzer.for_string(path.read_text(encoding="utf-8"), module)
    return analyzer.code, analyzer.find_tags()


def setup(app):
    "Register the extension."
    app.add_config_value("nbdev_library", "", "env")
    app.add_config_value("nbdev_groups", [], "env")
    app.connect("env-before-read-docs", _scan)
    app.add_config_value("nbdev_downloads", [], "env")
    app.add_config_value("nbdev_repository", ("", "main/nbs"), "env")
    app.connect("source-read", _read)
    app.connect("doctree-read", _languages)
    app.connect("html-page-context", _accessible, priority=900)  # after the theme's own
    if "sphinx.ext.viewcode" in app.extensions:
        app.connect("viewcode-find-source", lambda app, module: _find_source(Path(app.confdir).parent, module))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
