"""What the workflow is to run: settings from --config in, jobs and their parameters out."""
import ast
import hashlib
import json
import os
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

import yaml

from fsd_sdpose.experiments import cache_folder, resolve
from fsd_sdpose.files import known, parse_value
from fsd_sdpose.studies import STUDIES, SWEEPS, guide_methods, run_folder

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = ROOT / "nbs/experiments/_method.ipynb"
TABLE = ROOT / "nbs/experiments/ap_table.ipynb"
SETTINGS = ("study", "methods", "seeds", "sweeps", "results", "threads", "overrides", "scratch")


def words(value) -> list:
    "A list of names, from a list or from a text with spaces or commas; None is empty."
    if isinstance(value, (list, tuple)):
        return list(value)
    return str("" if value is None else value).replace(",", " ").split()


def typed(value):
    "Values of --config, which come as texts: '24' is a number, 'true' a truth value."
    if isinstance(value, dict):
        return {k: typed(v) for k, v in value.items()}
    if isinstance(value, list):
        return [typed(v) for v in value]
    return parse_value(value) if isinstance(value, str) else value


def folder(name: str, value) -> Path:
    "The path of a setting; raises `ValueError` where snakemake would read it as a pattern."
    if not (text := str(value)) or set(text) & set("{}\n"):
        raise ValueError(f"{name} is {text!r}: name a folder without braces and line breaks, "
                         "as snakemake reads braces as a pattern")
    return Path(text)


def whole_number(name: str, value) -> int:
    "A count of at least 1, from --config; raises `ValueError` for anything else."
    number = parse_value(str(value))
    if type(number) is not int or number < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
    return number


def short_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def code_digest(text: str) -> str:
    "Digest of what Python would execute: comments, layout and docstrings do not count."
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            node.body = [s for s in body if not (isinstance(s, ast.Expr)
                                                 and isinstance(s.value, ast.Constant))]
    return short_digest(ast.dump(tree))


def notebook_digest(path: Path) -> str:
    "Digest of a notebook's code; its outputs and prose do not count."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    return code_digest("\n".join(code))


def takes(path: Path, parameter: str) -> bool:
    "Whether a notebook has a parameter, in its cell with papermill's tag."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    source = ["".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", [])]
    return any(line.startswith(f"{parameter}:") for line in "\n".join(source).splitlines())


def library_digest() -> str:
    "Digest of the modules that a run uses."
    files = sorted(m.__file__ for name, m in sys.modules.items()
                   if name.startswith("fsd_sdpose") and getattr(m, "__file__", None))
    return short_digest("".join(code_digest(Path(f).read_text(encoding="utf-8")) for f in files))


def as_yaml(values: dict) -> str:
    "Parameters of a notebook. (JSON would not do: YAML reads 2e-06 as a text.)"
    plain = json.loads(json.dumps(values))
    return yaml.safe_dump(plain, default_flow_style=True, width=10**9).strip()


def from_root(path) -> str:
    "A path as the notebooks see it: they run in the repository."
    return os.path.relpath(path, ROOT)


@dataclass
class Run:
    "One job: a method and a seed, checked before anything starts."
    method: str
    seed: int
    overrides: dict
    key: str  # of the data that it needs
    data: dict  # the overrides that decide the data
    start: str  # digest of the shared start
    resumes: bool  # whether it keeps states that a stopped run goes on from


@dataclass
class Grid:
    "All jobs of a call; raises `ValueError` or `TypeError` for settings that make no sense."
    config: dict
    runs: dict[str, Run] = field(default_factory=dict)  # by folder under <results>/<study>
    asked: dict = field(default_factory=lambda: dict(runs=[], sweeps=[]))  # folders by target

    def __post_init__(self):
        config = self.config
        for name in config:
            known(name, SETTINGS, "setting of the workflow")
        self.study = str(config.get("study", "demo"))
        row = STUDIES[known(self.study, STUDIES, "study")]
        self.results = folder("results", config.get("results", "results"))
        self.scratch = folder("scratch", config.get("scratch", "_runs"))
        self.threads = whole_number("threads", config.get("threads", 1))
        self.cache = folder("FSD_CACHE", cache_folder())
        self.overrides = typed(config.get("overrides") or {})
        if self.overrides and self.results.resolve() == ROOT / "results":
            raise ValueError("runs with overrides are not the study's own: "
                             "name another folder with results=FOLDER")
        methods = words(config.get("methods")) or row.methods
        methods = guide_methods() if methods == ["guide"] else methods
        seeds = [parse_value(s) for s in words(config.get("seeds"))] or range(row.seeds)
        sweeps = words(config.get("sweeps"))
        for seed in seeds:
            for method in methods:
                self.add("runs", method, seed)
            for sweep in SWEEPS if sweeps == ["all"] else sweeps:
                self.add_sweep(sweep, seed)
        self.library = library_digest()
        self.data = {run.key: run.data for run in self.runs.values()}

    def add_sweep(self, sweep, seed):
        "The points of a sweep, and the baseline that they are compared with."
        self.add("sweeps", "baseline", seed)
        for p in SWEEPS[known(sweep, SWEEPS, "sweep")].points:
            self.add("sweeps", p.method, seed, p.overrides, sweep, p.label)

    def add(self, target, method, seed, overrides=None, sweep="", label=""):
        "One run, once, however many targets ask for it."
        folder = run_folder("", self.study, method, seed, sweep, label)
        folder = folder.relative_to(self.study).as_posix()
        self.runs[folder] = self.planned(method, seed, {**self.overrides, **(overrides or {})})
        if folder not in self.asked[target]:
            self.asked[target].append(folder)

    def planned(self, method, seed, overrides) -> Run:
        study, config = resolve(self.study, method, seed, overrides)
        fields = {*asdict(study), "variant"}
        data = {k: v for k, v in overrides.items() if k.partition(".")[0] in fields}
        skipped = ("about", "settings", "start", "methods", "seeds")
        decides = {k: v for k, v in asdict(study).items() if k not in skipped}
        text = json.dumps(decides | dict(variant=config.variant), sort_keys=True)
        start = ROOT / f"fsd_sdpose/starts/{study.start}.safetensors"
        digest = hashlib.sha256(start.read_bytes()).hexdigest() if start.exists() else ""
        key = f"{self.study}-{short_digest(text)[:12]}"
        resumes = config.save_every > 0 and takes(TEMPLATE, "resume")
        return Run(method, seed, overrides, key, data, digest[:16], resumes)

    def records(self, target) -> list[str]:
        "The records that a target asks for."
        here = f"{self.results}/{self.study}"
        return [f"{here}/{folder}/record.json" for folder in self.asked[target]]

    def parameters(self, folder) -> str:
        "Parameters of a run's notebook."
        run = self.runs[folder]
        out = from_root(self.results / self.study / folder)
        resume = dict(resume=True) if run.resumes else {}
        return as_yaml(dict(study=self.study, method=run.method, seed=run.seed,
                            overrides=run.overrides, out=out) | resume)

    def code(self, folder) -> str:
        "Digest of all code that a run depends on."
        return f"{self.library} {notebook_digest(TEMPLATE)} {self.runs[folder].start}"

    def marker(self, folder) -> str | None:
        """The file that says that a run's data is prepared.

        None if a record is there already and the marker is not: to make it again, on another
        computer, would be a reason to repeat the run.
        """
        path = f"{self.cache}/prepared-{self.runs[folder].key}"
        done = (self.results / self.study / folder / "record.json").exists()
        return path if os.path.exists(path) or not done else None
