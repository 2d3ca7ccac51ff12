# ---
# jupyter:
#   kernelspec:
#     display_name: python3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # AP against clutter and crowd
#
# > If foreground weights help because backgrounds distract, the gain should grow with clutter; if they help among people, with crowding. Both are dials of the synthetic pictures.

# %% [markdown]
# The same trained networks are evaluated on validation sets that differ in one thing: how full the background is, or how close people stand. Within each kind of set, the n-th picture shows the same people at every level. The
# control `fsd_shuffled` gives the tokens FSD's weights in an order drawn anew at each step. A gain that it shares does not come from the place of the weights.

# %%
#| hide
import json
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
import torch
from IPython.display import Markdown

from fsd_sdpose.comparisons import contrast, holm
from fsd_sdpose.data import PoseDataset, write_json
from fsd_sdpose.experiments import METHODS, STUDIES, check_parameters, environment, load_run, load_start, repository_results, resolve, run_experiment
from fsd_sdpose.figures import method_colours, use_style
from fsd_sdpose.models import sdpose
from fsd_sdpose.synthetic import make_dataset
from fsd_sdpose.training import validate

use_style()

# %% tags=["parameters"]
methods: str = 'baseline fsd fsd_strong fsd_shuffled no_distillation'  # keys of fsd_sdpose.experiments.METHODS, the baseline first
seeds: int = 0  # number of seeds to train; 0: none, the committed record is shown
pictures: int = 24  # of each validation set; the committed record has 200
overrides: dict = {}  # settings of the training that differ from the study's
out: str = ''  # folder of a new record; empty: none is written

# %%
check_parameters(globals(), methods=str, seeds=int, pictures=int, overrides=dict, out=str)
if unknown := set(methods.split()) - set(METHODS): raise ValueError(f"unknown methods {sorted(unknown)}; known: {', '.join(METHODS)}")

# %% [markdown]
# ## The sets

# %%
LEVELS = (0., .25, .5, .75, 1.)
FACTORS = dict(clutter=dict(people=(1, 3)), crowd=dict(people=(2, 3)))  # what else differs from the study's scene
study, config = resolve('demo', 'baseline', 0, {})
scratch = tempfile.TemporaryDirectory()

def validation_set(factor, level):
    "The study's kind of pictures with one dial held."
    file = make_dataset(Path(scratch.name, f'{factor}-{level}'), pictures, seed=4, **study.scene | FACTORS[factor] | {factor: level})
    return PoseDataset(file, file.parent / 'images', input_size=(128, 96))

sets = {(factor, level): validation_set(factor, level) for factor in FACTORS for level in LEVELS}

def ap_of(model, **what):
    "Rows of AP, one per set."
    return [what | dict(factor=f, level=x, people=len(s), AP=validate(model.eval(), s, config, torch.device('cpu'))['AP']) for (f, x), s in sets.items()]


# %% [markdown]
# The network from which all runs of the study start, on a few pictures of each set:

# %%
model = sdpose('n')
load_start(model, STUDIES['demo'].start)
start = pd.DataFrame(ap_of(model)).assign(level=lambda t: t.level.map('{:g}'.format))
start.pivot(index='factor', columns='level', values='AP').style.format('{:.1f}').set_caption(f'measured AP of the shared start, {pictures} pictures of each')

# %% [markdown]
# ## Measured
#
# `make clutter` trains the methods again, three seeds each, and evaluates each network on all sets. Unless this page has just trained some itself, the committed record is shown.

# %%
began, rows = time.time(), []
for seed in range(seeds):
    for method in methods.split():
        run = Path(scratch.name, f'{method}-{seed}')
        run_experiment('demo', method, seed, overrides, out=run, show=False, keep_weights=True)
        rows += ap_of(load_run(run)[2], method=method, seed=seed)
        print(f'{method}, seed {seed}: done after {time.time() - began:.0f} s', flush=True)
