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

# %%
#| hide
import pandas as pd
from IPython.display import Markdown

from fsd_sdpose.checkpoints import load_start
from fsd_sdpose.data import PoseDataset, to_input
from fsd_sdpose.drawing import overlay, show_images, use_style
from fsd_sdpose.experiments import check_parameters, resolve, study_files
from fsd_sdpose.figures import dots
from fsd_sdpose.models import sdpose
from fsd_sdpose.probes import attention_maps
from fsd_sdpose.tables import (
    conditions,
    gather,
    gather_history,
    paired_gain,
    repository_results,
    to_markdown,
    verdict,
)

use_style()

# %% tags=["parameters"]
study: str = 'demo'  # a key of fsd_sdpose.studies.STUDIES
results: str = ''  # folder with the study's records; empty: the repository's

# %% [markdown]
# The claims: *less gradient from background*, *features more local to joints*, *more robust to occlusion*. A mechanism can work as described without helping, and a gain can come from elsewhere. So the
# two are measured apart: every run's record holds the [probes](../16_probes.ipynb) beside its AP, and this page gathers them. The control that matters is `fsd_shuffled`: the same weights, dealt to the
# tokens anew at every step.

# %%
#| hide
check_parameters(globals(), study=str, results=str)
folder = results or repository_results()
order = ['no_distillation', 'baseline', 'fsd_shuffled', 'fsd', 'fsd_strong', 'dynamic']
runs = gather(study, folder)
order = [m for m in order if m in set(runs.method)]
runs = pd.concat([runs[runs.method == m] for m in order], ignore_index=True)
runs['background'] = runs.probe_background_gradient.astype(float)
runs['cost'] = (runs.probe_OKS_clear - runs.probe_OKS_covered).astype(float)

def cell(method, column):
    "Mean over seeds, and the paired difference to the baseline with its 95% interval."
    mean = runs[runs.method == method][column].mean()
    if pd.isna(mean):
        return 'no such term'
    difference, half, seeds = paired_gain(runs, method, column)
    if method == 'baseline' or not seeds:
        return f'{mean:.3f}'
    spread = f' ± {half:.3f}' if seeds > 1 else ''
    return f'{mean:.3f} ({difference:+.3f}{spread})'

def table(columns):
    "One row per method, one column per measurement."
    rows = [{'method': m} | {name: cell(m, c) for c, name in columns.items()} for m in order]
    return Markdown(to_markdown(pd.DataFrame(rows)))


# %% [markdown]
# ## Less gradient from background
#
# The share of the visual-token loss's gradient that falls on background tokens; the annotation decides which tokens those are ([probes](../16_probes.ipynb)). That FSD lowers it is almost arithmetic. The
# open questions are how much is left, and how much the whole term weighs beside the heatmap loss.

# %%
#| echo: false
#| label: fig-why-gradient
#| fig-cap: Share of the visual-token distillation gradient on background tokens, a dot per seed.
#|   Dashed, the share of tokens that are background.
with_term = runs.dropna(subset=['background'])
ax = dots(with_term, 'background', "share of the visual-token loss's gradient")
ax.axvline(runs.probe_background_tokens.mean(), color='.4', ls='--', lw=1);

# %% [markdown]
# In the tables, the difference to the baseline stands in brackets, ± half a 95% interval: for OKS and AP over seeds and, where predictions were kept, pictures; for the probes over seeds alone.

# %%
#| echo: false
table({'background': 'gradient on background, share (difference)'})

# %% [markdown]
# The term itself is small. Its gradient in the transformer, relative to the heatmap loss's gradient, over all runs and epochs:

# %%
#| echo: false
ratios = gather_history(study, folder).groupby('method')[['grad_visual', 'grad_keypoint']].mean()
ratios.reindex(order).style.format('{:.2%}')

# %% [markdown]
# ## Features more local to joints
#
# Share of a keypoint token's attention (to visual tokens, first cycle, mean over layers) that falls near its joint, and the distance of the attention's centre from the joint. The yardstick is attention
# that is the same everywhere: its centre is the middle of the crop. A trained network's centre may lie *further* from the joint than that: attention also goes to other joints.

