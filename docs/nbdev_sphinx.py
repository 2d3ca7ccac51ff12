"""A bridge from nbdev notebooks to MyST-NB: rewrites each notebook before Sphinx parses it.

* Hidden, export and bookkeeping cells go. What an export cell defines becomes API documentation:
  signature, docstring, and the comment behind each argument or field. No code is imported.
* `#| label` and `#| fig-cap` make numbered figures; `[@key]`, `@fig-x`, `@eq-x` and
  `$$ ... $$ {#eq-x}` become citations, references and numbered equations; names link to symbols.
* The start page gets the tables of contents, grouped by `nbdev_groups`; pages in
  `nbdev_downloads` offer their notebook.
* What Sphinx and the theme write is corrected where screen readers and keyboards would stumble.
"""
from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from dataclasses import dataclass, field
from fnmatch import filter as matching
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from docutils import nodes
from nbformat.v4 import new_markdown_cell, reads
from sphinx.pycode import ModuleAnalyzer

HIDDEN = {"hide", "default_exp", "exporti"}  # directives whose cells no reader sees
TAGS = {("echo", "false"): "remove-input", ("output", "false"): "remove-output",
        ("code-fold", "true"): "hide-input"}  # directives that MyST-NB has a tag for
_DIRECTIVE = re.compile(r"^[ \t]*#[ \t]*\|[ \t]*([\w-]+)[ \t]*:?[ \t]*(.*?)[ \t]*$", re.M)


def split_directives(
    source: str,  # source of a code cell
) -> tuple[dict[str, str], str]:  # directives, name to argument, and the code without them
    "Separate the leading `#| name argument` and `#| name: value` lines of a cell from its code."
    head = re.match(r"(\s*#[ \t]*\|.*)*\s*", source)[0]
    lines = re.sub(r"\n#\|[ \t]{2,}", " ", head)  # a long value goes on where a line is indented
    directives = {name: value.strip("\"'") for name, value in _DIRECTIVE.findall(lines)}
    return directives, source.removeprefix(head).rstrip("\n")


def is_hidden(directives: dict) -> bool:
    "Whether a code cell with these directives is kept from the reader."
    return bool(HIDDEN & directives.keys()) or directives.get("include") == "false"


# ------------------------------------------------------------------------------------- API entries

@dataclass
class Entry:
    "One documented name, as a directive of Sphinx's Python domain."
    kind: str  # function, class, method, property, ... or data
    name: str  # name within its module, `Class.method` for a member
    signature: str = ""  # "(a: int = 1) -> str"; empty for data
    options: list[str] = field(default_factory=list)  # options of the directive, ":type: int"
    doc: str = ""  # docstring
    fields: dict[str, str] = field(default_factory=dict)  # "param int a" and "returns" to comments
    members: list[Entry] = field(default_factory=list)  # methods and properties of a class

    def markdown(self, module: str, text=lambda s: s, fence: str = "``````") -> str:
        "The directive in MyST; `text` rewrites the prose in it."
        head = f"{fence}{{py:{self.kind}}} {self.name}{self.signature}\n:module: {module}"
        fields = [f":{name}: {text(note)}" for name, note in self.fields.items() if name and note]
        members = [m.markdown(module, text, fence[1:]) for m in self.members]
        parts = [head, *self.options, "", text(self.doc), "", *fields, "", *members, fence]
        return "\n".join(parts)


def _text(node) -> str:
    return ast.unparse(node or [])


def _function(node, comments: dict[int, str], owner: str = "") -> Entry:
    "Entry of a function or, where it has an `owner`, of a method."
    marks = {_text(d).split(".")[-1] for d in node.decorator_list}
    if owner and "staticmethod" not in marks:
        del (node.args.posonlyargs or node.args.args)[:1]
    arguments = [a for a in ast.iter_child_nodes(node.args) if isinstance(a, ast.arg)]
    owners = {node.lineno: "", node.body[0].lineno - 1: "returns"}  # of comments, from a line on
    owners |= {a.lineno: f"param {_text(a.annotation)} {a.arg}" for a in arguments}
    if node.returns:
        owners[node.returns.lineno] = "returns"
    header = sorted(comments.keys() & range(node.lineno, node.body[0].lineno))
    fields = {owners[max(owners.keys() & range(n + 1))]: comments[n] for n in header}
    kind, signature = "method" if owner else "function", f"({_text(node.args)})"
    options = [f":{mark}:" for mark in marks & {"classmethod", "staticmethod"}]
    if marks & {"property", "cached_property"}:
        kind, signature = "property", ""
        options = [f":type: {json.dumps(_text(node.returns))}"] if node.returns else []
    elif node.returns:
        signature += f" -> {_text(node.returns)}"
    return Entry(kind, f"{owner}.{node.name}".lstrip("."), signature, options,
                 ast.get_docstring(node) or "", fields)


