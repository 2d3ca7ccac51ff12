# ---
# jupyter:
#   kernelspec:
#     display_name: python3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Experiment 4: dynamic weights
#
# > Uniform at first, full foreground emphasis from the middle of the schedule.

# %% [markdown]
# The claim: a teacher that does not see the person yet should not decide where to look, so the emphasis grows between two epochs. The guide gives 50 and 150 of 300; shorter schedules use the
# same shares.

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
from fsd_sdpose.figures import learning_curves, mask_evolution, show_predictions, use_style

use_style()

# %% [markdown]
# ## Parameters
#
# Papermill replaces these, for example `papermill dynamic.ipynb out.ipynb -p study demo -p seed 3 -p out results/demo/runs/dynamic-seed3`.

# %% tags=["parameters"]
study: str = 'demo'  # a key of fsd_sdpose.experiments.STUDIES
seed: int = 0  # order of data and augmentation; the initial weights, where a study starts from scratch
overrides: dict = {}  # settings that differ from the study's
out: str = ''  # folder for record.json and history.csv; empty: a temporary one
data: str = ''  # folder of the real datasets; empty: environment variable FSD_DATA

# %%
check_parameters(globals(), study=str, seed=int, overrides=dict, out=str, data=str)
Markdown(expectation('dynamic'))

# %%
METHODS['dynamic']

# %% [markdown]
# ## The run

# %%
folder = Path(out or tempfile.mkdtemp())
record = run_experiment(study, 'dynamic', seed, overrides, out=folder, data=data or None, keep_weights=True, watch=3)
print(run_summary(record))

# %%
#| label: fig-curves-dynamic
#| fig-cap: Heatmap loss, and the gradient of each distillation term relative to the heatmap term's in the transformer.
history = load_run(folder)[1]
learning_curves(history, ('loss_heatmap', 'grad_visual', 'grad_keypoint'),
                dict(loss_heatmap='heatmap loss', grad_visual='visual-token gradient, relative', grad_keypoint='keypoint-token gradient, relative'));

# %% [markdown]
# At the beginning the weights were 1 everywhere; those shown, from the end, carry the full emphasis.

# %%
#| label: fig-masks-dynamic
#| fig-cap: Foreground mask of the teacher's heatmaps on three fixed validation people over this run, and the token weights at its end.
mask_evolution(folder / 'masks.npz');

# %%
#| label: fig-poses-dynamic
#| fig-cap: Validation people with the poses of the first cycle. The first pictures of the set, not chosen.
model = load_run(folder)[2]
show_predictions(model, study_sets(record, data or None)[1], 12);

# %% [markdown]
# ## Its row in the table
#
# One run decides nothing. The row and the verdict below come from the committed records of the study `demo`, all seeds; the conditions are printed with the [table](ap_table.ipynb).

# %%
table = ap_table('demo', repository_results())
Markdown(to_markdown(table[table.method.isin(['baseline', 'dynamic'])]))

# %%
runs = gather('demo', repository_results())
for metric in ('AP', 'AP_crowd'): print(verdict(runs, 'dynamic', metric))
print(verdict(runs, 'dynamic', reference='fsd_shuffled'), 'That control shuffles the weights anew at every step.')
