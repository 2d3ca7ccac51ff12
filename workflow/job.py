"""One job of the workflow, called by its rules: arguments come as they are, no shell reads them.

usage: python workflow/job.py data STUDY LOG MARKER ARGUMENTS
       python workflow/job.py notebook NAME TEMPLATE EXECUTED LOG PARAMETERS [record.json]

One line says how a job ended: what a run measured, or the last line of the log of a failed one.
"""
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PREPARE = ("import json, sys; from fsd_sdpose.experiments import prepare_data; "
           "prepare_data(*json.loads(sys.argv[1]))")


def call(log: str, *command) -> int:
    "Exit code of a Python program; what it prints goes to the log."
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as file:
        return subprocess.run([sys.executable, *command], stdout=file, stderr=file).returncode


def failed(name: str, log: str):
    "The last line that says something, which is the exception where there was one."
    text = Path(log).read_text(encoding="utf-8", errors="replace")
    last = (text.strip() or "no output").splitlines()[-1].strip()
    sys.exit(f"FAILED {name}: {last}\n       whole log: {log}")


def data(study: str, log: str, marker: str, arguments: str):
    "Draw the pictures and fill the crop caches that runs share."
    print(f"preparing the data of {study}", flush=True)
    if call(log, "-c", PREPARE, arguments):
        failed(f"data of {study}", log)
    Path(marker).touch()


def notebook(name: str, template: str, executed: str, log: str, parameters: str, record=""):
    "Execute a template in the repository's folder."
    name = name.removeprefix("runs/")
    Path(executed).parent.mkdir(parents=True, exist_ok=True)
    options = ("--log-output", "--no-progress-bar", "--start-timeout", "900", "--cwd", str(ROOT))
    if call(log, "-m", "papermill", *options, template, executed, "-y", parameters):
        failed(name, log)
    if record:
        r = json.loads(Path(record).read_text(encoding="utf-8"))
        print(f"finished {name}: AP {r['metrics']['AP']:.1f} (before training "
              f"{r['untrained']['AP']:.1f}), {r['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    kind, *arguments = sys.argv[1:]
    try:
        dict(data=data, notebook=notebook)[kind](*arguments)
    except KeyboardInterrupt:
        sys.exit(130)