def _class(node, comments: dict[int, str]) -> Entry:
    "Entry of a class: its arguments are those of `__init__` or, without one, its annotated fields."
    entry, methods = Entry("class", node.name, doc=ast.get_docstring(node) or ""), {}
    for f in node.body:
        if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef):  # a property before its setter
            methods.setdefault(f.name, _function(f, comments, node.name))
    fields = [f for f in node.body
              if isinstance(f, ast.AnnAssign) and not _text(f.target).startswith("_")]
    if init := methods.pop("__init__", None):
        entry.signature, entry.fields = init.signature.removesuffix(" -> None"), init.fields
    elif fields:
        entry.fields = {f"param {_text(f.annotation)} {_text(f.target)}":
                        comments.get(f.end_lineno, "") for f in fields}
        arguments = (f"{_text(f.target)}: {_text(f.annotation)}{_default(f.value)}" for f in fields)
        entry.signature = f"({', '.join(arguments)})"
    entry.members = [m for name, m in methods.items()
                     if m.doc and (not name.startswith("_") or name == "__call__")]
    return entry


def _default(value) -> str:
    "Default of a dataclass field as a call would write it."
    text = _text(value)
    if factory := re.fullmatch(r"field\(default_factory=(.*)\)", text):
        text = "..." if factory[1].startswith("lambda") else f"{factory[1]}()"
    return f" = {text}" if text else ""


def _constants(node, comments: dict[int, str]) -> list[Entry]:
    "Entries of the names that an assignment defines, with their value where it is short."
    value = json.dumps(_text(node.value))
    options = [f":value: {value}"] if len(value) < 60 else []
    doc = comments.get(node.lineno) or comments.get(node.end_lineno, "")
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [Entry("data", t.id, "", options, doc) for t in targets if isinstance(t, ast.Name)]


def entries(
    code: str,  # code of an export cell
) -> list[Entry]:  # one per public function, class and constant, in order
    "What a cell defines for the library's users."
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    comments = {t.start[0]: re.sub(r"#?\s*\bnoqa\b.*", "", t.string.lstrip("# ")).strip()
                for t in tokens if t.type == tokenize.COMMENT}
    tree, found = ast.parse(code), []
    for node in ast.walk(tree):  # annotations lose their quotes
        for name in ("annotation", "returns"):
            quoted = getattr(node, name, None)
            if isinstance(quoted, ast.Constant) and isinstance(quoted.value, str):
                setattr(node, name, ast.copy_location(ast.Name(quoted.value), quoted))
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            found += _constants(node, comments)
        elif isinstance(node, ast.ClassDef):
            found.append(_class(node, comments))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.append(_function(node, comments))
    return [entry for entry in found if not entry.name.startswith("_")]


# ------------------------------------------------------------------------------------------- prose

_PROSE = re.compile(r"""
    ^(?P<fence>`{3,}|~{3,}).*?^(?P=fence)\s*?$ | ^\#+\s.*?$  # kept: code blocks, headings,
  | \{[\w:-]+\}`[^`]+` | ``.+?`` | !?\[[^\]]*\]\([^)]*\)     # roles, code, links,
  | (?<!\$)\$[^$\n]+\$(?!\$)                                 # formulas
  | \$\$ (?P<equation>.*?) \$\$ (?: [ \t]* \{\#(?P<label>[\w-]+)\} )?
  | ` (?P<name>[A-Za-z_][\w.]*(?:\(\))?) ` | `[^`\n]+`
  | (?<=\w) (?P<times>\*) (?=\w) | (?P<angle><) (?=[A-Za-z/])
  | \[ (?P<cite>@[^\]]+) \]
  | (?<![\w`/]) @ (?P<ref>[A-Za-z][\w-]*)
""", re.M | re.S | re.X)
_ROLES = {"fig-": "numref", "eq-": "eq"}  # how a label begins, to the role that refers to it


