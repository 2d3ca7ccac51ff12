"""Small faults in masks, losses and comparisons, one at a time: do the tests notice?

usage: python tools/mutants.py [masks losses comparisons]    (none named: all)
       python tools/mutants.py --survivors    (those of the last run that no test noticed)

A mutant is killed when a test fails, and when it takes far more of the processor's time than
without the fault. Tests run until one fails: a few examples of the properties, the notebook's own
cells, all examples, the rest of the tests.
Writes results/reliability/mutants.csv, one mutant a row, and mutants.json with the counts. What a
person wrote into the column `why` about a survivor stays.
"""
import ast
import copy
import csv
import gc
import importlib
import json
import os
import platform
import resource
import subprocess
import sys
from collections import Counter
from importlib.machinery import SourceFileLoader
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "results/reliability"
FIELDS = ("module", "line", "mutation", "killed", "by", "why")
FEW = "a few of "  # before the name of tests: with FSD_FEW_EXAMPLES
TESTS = dict(  # in order; `nbs/` are the code cells of a notebook
    masks=[FEW + "tests/test_properties_masks.py", FEW + "tests/test_properties_losses.py",
           "nbs/04_masks.ipynb", "tests/test_properties_masks.py"],
    losses=[FEW + "tests/test_properties_losses.py", "tests/test_properties_losses.py",
            "nbs/05_losses.ipynb"],
    comparisons=[FEW + "tests/test_properties_comparisons.py", "nbs/12_comparisons.ipynb",
                 "tests/test_properties_comparisons.py"])
PATIENCE = 5  # a mutant that takes as many times longer than no mutant is stuck, and killed
PRELOADED = ("torch", "numpy", "pandas", "scipy.stats", "scipy.io", "cv2", "pycocotools.cocoeval",
             "matplotlib.pyplot", "seaborn", "fastcore.test", "hypothesis.extra.numpy", "pytest")

# ------------------------------------------------------------------------------------- mutants

COMPARE = {ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE),
           ast.GtE: (ast.Gt, ast.Lt), ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,),
           ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,)}
BINARY = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
          ast.Pow: ast.Mult, ast.Mod: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr}
NAMES = dict(min="max", any="all", amax="amin", maximum="minimum", ones_like="zeros_like",
             zeros="ones", zeros_like="ones_like", expm1="exp", sum="mean", cdf="sf")
NAMES |= {b: a for a, b in NAMES.items() if a not in ("expm1",)}


def other_values(node):
    "Constants that a constant is exchanged for."
    if isinstance(node.value, bool):
        return [not node.value]
    if isinstance(node.value, (int, float)):
        more = node.value + 1
        return [more if more != node.value else 2 * node.value]
    return [node.value + "x"] if isinstance(node.value, str) else []


def changes(node):
    "Nodes that a node is exchanged for, one fault each."
    if isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            for other in COMPARE[type(op)]:
                ops = [*node.ops[:i], other(), *node.ops[i + 1:]]
                yield ast.Compare(node.left, ops, node.comparators)
    elif isinstance(node, ast.BinOp) and type(node.op) in BINARY:
        yield ast.BinOp(node.left, BINARY[type(node.op)](), node.right)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.And() if isinstance(node.op, ast.Or) else ast.Or(), node.values)
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.Constant):
        yield from map(ast.Constant, other_values(node))
    elif isinstance(node, ast.If):
        yield ast.If(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
    elif isinstance(node, ast.IfExp):
        yield from (node.body, node.orelse)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield ast.Pass()
    elif isinstance(node, ast.Name) and node.id in NAMES:
        yield ast.Name(NAMES[node.id], node.ctx)
    elif isinstance(node, ast.Attribute) and node.attr in NAMES:
        yield ast.Attribute(node.value, NAMES[node.attr], node.ctx)
    elif isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute) and not node.args and not node.keywords:
            yield node.func.value  # the value without its method
        for i in range(len(node.keywords)):
            yield ast.Call(node.func, node.args, node.keywords[:i] + node.keywords[i + 1:])


def skipped(node, parent, field):
    "Texts for readers, and what is no code: docstrings, messages, annotations, imports."
    docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    message = isinstance(node, (ast.JoinedStr, ast.Raise)) or "warn" in ast.unparse(node)[:13]
    listed = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("__all__", "REMEDY")
    return (docstring or listed or isinstance(node, (ast.Import, ast.ImportFrom))
            or field in ("annotation", "returns") or (message and not isinstance(node, ast.Module)
                                                     and not hasattr(node, "body")))


def places(tree):
    "Every (path to a node, node) that may be changed; a path is fields and positions."
    def walk(node, path):
        for field, value in ast.iter_fields(node):
            several = isinstance(value, list)
            for i, child in enumerate(value if several else [value]):
                if isinstance(child, ast.AST) and not skipped(child, node, field):
                    there = [*path, (field, i if several else None)]
                    yield there, child
                    yield from walk(child, there)
    return walk(tree, [])


def mutants(source):
    "Line, words and tree of every mutant of a module."
    tree, seen = ast.parse(source), Counter()
    for path, node in places(tree):
        for other in changes(node):
            copied = copy.deepcopy(tree)
            parent = copied
            for field, i in path[:-1]:
                parent = getattr(parent, field) if i is None else getattr(parent, field)[i]
            field, i = path[-1]
            if i is None:
                setattr(parent, field, copy.deepcopy(other))
            else:
                getattr(parent, field)[i] = copy.deepcopy(other)
            before, after = (ast.unparse(ast.fix_missing_locations(n)).split("\n")[0]
                             for n in (copy.deepcopy(node), copy.deepcopy(other)))
            words = f"{before} -> {after}"
            seen[node.lineno, words] += 1
            if (n := seen[node.lineno, words]) > 1:  # the same once more on that line
                words += f" ({n})"
            yield node.lineno, words, ast.fix_missing_locations(copied)


