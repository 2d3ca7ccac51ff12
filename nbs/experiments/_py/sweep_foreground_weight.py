# ---
# jupyter:
#   kernelspec:
#     display_name: python3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Sweep: foreground weight
#
# > How much more should foreground count?

# %% [markdown]
# The guide's tuning table tries 1.5 (gentle), 2.0, 3.0 and 5.0, with the background weight at 0.5. Everything else is as in [Experiment 1](fsd.ipynb).

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
# Computed from the records of all seeds. The workflow trains the points (`make grid SWEEPS=foreground_weight`); a point that has not been run says so.

# %%
folder = results or repository_results()
Markdown(to_markdown(sweep_table('foreground_weight', study, folder)))

# %%
#| label: fig-sweep-foreground-weight
#| fig-cap: Paired gain over the baseline against the foreground weight, 95% intervals over seeds.
sweep_plot('foreground_weight', study, folder, 'foreground weight');

# %% [markdown]
# ## Reading it

# %%
print(sweep_verdict('foreground_weight', study, folder))
print(conditions(gather_sweep('foreground_weight', study, folder)))