def rewrite(
    markdown: str,  # a Markdown cell, docstring or comment
    keys=frozenset(),  # citation keys
    html: bool = True,  # whether `<name>` is a tag; in comments and docstrings it is a placeholder
) -> str:  # the same in MyST
    "Citations, references, equation labels and names of symbols; the rest stays as it is."
    def replace(match):
        kind = match.lastgroup
        content = match[kind or 0]
        role = _ROLES.get(content[:content.find("-") + 1], "cite:t")
        if kind == "label":
            return f"$${match['equation']}$$ ({content})"
        if kind == "cite":
            return "{cite:p}`" + ",".join(k.strip(" @") for k in content.split(";")) + "`"
        if kind == "name":
            return f"{{py:obj}}`{content}`"
        if kind == "ref" and (role != "cite:t" or content in keys):
            return f"{{{role}}}`{content}`"
        if kind == "times" or kind == "angle" and not html:  # h*w is a product, not emphasis
            return f"\\{content}"
        return match[0]
    return _PROSE.sub(replace, markdown)


# --------------------------------------------------------------------------------------- notebooks

def _shown(cell: dict, directives: dict[str, str], code: str, text) -> dict:
    "A code cell whose directives have become tags, and the caption of its figure."
    tags = [*cell["metadata"].get("tags", []), *(TAGS[d] for d in directives.items() if d in TAGS)]
    if "export" in directives:  # `exports` is what a reader should see
        tags.append("hide-input")
    metadata = cell["metadata"] | {"tags": tags}
    if caption := directives.get("fig-cap"):
        figure = {"caption": text(caption)}
        if "label" in directives:
            figure["name"] = directives["label"]
        alt = re.sub(r"[$`*]", "", directives.get("fig-alt", caption))
        metadata["mystnb"] = {"figure": figure, "image": {"alt": alt}}
    return cell | {"source": code, "metadata": metadata}


def convert(
    notebook: dict,  # a notebook, the source of each cell as one text
    library: str,  # name of the package
    keys=frozenset(),  # citation keys
) -> dict:  # the notebook that MyST-NB shall see
    "Rewrite the cells of one notebook."
    text = partial(rewrite, keys=keys, html=False)
    module, cells = "", []
    for cell in notebook["cells"]:
        directives, code = split_directives(cell["source"])
        if cell["cell_type"] == "markdown":
            cells.append(new_markdown_cell(rewrite(cell["source"], keys)))
        elif "default_exp" in directives:
            module = directives["default_exp"]
            cells.append(new_markdown_cell(f"```{{py:module}} {library}.{module}\n```"))
        elif cell["cell_type"] == "code" and not is_hidden(directives):
            exported = directives.get("export", directives.get("exports"))
            defined = [] if exported is None else entries(code)
            cells += [new_markdown_cell(entry.markdown(f"{library}.{exported or module}", text))
                      for entry in defined]
            too_long = any(e.kind == "data" and not e.options for e in defined)  # for its entry
            if code.strip() and ("export" not in directives or too_long):
                cells.append(_shown(cell, directives, code, text))
    return notebook | {"cells": cells}


def offer(
    notebook: dict,  # a notebook after `convert`
    docname: str,  # its path below the notebooks' folder, without suffix
    repository: str = "",  # address of the repository; empty where it is not published
    folder: str = "main/nbs",  # branch and folder of the notebooks in it
) -> dict:  # the same with a line under its title and promise
    "Offer the notebook as a file and, where the repository is on GitHub, in Colab."
    links = f"{{download}}`Download this notebook <{docname.split('/')[-1]}.ipynb>`"
    if github := re.fullmatch(r"https?://github\.com/([\w.-]+/[\w.-]+?)(\.git)?/?", repository):
        place = f"{github[1]}/blob/{folder}/{docname}.ipynb"
        colab = f"https://colab.research.google.com/github/{place}"
        install = f"%pip install git+https://github.com/{github[1]}"
        links += f" · [Open in Colab]({colab}), first cell there: `{install}`"
    first, *rest = notebook["cells"]
    promise = re.match(r"# .*\n*(>.*\n?)*", first["source"])[0].rstrip()
    block = f"{promise}\n\n```{{container}} notebook-links\n{links}\n```"
    source = first["source"].replace(promise, block, 1)
    return notebook | {"cells": [first | {"source": source}, *rest]}


