# ---
# jupyter:
#   kernelspec:
#     display_name: python3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # One method
#
# > A row of the table of methods, trained once and read beside what it is compared with.

# %%
#| hide
import tempfile
from pathlib import Path

from IPython.display import Markdown

from fsd_sdpose.drawing import use_style
from fsd_sdpose.experiments import check_parameters, load_run, run_experiment, run_sets
from fsd_sdpose.figures import (
    forest,
    keypoint_weights,
    learning_curves,
    mask_evolution,
    show_predictions,
)
from fsd_sdpose.studies import METHODS
from fsd_sdpose.tables import (
    ap_table,
    contrasts,
    expectation,
    expected_table,
    gather,
    method_contrasts,
    repository_results,
    run_summary,
    sentence,
    to_markdown,
    verdict,
)

use_style(dpi=72)

# %% tags=["parameters"]
method: str = 'fsd'  # a key of fsd_sdpose.studies.METHODS
study: str = 'demo'  # a key of fsd_sdpose.studies.STUDIES
seed: int = 0  # order of data and augmentation; initial weights, if a study starts from scratch
overrides: dict = {}  # settings that differ from the study's
out: str = ''  # folder for the files of the run; empty: a temporary one
data: str = ''  # folder of the real datasets; empty: environment variable FSD_DATA
resume: bool = False  # go on with a stopped run in `out`; a finished one is shown as it is

# %%
#| echo: false
check_parameters(globals(), method=str, study=str, seed=int, overrides=dict, out=str, data=str,
                 resume=bool)
Markdown(f'{METHODS[method].claim}\n\n{expectation(method)}')

# %% [markdown]
# ## What its runs found
#
# From the committed records of the study `demo`, all seeds; the conditions are printed with the [table](ap_table.ipynb).

# %%
#| echo: false
#| label: fig-gain
#| fig-cap: Gain over what the method is read against, with 95% intervals. The grey band is the
#|   margin, a diamond the guide's expectation for COCO.
runs, expected = gather('demo', repository_results()), expected_table().expected_AP
judged = method_contrasts(runs, method)
if len(judged):
    forest(judged, expected - expected['baseline'], label='gain (AP points)')

# %%
#| echo: false
table = ap_table('demo', repository_results())
rows = to_markdown(table[table.method.isin(['baseline', method])])
lines = [sentence(c) for _, c in judged.iterrows()] or [verdict(runs, method)]
crowd = contrasts(runs, metric='AP_crowd').query('method == @method')
lines += [sentence(c, 'AP (crowd)') for _, c in crowd.iterrows()]
known = method in set(runs.method)
Markdown('\n\n'.join([*lines, rows]) if known else 'No committed records yet.')

# %% [markdown]
# ## Its losses

# %%
METHODS[method].losses

# %% [markdown]
# ## One run
#
# One run decides nothing, but it can be looked at. Papermill replaces the parameters above, for example `-p study demo -p seed 3 -p out results/demo/runs/fsd-seed3`.

# %%
folder = Path(out or tempfile.mkdtemp())
record = run_experiment(study, method, seed, overrides, out=folder, data=data or None,
                        keep_weights=True, watch=3, resume=resume)
print(run_summary(record))

# %%
#| echo: false
#| label: fig-masks
#| fig-cap: Foreground mask of the teacher's heatmaps on three fixed validation people over this
#|   run, and the token weights at its end (1 everywhere if the method does not weight tokens;
#|   before the shuffle if it shuffles them).
mask_evolution(folder / 'masks.npz');

# %%
#| echo: false
#| label: fig-poses
#| fig-cap: The first validation people of the set, not chosen, with the poses of the first cycle.
_, history, model = load_run(folder)
show_predictions(model, run_sets(record, data or None)[1], 6);

# %%
#| echo: false
#| label: fig-curves
#| fig-cap: Heatmap loss, and the gradient of each distillation term relative to the heatmap
#|   term's in the transformer.
labels = dict(loss_heatmap='heatmap loss', grad_visual='visual-token gradient, relative',
              grad_keypoint='keypoint-token gradient, relative')
learning_curves(history, tuple(labels), labels);

# %%
#| echo: false
#| label: fig-weights
#| fig-cap: Learned weight of each keypoint, a dot per run (1: as in the baseline).
folders = runs[runs.method == method].folder
if record['keypoint_weights'] and len(folders):
    keypoint_weights(folders)
