"""One line about a job of the workflow.

usage: python workflow/report.py NAME... LOG [record.json]    (without a record: the job failed, and the end of its log says why)
"""
import json
import sys
from pathlib import Path


def finished(name, record):
    "What a finished run measured."
    r = json.loads(Path(record).read_text(encoding="utf-8"))
    print(f"finished {name}: AP {r['metrics']['AP']:.1f} (before training {r['untrained']['AP']:.1f}), {r['seconds']:.0f} s", flush=True)


def failed(name, log):
    "The last line that says something, which is the exception where there was one."
    lines = [o.strip() for o in Path(log).read_text(encoding="utf-8", errors="replace").splitlines() if o.strip()] if Path(log).exists() else []
    print(f"FAILED {name}: {lines[-1] if lines else 'no output'}\n       whole log: {log}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    *names, last = sys.argv[1:]
    if last.endswith("record.json"):
        finished(names[0].removeprefix("runs/"), last)
    else:
        failed(" ".join(names).removeprefix("runs/"), last)
