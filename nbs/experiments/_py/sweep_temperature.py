# ---
# jupyter:
#   kernelspec:
#     display_name: python3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Sweep: temperature of the mask
#
# > A hard edge, or a soft one?

# %% [markdown]
# The guide's tuning table tries 0.5 (hard edge), 1.0 (balanced) and 2.0 (soft). The page on [masks](../04_masks.ipynb) shows what that does to the mask.

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
# Computed from the records of all seeds. The workflow trains the points (`make grid SWEEPS=temperature`); a point that has not been run says so.

# %%
folder = results or repository_results()
Markdown(to_markdown(sweep_table('temperature', study, folder)))

# %%
#| label: fig-sweep-temperature
#| fig-cap: Paired gain over the baseline against the temperature, 95% intervals over seeds.
sweep_plot('temperature', study, folder, 'temperature');

# %% [markdown]
# ## Reading it

# %%
print(sweep_verdict('temperature', study, folder))
print(conditions(gather_sweep('temperature', study, folder)))
