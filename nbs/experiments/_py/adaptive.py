# ---
# jupyter:
#   kernelspec:
#     display_name: python3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Adaptive keypoint weights
#
# > Each keypoint token gets a learned weight; visual tokens are taught alike.

# %% [markdown]
# The claim: joints differ in difficulty, so a learned weight per keypoint (17 more parameters) helps. Only the keypoint-token loss differs from the [baseline](baseline.ipynb). A weight that is
# trained by the loss it scales collapses onto the easiest joint; the shipped form prevents that ([losses](../05_losses.ipynb)).

# %%
#| hide
import tempfile
from pathlib import Path

from IPython.display import Markdown

from fsd_sdpose.experiments import (
    METHODS,
    ap_table,
    check_parameters,
    expectation,
    gather,
    load_run,
    repository_results,
    run_experiment,
    run_summary,
    study_sets,
    to_markdown,
    verdict,
)
from fsd_sdpose.figures import keypoint_weights, learning_curves, mask_evolution, show_predictions, use_style

use_style()

# %% [markdown]
# ## Parameters
#
# Papermill replaces these, for example `papermill adaptive.ipynb out.ipynb -p study demo -p seed 3 -p out results/demo/runs/adaptive-seed3`.

# %% tags=["parameters"]
study: str = 'demo'  # a key of fsd_sdpose.experiments.STUDIES
seed: int = 0  # order of data and augmentation; the initial weights, where a study starts from scratch
overrides: dict = {}  # settings that differ from the study's
out: str = ''  # folder for record.json and history.csv; empty: a temporary one
data: str = ''  # folder of the real datasets; empty: environment variable FSD_DATA

# %%
check_parameters(globals(), study=str, seed=int, overrides=dict, out=str, data=str)
Markdown(expectation('adaptive'))

# %%
METHODS['adaptive']

# %% [markdown]
# ## The run

# %%
folder = Path(out or tempfile.mkdtemp())
record = run_experiment(study, 'adaptive', seed, overrides, out=folder, data=data or None, keep_weights=True, watch=3)
print(run_summary(record))

# %%
#| label: fig-curves-adaptive
#| fig-cap: Heatmap loss, and the gradient of each distillation term relative to the heatmap term's in the transformer.
history = load_run(folder)[1]
learning_curves(history, ('loss_heatmap', 'grad_visual', 'grad_keypoint'),
                dict(loss_heatmap='heatmap loss', grad_visual='visual-token gradient, relative', grad_keypoint='keypoint-token gradient, relative'));

# %% [markdown]
# Visual tokens are not weighted here; the mask that FSD would use is shown all the same.

# %%
#| label: fig-masks-adaptive
#| fig-cap: Foreground mask of the teacher's heatmaps on three fixed validation people over this run, and the token weights at its end.
mask_evolution(folder / 'masks.npz');

# %%
#| label: fig-poses-adaptive
#| fig-cap: Validation people with the poses of the first cycle. The first pictures of the set, not chosen.
model = load_run(folder)[2]
show_predictions(model, study_sets(record, data or None)[1], 12);

# %% [markdown]
# ## Its row in the table
#
# One run decides nothing. The row and the verdict below come from the committed records of the study `demo`, all seeds; the conditions are printed with the [table](ap_table.ipynb).

# %%
table = ap_table('demo', repository_results())
Markdown(to_markdown(table[table.method.isin(['baseline', 'adaptive'])]))

# %%
runs = gather('demo', repository_results())
for metric in ('AP', 'AP_crowd'): print(verdict(runs, 'adaptive', metric))

# %% [markdown]
# What the keypoint weights became (1: as in the baseline):

# %%
#| label: fig-weights-adaptive
#| fig-cap: Learned keypoint weights, one dot per run - this one and the committed records.
keypoint_weights([folder, *runs[runs.method == 'adaptive'].folder]);
