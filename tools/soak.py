"""Kill runs, spoil their files, and compare what comes out with an undisturbed run: `make soak`.

usage: python tools/soak.py [--only TEXT] [--out results/reliability]

Every case is a run of its own in processes of its own. The figures go to soak.csv (one row per
case) and soak.json (command, commit, versions, device).
"""
import argparse
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pandas as pd

from fsd_sdpose.checkpoints import CHECKPOINTS, LOCK
from fsd_sdpose.files import read_json, sha256, write_csv, write_json

SETTINGS = dict(epochs=2, train_images=40, val_images=12, batch_size=16, warmup_steps=2,
                val_every=1, save_every=1, scene=dict(size=[128, 96], people=1))
FILES = ("resume.pt", "resume-before.pt", "best.safetensors", "last.safetensors", "results.json",
         "history.csv", "draws.csv", "record.json")  # in the order in which a run writes them
MOMENTS = ("half", "before", "after")  # half of a file written, all of it, moved to its place
STEPS = ("data", "validate 1", "step 1", "step 2", "validate 2", "step 3", "validate 3", "probe",
         "remove")
SIGNALS = ("KILL", "TERM", "INT")
TIMES = ("started", "seconds", "peak_memory_mb", "sittings")  # what may differ in a record
ENV = os.environ | dict(OMP_NUM_THREADS="1")
WAIT = 1800  # seconds after which a process counts as stuck, on a busy machine too


@dataclass
class Ended:
    "How a process ended."
    status: int
    lines: list[str]  # on standard error, but for warnings
    epoch: int | None = None  # after which it went on, 0: from the beginning; None: not resumed


def run(folder, *, point="", sent="", settings=None, method="fsd_adaptive", **options) -> Ended:
    "One run in a process of its own, killed by a signal at a point, with what it said."
    task = dict(folder=str(folder), point=point, sent=sent, method=method, options=options,
                settings=SETTINGS | (settings or {}))
    done = subprocess.run([sys.executable, __file__, "--child", json.dumps(task)], env=ENV,
                          timeout=WAIT, capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if "Warning" not in line]
    went_on = re.search(r"going on after epoch (\d+)|starts from the beginning", done.stdout)
    return Ended(done.returncode, lines, went_on and int(went_on[1] or 0))


