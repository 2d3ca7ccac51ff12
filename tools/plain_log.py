"""Pass on what a notebook printed while papermill ran it; keep papermill's own lines only when something failed."""
import sys

NOISE = ("Black is not installed", "TCP without encryption", "Input Notebook:", "Output Notebook:", "Executing", "Ending Cell", "Starting Cell",
         "warnings.warn", "<Figure size", "<IPython.core")

failed = False
for line in sys.stdin:
    failed = failed or line.startswith("Traceback")
    if failed or not any(n in line for n in NOISE) and line.strip():
        print(line, end="", flush=True)