name = 'clutter_and_crowd.json'
record = dict(what='AP against clutter and crowd', study='demo', pictures=pictures, seeds=seeds, overrides=overrides, scenes=study.scene, seconds=round(time.time() - began),
              environment=environment(torch.device('cpu')), rows=rows) if rows else None
if record and out: write_json(Path(out, name), record)
file = repository_results() / 'demo' / name
shown = record or (json.loads(file.read_text()) if file.exists() else None)


# %%
def gain_of(table, method):
    "Gain over the baseline of the same seed with its 95% interval over seeds; the table has one AP per method and seed."
    ap = table.pivot(index='seed', columns='method', values='AP')
    return contrast(ap[method].to_dict(), ap['baseline'].to_dict())


# %%
#| label: fig-clutter-crowd
#| fig-cap: AP of the methods on sets of growing clutter and crowding (above), and their gain over the baseline of the same seed with 95% intervals over seeds (below).
#| fig-alt: Four panels, clutter on the left and crowd on the right. Above, AP of each method against the level. Below, its gain over the baseline, with error bars.
if shown:
    table = pd.DataFrame(shown['rows'])
    order = list(table.method.unique())
    colours = method_colours()
    fig, axes = plt.subplots(2, 2, figsize=(8, 5), sharex=True, sharey='row', layout='constrained')
    for (top, below), factor in zip(axes.T, FACTORS, strict=True):
        part = table[table.factor == factor]
        sns.lineplot(part, x='level', y='AP', hue='method', style='method', hue_order=order, palette=colours, markers=True, errorbar=None, ax=top, legend=factor == 'crowd')
        for i, m in enumerate(order[1:]):
            gain = [gain_of(part[part.level == x], m) for x in LEVELS]
            places, means, halves = [x + .025 * (i - 1.5) for x in LEVELS], [g['difference'] for g in gain], [g['high'] - g['difference'] for g in gain]
            below.errorbar(places, means, halves, color=colours[m], marker='o', ms=4, lw=1, capsize=2, label=m)
        below.axhline(0, color='.4', lw=1)
        below.set_xlabel(f'{factor} (0 to 1)')
    axes[0, 0].set_ylabel('AP (measured)')
    axes[1, 0].set_ylabel('gain (AP points)')
    axes[0, 1].legend(title=None, fontsize='small')


# %% [markdown]
# ## Reading it
#
# Is a gain larger where there is more clutter or crowding? For each seed, the gain at the highest level minus the gain at the lowest:

# %%
def growth(table, factor, method):
    "Gain at the highest level minus that at the lowest, paired by seed."
    ends = table[(table.factor == factor) & table.level.isin((LEVELS[0], LEVELS[-1]))].pivot(index=['method', 'seed'], columns='level', values='AP')
    rise = (ends[LEVELS[-1]] - ends[LEVELS[0]]).rename('AP').reset_index()
    return gain_of(rise, method)

def change(factor, method, g, adjusted):
    "That in words; the p-value is corrected for all lines."
    verdict = 'no change shown' if not adjusted < .05 else 'grows' if g['difference'] > 0 else 'shrinks'
    return (f"- {factor}, {method}: the gain over the baseline changes by {g['difference']:+.2f} AP, 95% interval {g['low']:+.2f} to {g['high']:+.2f} "
            f"over {g['seeds']} seeds, adjusted p {adjusted:.2g}: {verdict}")

def conditions(r):
    "Where the numbers are from, and what the intervals leave out."
    env = r['environment']
    return (f"Measured: demo, {r['pictures']} pictures per set, {r['seeds']} seeds, flip test {config.flip_test}, {env['device']}, commit {env['commit'][:10]}, {r['seconds']} s. "
            "The record holds no predictions, so the intervals cover the seeds alone; counting the chance of the pictures too would widen them.")

asked = [(f, m, growth(table, f, m)) for f in FACTORS for m in order[1:]] if shown else []
lines = [change(f, m, g, p) for (f, m, g), p in zip(asked, holm([g['p'] for *_, g in asked]), strict=True)]
Markdown('\n'.join(lines) + '\n\n' + conditions(shown) if shown else 'No record yet: `make clutter`.')
