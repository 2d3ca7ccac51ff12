# ---
# jupyter:
#   kernelspec:
#     display_name: python3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The shared start of the demo
#
# > Weights that have learned to find joints, without any distillation, so that methods can be compared in minutes.

# %%
#| hide
import tempfile
from pathlib import Path

import pandas as pd

from fsd_sdpose.checkpoints import STARTS, load_start
from fsd_sdpose.drawing import use_style
from fsd_sdpose.experiments import check_parameters, run_experiment, write_start
from fsd_sdpose.figures import learning_curves
from fsd_sdpose.models import sdpose
from fsd_sdpose.studies import STUDIES
from fsd_sdpose.tables import gather_history, repository_results, run_summary

use_style()

# %% tags=["parameters"]
full: bool = False  # train the whole schedule, no overrides, and replace the weights shipped
seed: int = 0  # initial weights, order of data, augmentation
overrides: dict = {'epochs': 1, 'train_images': 160, 'val_images': 40, 'warmup_steps': 5}
out: str = ''  # folder for the files of the run; empty: a temporary one

# %% [markdown]
# From scratch the nano model first sits on a plateau. The study `demo` skips it: its runs continue from weights that ship with the package. The study `demo_start` trained them by the heatmap loss
# alone (`no_distillation`), on pictures that the demo does not train on; both are validated on the same ones.
#
# The record of the full run, and its learning curve:

# %%
#| echo: false
check_parameters(globals(), full=bool, seed=int, overrides=dict, out=str)
shipped = load_start(sdpose('n'), 'demo')
pd.Series(shipped | dict(bytes=(STARTS / 'demo.safetensors').stat().st_size)).to_frame('demo')

# %%
#| echo: false
#| label: fig-start
#| fig-cap: The run that made the start, at a constant learning rate after warm-up; the demo
#|   lowers it.
labels = dict(loss_heatmap='heatmap loss', AP='validation AP (measured)')
learning_curves(gather_history('demo_start', repository_results()), tuple(labels), labels);

# %% [markdown]
# ## Making it again
#
# `make start` trains it again (parameter `full`) and replaces it. Here a shortened run shows that this works.

# %%
STUDIES['demo_start'].settings, STUDIES['demo_start'].scene

# %%
folder = Path(out or tempfile.mkdtemp())
record = run_experiment('demo_start', 'no_distillation', seed, {} if full else overrides,
                        out=folder, keep_weights=True, resume=full)
if full:
    write_start(folder, 'demo')
print(run_summary(record))
