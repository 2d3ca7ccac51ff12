# ---
# jupyter:
#   kernelspec:
#     display_name: python3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The AP table
#
# > Every run record of a study, beside what the guide expects and what was published; differences are paired by seed.

# %% [markdown]
# The columns called *expected* are the guide's, for COCO; nobody measured them. *Published* is the SDPose paper [@sdpose2024]. The columns called *measured* come from the run records of the
# study below, and from nothing else. An interval that leaves out zero is a reason to look closer, not a proof: many intervals are looked at, and all gains share the same baseline runs.

# %%
#| hide
import json
from pathlib import Path

import pandas as pd
from IPython.display import Markdown

from fsd_sdpose.experiments import (
    STUDIES,
    ap_table,
    check_parameters,
    conditions,
    gather,
    gather_history,
    image_interval,
    repository_results,
    resolve,
    study_files,
    to_markdown,
    verdict,
    write_table,
)
from fsd_sdpose.figures import expected_against_measured, gains, learning_curves, use_style

use_style()

# %% tags=["parameters"]
study: str = 'demo'  # a key of fsd_sdpose.experiments.STUDIES
results: str = ''  # folder with <study>/runs/<run>/record.json, where table and figures are written too; empty: the repository's, read only

# %%
check_parameters(globals(), study=str, results=str)
folder = Path(results or repository_results())
runs = gather(study, folder)
Markdown(to_markdown(ap_table(study, folder)) + '\n\n' + conditions(runs))

# %% [markdown]
# ## Reading it

# %%
methods = [m for m in runs.method.unique() if m != 'baseline']
for metric in ('AP', 'AP_crowd'):
    for m in methods: print(verdict(runs, m, metric))
print(f'Each line is looked at by itself: of {2 * len(methods)} intervals, chance alone would put about {.05 * 2 * len(methods):.0f} beside zero; they are not independent.')

# %% [markdown]
# Better than the baseline is not enough: if the *place* of the weights mattered, FSD would also beat the same weights in the wrong places, and the network without any distillation.

# %%
for reference in ('fsd_shuffled', 'no_distillation'):
    for m in ('fsd', 'fsd_strong', 'dynamic', 'fsd_adaptive'):
        if (runs.method == m).any(): print(verdict(runs, m, reference=reference))

# %%
#| label: fig-gains
#| fig-cap: Measured gain over the baseline of the same seed, one grey dot per seed, mean with 95% interval; controls in orange.
fig_gains = gains(runs, ('AP', 'AP_crowd'), dict(AP_crowd='AP (crowd)'))

# %% [markdown]
# The guide's expectation against the measurement: points on the dashed line would agree.

# %%
#| label: fig-expected
#| fig-cap: Expected gain (guide, COCO) against measured gain (this study), with 95% intervals over seeds where there are several.
fig_expected = expected_against_measured(runs)

# %% [markdown]
# How much of a gain belongs to the validation pictures: the images are drawn again with replacement, the same draws for both methods, and the gain is averaged over the seeds each time.

# %%
saved = runs[[Path(f, 'results.json').exists() for f in runs.folder]]
truth = None
if len(saved) and STUDIES[study].val == 'synthetic':
    truth = study_files(resolve(study, 'baseline', 0, json.loads(saved.overrides.iloc[0]))[0], splits=('val',))['val'][0]
rows = [(m, *image_interval(runs, m, truth)) for m in methods] if truth else []
images = pd.DataFrame(rows, columns=['method', 'low (AP)', 'high (AP)', 'seeds']).query('seeds > 0').round(2)
caption = '95% interval of the gain over validation images, for runs whose predictions were kept'
images.style.format(precision=2).hide().set_caption(caption) if len(images) else print('no predictions beside the records: no interval over images')

# %%
#| label: fig-learning
#| fig-cap: Loss and validation AP over the epochs, mean over seeds.
fig_curves = learning_curves(gather_history(study, folder), ('loss_heatmap', 'AP'), dict(loss_heatmap='heatmap loss', AP='validation AP (measured)'))

# %%
if results:
    write_table(study, folder)
    for name, f in (('gains', fig_gains), ('learning_curves', fig_curves), ('expected_against_measured', fig_expected)): f.savefig(folder / study / f'{name}.png')
