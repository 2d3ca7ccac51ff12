"""What a grid is doing: a plain line now and then, while runs are under way.

3 of 6 runs done; fsd-seed1 epoch 2/3 (45 of 93 steps); about 2 min left
"""
import re
import sys
import threading
import time
from pathlib import Path

INTERVAL = 20.0  # seconds between lines
STEP = re.compile(r"step (\d+)/(\d+)")


def steps(log: Path, since: float) -> tuple[int, int] | None:
    "Steps done and in all, from the last line of progress in a log; None if there is none yet."
    try:
        if log.stat().st_mtime < since:
            return None
        found = STEP.findall(log.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    return (int(found[-1][0]), int(found[-1][1])) if found else None


def spoken(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


class Watch:
    "The runs of a call: which are done, and how far the others are."
    def __init__(self, runs: dict[str, tuple[Path, Path]]):  # name -> (record, log)
        self.begun = time.time()
        self.runs = {name: files for name, files in runs.items() if not files[0].exists()}

    def line(self) -> str | None:
        "The state of things; None if nothing is left to say."
        done = [name for name, (record, _) in self.runs.items() if record.exists()]
        parts = {name: found for name, (_, log) in self.runs.items()
                 if name not in done and (found := steps(log, self.begun))}
        if not self.runs or len(done) == len(self.runs):
            return None
        share = (len(done) + sum(n / total for n, total in parts.values())) / len(self.runs)
        words = [f"{len(done)} of {len(self.runs)} runs done"]
        words += [f"{name} step {n}/{total}" for name, (n, total) in parts.items()]
        if share > 0:
            left = (time.time() - self.begun) * (1 - share) / share
            words.append(f"about {spoken(left)} left")
        return "; ".join(words)

    def start(self):
        "Print lines beside the runs, until the program ends."
        def talk():
            while (line := self.line()) is not None:
                print(line, file=sys.stderr, flush=True)
                time.sleep(INTERVAL)
        timer = threading.Timer(INTERVAL, talk)
        timer.daemon = True
        timer.start()