# %%
#| echo: false
#| label: fig-why-attention
#| fig-cap: Share of attention near the joint, a dot per seed. Dashed, what uniform attention
#|   would give.
ax = dots(runs, 'probe_attention_local', 'share of attention near the joint')
ax.axvline(runs.probe_attention_local_uniform.mean(), color='.4', ls='--', lw=1);

# %%
#| echo: false
yardstick = runs.probe_attention_distance_uniform.mean()
print(f'distance of uniform attention, the yardstick: {yardstick:.1f} px')
table({'probe_attention_local': 'attention near the joint, share (difference)',
       'probe_attention_local_last': 'in the last layer',
       'probe_attention_distance': 'distance, px'})

# %% [markdown]
# What such attention looks like, in the shared start from which all runs of the demo go on:

# %%
#| echo: false
#| label: fig-why-maps
#| fig-cap: Attention of the left wrist's token by layer, first cycle, on three validation people;
#|   the cross is the annotated joint.
settings, _ = resolve('demo', 'baseline', 0, {})
people = PoseDataset(*study_files(settings, splits=('val',))['val'], input_size=(128, 96))
model, wrist = sdpose('n'), people.skeleton.index('left_wrist')
load_start(model, 'demo')
shown = [p for p in (people[i] for i in range(40)) if p['visible'][wrist] > 0][:3]
panels, crosses = [], []
for person in shown:
    picture = person['image'].numpy()
    maps = attention_maps(model, to_input(person['image'][None], 'cpu'))[:, 0, :, wrist].mean(1)
    shares = [(m / m.sum()).view(model.grid) for m in maps]
    panels += [picture, *(overlay(picture, s, 1 / 64, 8 / 64) for s in shares)]
    crosses += [person['joints'][wrist]] * (len(maps) + 1)
titles = ['picture', *(f'layer {i + 1}' for i in range(len(maps)))]
titles += [''] * (len(panels) - len(titles))
fig = show_images(panels, titles, columns=len(maps) + 1, size=1.3)
for ax, cross in zip(fig.axes, crosses, strict=False):
    ax.plot(*cross, '+', color='c', ms=9, mew=1.5)

# %% [markdown]
# ## More robust to occlusion
#
# Three measures: OKS of joints that the annotation calls occluded, AP of crowded pictures, and OKS of joints that the probe covered with a patch, together with what the patch cost. All of them rest on
# the few hundred people of the validation set. How many pictures and people those are is said at the end of the page.

# %%
#| echo: false
#| label: fig-why-occlusion
#| fig-cap: OKS of occluded joints, a dot per seed.
dots(runs, 'OKS_occluded', 'OKS of occluded joints (percent)');

# %%
#| echo: false
table({'OKS_occluded': 'OKS, occluded joints (difference)', 'OKS_visible': 'OKS, visible joints',
       'AP_crowd': 'AP (crowd)', 'probe_OKS_covered': 'OKS, covered joints',
       'cost': 'lost by covering'})

# %% [markdown]
# ## In words

# %%
#| echo: false
SHARE = ' (a share; 0.01 is one percentage point)'
measures = {'background': ('gradient share on background' + SHARE, 3),
            'probe_attention_local': ('attention near the joint' + SHARE, 3),
            'OKS_occluded': ('OKS of occluded joints', 2), 'AP_crowd': ('AP (crowd)', 2)}
pairs = [(m, 'baseline') for m in order if m not in ('baseline', 'no_distillation')]
pairs += [('fsd', 'fsd_shuffled')] if {'fsd', 'fsd_shuffled'} <= set(order) else []
for column, (what, digits) in measures.items():
    print(f'{what}:')
    for method, reference in pairs:
        text = verdict(runs, method, column, digits, reference)
        print('  ' + text.replace(f' {column} ', ' ', 1))
print(conditions(runs))
