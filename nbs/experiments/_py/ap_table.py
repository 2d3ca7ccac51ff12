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

# %%
#| hide
from pathlib import Path

from IPython.display import Markdown

from fsd_sdpose.drawing import use_style
from fsd_sdpose.experiments import check_parameters
from fsd_sdpose.figures import forest, learning_curves
from fsd_sdpose.studies import place_pairs
from fsd_sdpose.tables import (
    ap_table,
    conditions,
    contrasts,
    distinct,
    expected_table,
    gather,
    gather_history,
    repository_results,
    sentence,
    tests_text,
    to_markdown,
    with_interval,
    write_table,
)

use_style()

def listed(judged, metric='AP'):
    "A sentence per row."
    return '\n'.join(f'- {sentence(c, metric)}' for _, c in judged.iterrows())


# %% tags=["parameters"]
study: str = 'demo'  # a key of fsd_sdpose.studies.STUDIES
results: str = ''  # folder with <study>/runs, written to; empty: the repository's, read only

# %% [markdown]
# The columns called *expected* are the guide's, for COCO; nobody measured them. *Published* is the SDPose paper [@sdpose2024]. The columns called *measured* come from the run records of the study
# below, and from nothing else. Every difference has an interval over seeds and, where predictions were kept, pictures. Its verdict is corrected for the number of rows
# ([comparisons](../12_comparisons.ipynb)).

# %%
#| echo: false
#| label: fig-ap-gains
#| fig-cap: Gain over the baseline with its 95% interval. Diamonds are the guide's expectation for
#|   COCO; grey rows are controls; the grey band is the margin of 0.3 AP.
#| fig-alt: A forest plot with a row per method, its gain, interval and verdict.
check_parameters(globals(), study=str, results=str)
folder = Path(results or repository_results())
runs, expected = gather(study, folder), expected_table().expected_AP
more = Path(folder, 'clutter_and_crowd', 'runs')
others = gather('clutter_and_crowd', folder) if study == 'demo' and more.exists() else None
second = None if others is None else contrasts(others, metric='tests_AP')
judged = contrasts(runs)
gains = forest(judged, expected - expected['baseline'], second) if len(judged) else None

# %% [markdown]
# ## The table

# %%
#| echo: false
Markdown(to_markdown(ap_table(study, folder)) + '\n\n' + conditions(runs))

# %% [markdown]
# ## In words
#
# To beat the baseline is not enough. If the *place* of the weights mattered, FSD would also beat its own weights in shuffled order; if distillation mattered, it would beat the network without any.

# %%
#| echo: false
Markdown(listed(contrasts(runs, place_pairs())) or 'The controls were not run.')

# %%
#| echo: false
crowd = listed(contrasts(runs, metric='AP_crowd'), 'AP (crowd)')
Markdown('<details>\n<summary>Every method against the baseline, AP and AP (crowd)</summary>\n\n'
         f'{listed(judged)}\n{crowd}\n\n</details>')

# %% [markdown]
# The orange marks of the figure are a second look: networks trained again, scored on other people.

# %%
#| echo: false
if others is None:
    text = 'No records on other people for this study.'
else:
    gained = '; '.join(f'{c.method} {with_interval(c)}' for _, c in second.iterrows())
    machine, seeds = distinct(others, 'device'), second.seeds.iloc[0]
    text = (f'Trained on {machine}, gains over the baseline on {tests_text(others)}, '
            f'{seeds} seeds: {gained}. See [clutter and crowd](clutter_and_crowd.ipynb).')
Markdown(text)

# %%
#| echo: false
#| label: fig-learning
#| fig-cap: Loss and validation AP over the epochs, mean over seeds.
labels = dict(loss_heatmap='heatmap loss', AP='validation AP (measured)')
curves = learning_curves(gather_history(study, folder), tuple(labels), labels)

# %%
#| echo: false
if results:
    write_table(study, folder)
    for name, figure in dict(gains=gains, learning_curves=curves).items():
        if figure:
            figure.savefig(folder / study / f'{name}.png')
