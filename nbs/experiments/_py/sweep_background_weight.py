# ---
# jupyter:
#   kernelspec:
#     display_name: python3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Sweep: background weight
#
# > How much less should background count?

# %% [markdown]
# The guide's tuning table tries 0.1, 0.3, 0.5 and 0.7, with the foreground weight at 2.0. Everything else is as in [Experiment 1](fsd.ipynb).

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
# Computed from the records of all seeds. The workflow trains the points (`make grid SWEEPS=background_weight`); a point that has not been run says so.

# %%
folder = results or repository_results()
Markdown(to_markdown(sweep_table('background_weight', study, folder)))

# %%
#| label: fig-sweep-background-weight
#| fig-cap: Paired gain over the baseline against the background weight, 95% intervals over seeds.
sweep_plot('background_weight', study, folder, 'background weight');

# %% [markdown]
# ## Reading it

# %%
print(sweep_verdict('background_weight', study, folder))
print(conditions(gather_sweep('background_weight', study, folder)))
