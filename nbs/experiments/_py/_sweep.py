# ---
# jupyter:
#   kernelspec:
#     display_name: python3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # One sweep
#
# > A row of the table of sweeps, read from its records.

# %%
#| hide
from IPython.display import Markdown

from fsd_sdpose.drawing import show_images, use_style
from fsd_sdpose.experiments import check_parameters, first_pictures
from fsd_sdpose.figures import sweep_plot
from fsd_sdpose.studies import SWEEPS
from fsd_sdpose.tables import (
    conditions,
    gather_sweep,
    repository_results,
    sweep_table,
    sweep_verdict,
    to_markdown,
)

use_style()

# %% tags=["parameters"]
sweep: str = 'temperature'  # a key of fsd_sdpose.studies.SWEEPS
study: str = 'demo'  # a key of fsd_sdpose.studies.STUDIES
results: str = ''  # folder with the study's records; empty: the repository's

# %%
#| echo: false
check_parameters(globals(), sweep=str, study=str, results=str)
folder = results or repository_results()
Markdown(SWEEPS[sweep].about)

# %%
#| echo: false
#| label: fig-sweep
#| fig-cap: Paired gain over the run that each point is compared with, 95% intervals. The grey
#|   band is the margin.
sweep_plot(sweep, study, folder);

# %%
#| echo: false
table = to_markdown(sweep_table(sweep, study, folder))
Markdown(f'{sweep_verdict(sweep, study, folder)}\n\n{table}')

# %%
#| echo: false
#| label: fig-scenes
#| fig-cap: The first validation pictures of each kind of scene, a row each.
scenes = {p.group: first_pictures(study, p.overrides, 6) for p in SWEEPS[sweep].points
          if p.method == 'baseline' and any(k.startswith('scene.') for k in p.overrides)}
if scenes:
    show_images([picture for row in scenes.values() for picture in row], size=1.1)

# %% [markdown]
# ## Conditions
#
# Everything is computed from the records of all seeds. The workflow trains the points (`make grid SWEEPS=all`); a point that has not been run says so.

# %%
#| echo: false
sets = gather_sweep(sweep, study, folder).groupby('data', sort=False)
texts = [(', '.join(dict.fromkeys(rows.group)), conditions(rows)) for _, rows in sets]
Markdown('\n\n'.join(f'{name}: {text}' if len(texts) > 1 else text for name, text in texts))
