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
# study below, and from nothing else. Every difference has an interval over seeds and, where predictions were kept, pictures. Its verdict is corrected for the number of rows ([comparisons](../12_comparisons.ipynb)).

# %%
#| hide
from pathlib import Path

from IPython.display import Markdown

from fsd_sdpose.experiments import (
    PLACE_PAIRS,
    ap_table,
    check_parameters,
    conditions,
    contrasts,
    expected_table,
    gather,
    gather_history,
    other_people,
    repository_results,
    sentence,
    to_markdown,
    with_interval,
    write_table,
)
from fsd_sdpose.figures import forest, learning_curves, use_style

use_style()

def folded(summary, text):
    "Text that opens with a click."
    return Markdown(f'<details>\n<summary>{summary}</summary>\n\n{text}\n\n</details>')

def listed(judged, metric='AP'):
    "A sentence per row."
    return '\n'.join(f'- {sentence(c, metric)}' for _, c in judged.iterrows())


# %% tags=["parameters"]
study: str = 'demo'  # a key of fsd_sdpose.experiments.STUDIES
results: str = ''  # folder with <study>/runs/<run>/record.json, where table and figures are written too; empty: the repository's, read only

# %%
#| label: fig-ap-gains
#| fig-cap: Gain over the baseline with its 95% interval. Diamonds are the guide's expectation for COCO; grey rows are controls; the grey band is the margin of 0.3 AP.
#| fig-alt: A forest plot with a row per method, its gain, interval and verdict.
check_parameters(globals(), study=str, results=str)
folder = Path(results or repository_results())
runs, guide, others = gather(study, folder), expected_table(), other_people(study, folder)
judged = contrasts(runs)
fig_gains = forest(judged, guide.expected_AP - guide.expected_AP['baseline'], others) if len(judged) else None

# %% [markdown]
# ## The table

# %%
Markdown(to_markdown(ap_table(study, folder)) + '\n\n' + conditions(runs))

# %% [markdown]
# ## In words
#
# To beat the baseline is not enough. If the *place* of the weights mattered, FSD would also beat its own weights in shuffled order; if distillation mattered, it would beat the network without any.

# %%
against = contrasts(runs, PLACE_PAIRS)
Markdown(listed(against) or 'The controls were not run.')

# %%
folded('Every method against the baseline, AP and AP (crowd)', listed(judged) + '\n' + listed(contrasts(runs, metric='AP_crowd'), 'AP (crowd)'))

# %% [markdown]
# Some of these networks were evaluated on other people too (`make clutter`): the orange marks of the figure.

# %%
text = '; '.join(f'{c.method} {with_interval(c)}' for _, c in others.iterrows())
Markdown(f"Gains over the baseline on {others.sets.iloc[0]} sets of pictures ({others.people.iloc[0]:,} people, the same ones at several levels), "
         f"{others.seeds.iloc[0]} seeds, intervals over seeds alone: {text}. "
         "See [clutter and crowd](clutter_and_crowd.ipynb)." if len(others) else 'No record on other people for this study.')

# %%
#| label: fig-learning
#| fig-cap: Loss and validation AP over the epochs, mean over seeds.
fig_curves = learning_curves(gather_history(study, folder), ('loss_heatmap', 'AP'), dict(loss_heatmap='heatmap loss', AP='validation AP (measured)'))

# %%
if results:
    write_table(study, folder)
    for name, f in (('gains', fig_gains), ('learning_curves', fig_curves)):
        if f: f.savefig(folder / study / f'{name}.png')
