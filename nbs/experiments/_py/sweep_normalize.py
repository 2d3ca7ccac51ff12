# ---
# jupyter:
#   kernelspec:
#     display_name: python3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Sweep: normalisation of the foreground loss
#
# > Does the gain, if any, come from where the weights are or from how large they are?

# %% [markdown]
# With 'none' (the guide's formula) the weights also change the size of the loss; with 'weights' only their ratio matters; with 'regions' foreground and background are averaged separately
# ([losses](../05_losses.ipynb)).

# %%
#| hide
from IPython.display import Markdown

from fsd_sdpose.experiments import check_parameters, conditions, gather_sweep, repository_results, sweep_table, sweep_verdict, to_markdown
from fsd_sdpose.figures import sweep_plot, use_style

use_style()

# %% tags=["parameters"]
study: str = 'demo'  # a key of fsd_sdpose.experiments.STUDIES
results: str = ''  # folder with the study's records; empty: the repository's

# %%
check_parameters(globals(), study=str, results=str)

# %% [markdown]
# ## The table
#
# Computed from the records of all seeds. The workflow trains the points (`make grid SWEEPS=normalize`); a point that has not been run says so.

# %%
folder = results or repository_results()
Markdown(to_markdown(sweep_table('normalize', study, folder)))

# %%
#| label: fig-sweep-normalize
#| fig-cap: Paired gain over the baseline for each normalisation, 95% intervals over seeds.
sweep_plot('normalize', study, folder, 'normalisation');

# %% [markdown]
# ## Reading it

# %%
print(sweep_verdict('normalize', study, folder))
print(conditions(gather_sweep('normalize', study, folder)))