def child(folder, point, sent, method, settings, options):
    "The process of `run`."
    import fsd_sdpose.cli as cli
    from fsd_sdpose.experiments import run_experiment
    limit = options.pop("limit", None)  # bytes that a file may have
    if point:
        set_trap(point, getattr(signal, f"SIG{sent}"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job would ignore it
    if limit:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        run_experiment("demo", method, 0, settings, out=folder, show=False, **options)
    except cli.EXPECTED as e:
        sys.exit(f"refused: {' '.join(str(e).split())}")
    except KeyboardInterrupt:
        sys.exit(130)


def set_trap(point, sent):
    "Make this process send itself a signal at a point, once."
    what, _, name = point.partition(" ")
    hit = lambda: os.kill(os.getpid(), sent)  # noqa: E731
    if what in MOMENTS:
        replace, (name, _, nth) = os.replace, name.partition("#")
        seen = []
        def replacing(source, target):
            is_it = Path(target).name == name
            seen.extend([name] * is_it)
            is_it = is_it and len(seen) == int(nth or 1)
            if is_it and what == "half":
                os.truncate(source, os.path.getsize(source) // 2)
            if is_it and what != "after":
                hit()
            replace(source, target)
            if is_it and what == "after":
                hit()
        os.replace = replacing
        return
    from fsd_sdpose import experiments, training
    module, function = dict(
        data=(experiments, "study_sets"), validate=(training, "predict"),
        step=(training, "train_step"), probe=(experiments, "probe"),
        remove=(experiments, "remove_checkpoints"))[what]
    original, calls = getattr(module, function), []
    def trapped(*args, **kwargs):
        calls.append(1)
        if len(calls) == int(name or 1):
            hit()
        return original(*args, **kwargs)
    setattr(module, function, trapped)


def differences(folder, reference) -> str:
    "The files in which a run differs from an undisturbed one; empty if in none."
    differ = []
    records = [read_json(Path(f, "record.json")) for f in (folder, reference)]
    a, b = (json.dumps({k: v for k, v in r.items() if k not in TIMES}) for r in records)
    differ += ["record.json"] * (a != b)
    tables = [pd.read_csv(Path(f, "history.csv")) for f in (folder, reference)]
    a, b = (t.drop(columns="seconds").to_csv() for t in tables)
    differ += ["history.csv"] * (a != b)
    for name in ("results.json", "draws.csv"):
        differ += [name] * (sha256(Path(folder, name)) != sha256(Path(reference, name)))
    return " ".join(differ)


def names(folder) -> list[str]:
    return sorted(p.name for p in Path(folder).iterdir()) if Path(folder).exists() else []


def digests(folder) -> dict:
    return {name: sha256(Path(folder, name)) for name in names(folder)}


def cases():
    "Points and signals of the kills: every file at every moment, every step with every signal."
    sent = {"half": "KILL", "before": "INT", "after": "TERM"}
    files = [f"{moment} {name}{nth}" for name in FILES for moment in MOMENTS
             for nth in (("", "#2") if name in FILES[:1] + FILES[3:4] else ("",))]
    files.remove("half resume-before.pt")  # is never written, only renamed
    found = [(point, sent[point.partition(" ")[0]]) for point in files]
    return found + [(step, s) for step in STEPS for s in SIGNALS]


def kill(point, sent, reference, scratch) -> dict:
    "Kill a run, resume it, and compare."
    folder = Path(scratch, f"{point} {sent}".replace(" ", "-"))
    ended = run(folder, point=point, sent=sent)
    left = [re.sub(r"(\.[a-z-]+\.[a-z]+)\..+\.part$", r"\1.part", name) for name in names(folder)]
    again = run(folder, resume=True)
    differ = differences(folder, reference) if again.status == 0 else str(again.lines[-1:])
    stray = set(names(folder)) - set(names(reference))
    if "record.json" in left:  # the run was done, and is left as it is
        stray -= {*CHECKPOINTS, LOCK}
    return dict(kind="kill", case=point, signal=sent, status=ended.status, left=" ".join(left),
                resumed_after=again.epoch, ok=ended.status != 0 and not differ and not stray,
                found=differ or "equal to the undisturbed run")


def refused(case, ended, text, kept=True) -> dict:
    "A run that must not work: one line that says why, and nothing lost."
    line = ended.lines[-1] if ended.lines else ""
    ok = ended.status == 1 and len(ended.lines) == 1 and text in line and kept
    return dict(kind="refusal", case=case, status=ended.status, ok=ok, found=line[:160])


def refusals(reference, scratch):
    "Requests that would lose or mix something."
    before = digests(reference)
    def same(): return digests(reference) == before
    again = run(reference, resume=True)
    yield dict(kind="refusal", case="resume a finished run", status=again.status,
               ok=again.status == 0 and same(),
               found="every file as it was" if same() else "files have changed")
    yield refused("start on a finished run", run(reference), "holds a record already", same())
    stopped = Path(scratch, "stopped")
    run(stopped, point="step 3", sent="KILL")
    state = digests(stopped)
    for name, change, text in (
            ("other pictures", {"scene.occlusion": 0.9}, "scene.occlusion was"),
            ("other start", dict(start=""), "start was"),
            ("other validation set", dict(val_images=16), "val_images was"),
            ("other learning rate", dict(lr=1e-4), "lr was")):
        ended = run(stopped, settings=change, resume=True)
        kept = {k: v for k, v in digests(stopped).items() if k != ".lock"}
        yield refused(f"resume with {name}", ended, text,
                      kept == {k: v for k, v in state.items() if k != ".lock"})
    ended = run(stopped, method="baseline", resume=True)
    yield refused("resume with another method", ended, "method was")
    yield refused("a folder that cannot be made", run("/proc/nowhere"), "/proc/nowhere")
    file = Path(scratch, "a file")
    file.touch()
    yield refused("a file in place of the folder", run(file), "is a file")


def faults(reference, scratch):
    "Spoiled states, full disks, two processes at once, interrupts with loader processes."
    for damage in ("cut", "bit", "empty"):
        folder = Path(scratch, f"state-{damage}")
        run(folder, point="before last.safetensors#2", sent="KILL")
        run(folder, point="after resume.pt", sent="KILL", resume=True)
        spoil(folder / "resume.pt", damage)
        yield recovered(f"last state damaged ({damage})", folder, reference)
    for limit in (10_000, 100_000, 1_000_000):
        folder = Path(scratch, f"disk-{limit}")
        ended = run(folder, limit=limit)
        one_line = ended.status == 1 and len(ended.lines) == 1 and "cannot be written" in str(ended)
        row = recovered(f"files limited to {limit} bytes", folder, reference)
        yield row | dict(status=ended.status, ok=row["ok"] and one_line)
    yield two_at_once(reference, scratch)
    for nth in range(10):
        folder = Path(scratch, f"workers-{nth}")
        point = f"step {1 + nth % 4}"
        ended = run(folder, point=point, sent="INT", settings=dict(workers=2))
        yield dict(kind="fault", case=f"Ctrl-C with loader processes, {nth + 1}", signal="INT",
                   status=ended.status, ok=ended.status == 130, found=f"ended at {point}")


def spoil(file, damage):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(dict(cut=data[:len(data) // 2], bit=data, empty=b"")[damage])


def recovered(case, folder, reference) -> dict:
    "Go on after a fault, and compare."
    ended = run(folder, resume=True)
    differ = differences(folder, reference) if ended.status == 0 else str(ended.lines[-1:])
    return dict(kind="fault", case=case, ok=not differ, found=differ or "equal after resuming")


def two_at_once(reference, scratch) -> dict:
    "The second of two runs in one folder is refused, the first is not disturbed."
    folder = Path(scratch, "two")
    task = dict(folder=str(folder), point="", sent="", method="fsd_adaptive", options={},
                settings=SETTINGS)
    first = subprocess.Popen([sys.executable, __file__, "--child", json.dumps(task)], env=ENV)
    while not (folder / ".lock").exists() and first.poll() is None:
        time.sleep(.05)
    second = run(folder, settings=dict(epochs=1))
    ok = first.wait(WAIT) == 0 and "in use by process" in str(second) and second.status == 1
    differ = differences(folder, reference)
    return dict(kind="fault", case="two runs at once", status=second.status, ok=ok and not differ,
                found=differ or "second refused, first as if alone")


def soak(only, out):
    "All cases; exit status 1 if one of them failed."
    from fsd_sdpose.experiments import environment
    started = time.time()
    with tempfile.TemporaryDirectory() as scratch:
        reference = Path(scratch, "reference")
        if run(reference).status:
            sys.exit("the undisturbed run failed")
        rows = []
        kills = (kill(p, s, reference, scratch) for p, s in cases() if only in f"{p} {s}")
        others = () if only else (refusals(reference, scratch), faults(reference, scratch))
        for row in chain(kills, *others):
            row["found"] = row["found"].replace(f"{scratch}/", "")
            rows.append(row)
            print("ok  " if row["ok"] else "BAD ", row["case"], row.get("signal", ""), "-",
                  row["found"], flush=True)
        shutil.rmtree(reference)
    table = pd.DataFrame(rows)
    if not only:
        write_csv(Path(out, "soak.csv"), table.convert_dtypes())
        about = dict(command="make soak", seconds=round(time.time() - started), settings=SETTINGS)
        write_json(Path(out, "soak.json"), about | dict(environment=environment("cpu")), indent=1)
    print(f"{table.ok.sum()} of {len(table)} as they must be")
    sys.exit(not table.ok.all())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(**json.loads(sys.argv[2]))
    else:
        parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
        parser.add_argument("--only", default="", help="kills whose name holds this text")
        parser.add_argument("--out", default="results/reliability")
        soak(**vars(parser.parse_args()))