# --------------------------------------------------------------------------------------- tests

def run_cells(notebook, module):
    "The cells of a notebook that are not exported, with the names of the module."
    cells = json.loads((ROOT / notebook).read_text(encoding="utf-8"))["cells"]
    names = dict(vars(importlib.import_module(f"fsd_sdpose.{module}")), __name__="__main__")
    os.chdir((ROOT / notebook).parent)
    for cell in cells:
        text = "".join(cell["source"])
        shown = cell["cell_type"] == "code" and "nbdev_export(" not in text
        if shown and not text.startswith(("#| export", "#| default_exp")):
            exec(compile(text, notebook, "exec"), names)


def run_tests(name, module):
    "Whether tests pass."
    if name.startswith("nbs/"):
        run_cells(name, module)
        return True
    import pytest
    os.environ["FSD_FEW_EXAMPLES"] = str(int(name.startswith(FEW)))
    for loaded in [m for m in sys.modules if m == "examples" or m.startswith("test_")]:
        del sys.modules[loaded]
    name = name.removeprefix(FEW)
    quiet = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore", "--tb=no",
             "--assert=plain"]
    return pytest.main([*quiet, str(ROOT / name)]) == 0


def child(names, module, tree, report, limit):
    "In a process of its own: the name of the first tests that fail is written to `report`."
    if limit:
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    original = SourceFileLoader.get_code

    def get_code(loader, name):
        if tree is not None and name == f"fsd_sdpose.{module}":
            return compile(tree, loader.path, "exec")
        return original(loader, name)

    SourceFileLoader.get_code = get_code
    for name in names:
        try:
            passed = run_tests(name, module)
        except BaseException:
            passed = False
        if not passed:
            os.write(report, name.encode())
            break
    os._exit(0)


def first_failure(names, module, tree=None, limit=None):
    "The first tests that fail, 'time' where the limit ends them, '' where all pass; and seconds."
    read, report = os.pipe()
    if not (process := os.fork()):
        child(names, module, tree, report, limit)
    os.close(report)
    with os.fdopen(read) as file:
        failed = file.read()
    _, status, used = os.wait4(process, 0)
    return failed or ("time" if status else ""), used.ru_utime + used.ru_stime


# -------------------------------------------------------------------------------------- record

def load():
    "The rows of the last run by module, line and mutation."
    if not (OUT / "mutants.csv").exists():
        return {}
    with open(OUT / "mutants.csv", encoding="utf-8", newline="") as file:
        rows = [dict(r, line=int(r["line"])) for r in csv.DictReader(file)]
    return {(r["module"], r["line"], r["mutation"]): r for r in rows}


def save(rows):
    from fsd_sdpose.files import replacing, write_json
    rows = sorted(rows, key=lambda r: (list(TESTS).index(r["module"]), r["line"], r["mutation"]))
    with replacing(OUT / "mutants.csv") as part, open(part, "w", encoding="utf-8", newline="") as f:
        table = csv.DictWriter(f, FIELDS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    counts = {m: dict(mutants=len(own), killed=sum(r["killed"] == "yes" for r in own))
              for m in TESTS if (own := [r for r in rows if r["module"] == m])}
    git = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    killed, total = (sum(c[k] for c in counts.values()) for k in ("killed", "mutants"))
    write_json(OUT / "mutants.json", dict(
        what="small faults that the tests notice", command="make mutants", commit=commit,
        versions=dict(python=platform.python_version(),
                      **{p: version(p) for p in ("torch", "numpy", "pytest", "hypothesis")}),
        tests=TESTS, killed_by=dict(Counter(r["by"] for r in rows if r["by"])), **counts,
        mutants=total, killed=killed, share=round(killed / max(total, 1), 4)), indent=1)
    print(f"{killed} of {total} mutants killed ({killed / max(total, 1):.1%})")


def main(arguments):
    only_survivors, modules = "--survivors" in arguments, [a for a in arguments if a[0] != "-"]
    if unknown := set(modules) - set(TESTS) | set(arguments) - {"--survivors", *modules}:
        sys.exit(f"unknown {', '.join(sorted(unknown))}; known: {', '.join(TESTS)}, --survivors")
    os.environ |= dict(MPLBACKEND="Agg", OMP_NUM_THREADS="1")
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    for name in PRELOADED:  # not the library, of which every mutant loads its own
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a child need not look at them, nor copy them
    before, rows = load(), {}
    for module in modules or TESTS:
        source = (ROOT / f"fsd_sdpose/{module}.py").read_text(encoding="utf-8")
        failed, seconds = first_failure(TESTS[module], module)
        if failed:
            sys.exit(f"{failed} fails without any mutant; make it pass first")
        limit = int(PATIENCE * seconds) + 1
        print(f"{module}: {seconds:.0f} s without a mutant", flush=True)
        for line, words, tree in mutants(source):
            old = before.get((module, line, words), {})
            row = dict(module=module, line=line, mutation=words, why=old.get("why", ""))
            if only_survivors and old.get("killed") == "yes":
                by = old["by"]
            else:
                by, _ = first_failure(TESTS[module], module, tree, limit)
                print(f"{module}:{line}: {words}: {by or 'SURVIVES'}", flush=True)
            row |= dict(killed="yes" if by else "no", by=by, why="" if by else row["why"])
            rows[module, line, words] = row
    kept = {k: r for k, r in before.items() if modules and r["module"] not in modules}
    save([*kept.values(), *rows.values()])


if __name__ == "__main__":
    main(sys.argv[1:])
