# ---
# jupyter:
#   kernelspec:
#     display_name: python3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Why it works, if it does
#
# > The guide gives three reasons why foreground weighting should help. Each is measured here, for FSD, for the baseline and for controls.

# %% [markdown]
# The claims: *less gradient from background*, *features more local to joints*, *more robust to occlusion*. A mechanism can work as described without helping, and a gain can come from elsewhere. So
# the two are measured apart: every run's record holds the [probes](../16_probes.ipynb) beside its AP, and this page gathers them. In the tables, ± is half a 95% interval of the difference to the baseline: for OKS and AP over seeds and,
# where predictions were kept, pictures; for the probes over seeds alone. The control that matters is `fsd_shuffled`: the same weights, dealt to the tokens anew at every step.

# %%
#| hide
import pandas as pd
from IPython.display import Markdown

from fsd_sdpose.data import PoseDataset, to_input
from fsd_sdpose.experiments import (
    check_parameters,
    conditions,
    gather,
    gather_history,
    load_start,
    paired_gain,
    repository_results,
    resolve,
    study_files,
    to_markdown,
    verdict,
)
from fsd_sdpose.figures import measured, overlay, show_images, use_style
from fsd_sdpose.models import sdpose
from fsd_sdpose.probes import attention_maps

use_style()

# %% tags=["parameters"]
study: str = 'demo'  # a key of fsd_sdpose.experiments.STUDIES
results: str = ''  # folder with the study's records; empty: the repository's

# %%
check_parameters(globals(), study=str, results=str)
folder = results or repository_results()
runs = gather(study, folder)
order = ['no_distillation', 'baseline', 'fsd_shuffled', 'fsd', 'fsd_strong', 'dynamic']
runs = runs[runs.method.isin(order)].sort_values(['method', 'seed'], key=lambda c: c.map(order.index) if c.name == 'method' else c)

def row(method, column):
    "Mean over seeds, and the paired difference to the baseline with its 95% interval."
    mean, half, n = paired_gain(runs, method, column)
    difference = '' if method == 'baseline' or not n else f' ({mean:+.3f} ± {half:.3f})' if n > 1 else f' ({mean:+.3f})'
    value = runs[runs.method == method][column].mean()
    return 'no such term' if pd.isna(value) else f'{value:.3f}' + difference

def table(columns):
    "One row per method, one column per measurement."
    return Markdown(to_markdown(pd.DataFrame([{'method': m} | {name: row(m, c) for c, name in columns.items()} for m in order if (runs.method == m).any()])))


# %% [markdown]
# ## Less gradient from background
#
# The share of the visual-token loss's gradient that falls on background tokens; the annotation decides which tokens those are ([probes](../16_probes.ipynb)). That FSD lowers it is almost arithmetic. The open questions are how
# much is left, and how much the whole term weighs beside the heatmap loss.

# %%
runs['background'] = runs.probe_background_gradient.astype(float)
table({'background': 'gradient on background, share (difference)'})

# %%
#| label: fig-why-gradient
#| fig-cap: Share of the visual-token distillation gradient on background tokens, a dot per seed. Dashed, the share of tokens that are background.
ax = measured(runs.dropna(subset=['background']), 'background', "share of the visual-token loss's gradient")
ax.axvline(runs.probe_background_tokens.mean(), color='.4', ls='--', lw=1);

# %% [markdown]
# The term itself is small. Its gradient in the transformer, relative to the heatmap loss's gradient, over all runs and epochs:

# %%
ratios = gather_history(study, folder).groupby('method')[['grad_visual', 'grad_keypoint']].mean().reindex([m for m in order if (runs.method == m).any()])
ratios.style.format('{:.2%}')

# %% [markdown]
# ## Features more local to joints
#
# Share of a keypoint token's attention (to visual tokens, first cycle, mean over layers) that falls near its joint, and the distance of the attention's centre from the joint. The yardstick is attention
# that is the same everywhere: its centre is the middle of the crop. A trained network's centre may lie *further* from the joint than that: attention also goes to other joints.