# ------------------------------------------------------------------------------------------ Sphinx

def toctrees(
    pages,  # names of the documents to place
    groups: list[tuple[str, list[str]]],  # caption and patterns; a page goes to the first that fits
) -> str:  # Markdown
    "Hidden tables of contents; pages that fit nowhere go under `More`."
    left, found = sorted(pages), []
    for caption, patterns in [*groups, ("More", ["*"])]:
        chosen = list(dict.fromkeys(p for pattern in patterns for p in matching(left, pattern)))
        left = [p for p in left if p not in chosen]
        if chosen:
            names = "\n".join(chosen)
            found.append(f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{names}\n```")
    return "\n\n".join(found)


def _read(app, docname, source):
    "Convert a notebook; the start page also gets the tables of contents."
    if Path(app.env.doc2path(docname)).suffix != ".ipynb":
        return
    keys = app.env.get_domain("cite").bibdata.data.entries
    notebook = convert(reads(source[0]), app.config.nbdev_library, keys)
    if any(fnmatch(docname, pattern) for pattern in app.config.nbdev_downloads):
        notebook = offer(notebook, docname, *app.config.nbdev_repository)
    if docname == app.config.root_doc:
        contents = toctrees(app.env.found_docs - {docname}, app.config.nbdev_groups)
        notebook["cells"].append(new_markdown_cell(contents))
    source[0] = json.dumps(notebook)


def _resolve(app, env, node, content):
    "A short name leads to the exported symbol; other words in backticks are just code."
    python, name = env.domains.python_domain, node["reftarget"].removesuffix("()")
    full = next((f"{m}.{name}" for m in python.modules if f"{m}.{name}" in python.objects), "")
    if node["refdomain"] == "py" and full:
        return python.resolve_xref(env, node["refdoc"], app.builder, "obj", full, node, content)
    if node["refdomain"] == "py" and isinstance(content, nodes.literal):
        return nodes.literal(content.astext(), content.astext())


def _languages(app, doctree):
    "Mark Korean headings and paragraphs, so that they are read out and broken as Korean."
    kinds = nodes.title | nodes.paragraph | nodes.term | nodes.caption
    for node in doctree.findall(lambda node: isinstance(node, kinds)):
        text = node.astext()
        if len(re.findall("[가-힣]", text)) > len(re.findall("[A-Za-z]", text)):
            node["classes"].append("language-ko")


def _accessible(app, pagename, templatename, context, doctree):
    "Correct the HTML: levels for the captions of the contents, and what `repaired` does."
    tree, level = context.get("furo_navigation_tree", ""), 'role="heading" aria-level="2"'
    context["furo_navigation_tree"] = tree.replace('role="heading"', level)
    if "body" in context:
        context["body"] = repaired(context["body"])


def repaired(html: str) -> str:
    "The arguments of signatures and the references as plain blocks; equations with one anchor."
    def blocks(match):
        return '<div class="sig-params">' + re.sub(r"(</?)d[ld]\b", r"\1div", match[1]) + "</div>"
    html = re.sub(r"<dl>(\s*<dd>.*?)</dl>", blocks, html, flags=re.S)
    html = html.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
    twice = r'(<div class="math-wrapper[^"]*") id="([\w-]+)"(>\s*<div class="math[^"]*" id="\2")'
    return re.sub(twice, r"\1\3", html)


def _find_source(app, module: str):
    "Source of a module and where each name is in it, without importing it."
    path = Path(app.confdir).parent / (module.replace(".", "/") + ".py")
    if path.exists():
        analyzer = ModuleAnalyzer.for_file(path, module)
        return analyzer.code, analyzer.find_tags()


def setup(app):
    "Register the extension."
    defaults = {"library": "", "groups": [], "downloads": [], "repository": ("", "main/nbs")}
    for name, default in defaults.items():
        app.add_config_value(f"nbdev_{name}", default, "env")
    app.connect("source-read", _read)
    app.connect("doctree-read", _languages)
    app.connect("missing-reference", _resolve)
    app.connect("html-page-context", _accessible, priority=900)  # after the theme's own
    app.setup_extension("sphinx.ext.viewcode")
    app.connect("viewcode-find-source", _find_source)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
