"""One line about a job of the workflow.

usage: python workflow/report.py NAME... LOG [record.json]    (no record: the job failed, see LOG)
"""
import json
import sys
from pathlib import Path


def finished(name: str, record: str):
    "What a finished run measured."
    r = json.loads(Path(record).read_text(encoding="utf-8"))
    print(f"finished {name}: AP {r['metrics']['AP']:.1f} (before training "
          f"{r['untrained']['AP']:.1f}), {r['seconds']:.0f} s", flush=True)


def failed(name: str, log: str):
    "The last line that says something, which is the exception where there was one."
    text = Path(log).read_text(encoding="utf-8", errors="replace") if Path(log).exists() else ""
    last = (text.strip() or "no output").splitlines()[-1].strip()
    print(f"FAILED {name}: {last}\n       whole log: {log}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    *names, last = sys.argv[1:]
    if last.endswith("record.json"):
        finished(names[0].removeprefix("runs/"), last)
    else:
        failed(" ".join(names).removeprefix("runs/"), last)