# %%
yardstick = runs.probe_attention_distance_uniform.mean()
print(f'distance of uniform attention, the yardstick: {yardstick:.1f} px')
table({'probe_attention_local': 'attention near the joint, share (difference)', 'probe_attention_local_last': 'in the last layer', 'probe_attention_distance': 'distance, px'})

# %%
#| label: fig-why-attention
#| fig-cap: Share of attention near the joint, a dot per seed. Dashed, what uniform attention would give.
ax = measured(runs, 'probe_attention_local', 'share of attention near the joint')
ax.axvline(runs.probe_attention_local_uniform.mean(), color='.4', ls='--', lw=1);

# %% [markdown]
# What such attention looks like, in the shared start from which all runs of the demo go on:

# %%
#| label: fig-why-maps
#| fig-cap: Attention of the left wrist's token by layer, first cycle, on four validation people; the cross is the annotated joint.
s, config = resolve('demo', 'baseline', 0, {})
file, pictures = study_files(s, splits=('val',))['val']
people = PoseDataset(file, pictures, input_size=(128, 96))
model = sdpose('n')
load_start(model, 'demo')
wrist, panels, crosses = people.skeleton.index('left_wrist'), [], []
shown = [p for p in (people[i] for i in range(40)) if p['visible'][wrist] > 0][:4]
for p in shown:
    maps = attention_maps(model, to_input(p['image'][None], 'cpu'))[:, 0, :, wrist].mean(1)
    panels += [p['image'].numpy(), *[overlay(p['image'].numpy(), (a / a.sum()).view(model.grid), 1 / 64, 8 / 64) for a in maps]]
    crosses += [p['joints'][wrist]] * (len(maps) + 1)
fig = show_images(panels, (['picture', *[f'layer {i + 1}' for i in range(len(maps))]] + [''] * 99)[:len(panels)], columns=len(maps) + 1, size=1.3)
for ax, z in zip(fig.axes, crosses, strict=False): ax.plot(*z, '+', color='c', ms=9, mew=1.5)

# %% [markdown]
# ## More robust to occlusion
#
# Three measures: OKS of joints that the annotation calls occluded, AP of crowded pictures, and OKS of joints that the probe covered with a patch, together with what the patch cost. All of them rest on the few hundred people
# of the validation set. How many pictures and people those are is said at the end of the page.

# %%
runs['cost'] = (runs.probe_OKS_clear - runs.probe_OKS_covered).astype(float)
table({'OKS_occluded': 'OKS, occluded joints (difference)', 'OKS_visible': 'OKS, visible joints', 'AP_crowd': 'AP (crowd)',
       'probe_OKS_covered': 'OKS, covered joints', 'cost': 'lost by covering'})

# %%
#| label: fig-why-occlusion
#| fig-cap: OKS of occluded joints, a dot per seed.
measured(runs, 'OKS_occluded', 'OKS of occluded joints (percent)');

# %% [markdown]
# ## In words

# %%
for column, what, digits in (('background', 'gradient share on background', 3), ('probe_attention_local', 'attention near the joint', 3),
                             ('OKS_occluded', 'OKS of occluded joints', 2), ('AP_crowd', 'AP (crowd)', 2)):
    print(f'{what} (a share; 0.01 is one percentage point):' if column.startswith(('background', 'probe')) else f'{what}:')
    for m in [m for m in order if m in set(runs.method) - {'baseline', 'no_distillation'}]: print('  ' + verdict(runs, m, column, digits).replace(f' {column} ', ' ', 1))
    if {'fsd', 'fsd_shuffled'} <= set(runs.method): print('  ' + verdict(runs, 'fsd', column, digits, 'fsd_shuffled').replace(f' {column} ', ' ', 1))
print(conditions(runs))
