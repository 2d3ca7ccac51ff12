# ---
# jupyter:
#   kernelspec:
#     display_name: python3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Sweep: weight of the distillation losses
#
# > Is there enough distillation for its weighting to matter?

# %% [markdown]
# The guide tries 2e-6, 5e-6 and 1e-5 for both distillation losses. At these weights the gradient of the terms is a small part
# of the heatmap term's (the ratio is in every run's history), so two larger weights are tried as well. Baseline and FSD are compared at the same weight.

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
# Computed from the records of all seeds. The workflow trains the points (`make grid SWEEPS=loss_weight`); a point that has not been run says so.

# %%
folder = results or repository_results()
Markdown(to_markdown(sweep_table('loss_weight', study, folder)))

# %%
#| label: fig-sweep-loss-weight
#| fig-cap: Paired gain of FSD over the baseline of the same loss weight, 95% intervals over seeds.
sweep_plot('loss_weight', study, folder, 'weight of both distillation losses');

# %% [markdown]
# ## Reading it

# %%
print(sweep_verdict('loss_weight', study, folder))
print(conditions(gather_sweep('loss_weight', study, folder)))
