"""Pass on what a notebook printed under papermill; papermill's own lines only after a failure."""
import sys

NOISE = ("Black is not installed", "TCP without encryption", "Input Notebook:", "Output Notebook:",
         "Executing", "Ending Cell", "Starting Cell", "warnings.warn", "<Figure size",
         "<IPython.core")

failed = False
for line in sys.stdin:
    failed = failed or line.startswith("Traceback")
    if failed or line.strip() and not any(noise in line for noise in NOISE):
        print(line, end="", flush=True)
