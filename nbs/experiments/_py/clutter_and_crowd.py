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
# > If foreground weights help because backgrounds distract, the gain should grow with clutter; if they help among people, with crowding. Both are dials of the drawn pictures.

# %%
#| hide
from IPython.display import Markdown

from fsd_sdpose.drawing import use_style
from fsd_sdpose.experiments import check_parameters
from fsd_sdpose.figures import levels_plot
from fsd_sdpose.tables import (
    conditions,
    contrasts,
    gather,
    kinds_of_tests,
    repository_results,
    sentence,
    tests_text,
)

use_style()

# %% tags=["parameters"]
study: str = 'clutter_and_crowd'  # a key of fsd_sdpose.studies.STUDIES with test sets
results: str = ''  # folder with the study's records; empty: the repository's

# %% [markdown]
# The study `clutter_and_crowd` trains methods like the demo, and evaluates each network on further test sets. They differ in one thing: how full the background is, or how close people stand. Within
# each kind of set, the n-th picture shows the same people at every level. A gain that the control `fsd_shuffled` shares does not come from the place of the weights.

# %%
#| echo: false
#| label: fig-clutter-crowd
#| fig-cap: AP of the methods on sets of growing clutter and crowding (above), and their gain over
#|   the baseline of the same seed with 95% intervals over seeds and pictures (below).
#| fig-alt: Four panels, clutter on the left and crowd on the right. Above, AP of each method
#|   against the level. Below, its gain over the baseline, with error bars.
check_parameters(globals(), study=str, results=str)
runs = gather(study, results or repository_results())
levels_plot(runs);


# %% [markdown]
# ## Reading it
#
# Is a gain larger where there is more clutter or crowding? For each seed, the gain at the highest level minus the gain at the lowest:

# %%
#| echo: false
def growth(kind):
    "What the records say of the change of each gain between the ends of a kind."
    table = contrasts(runs, metric=f'growth_{kind}')
    return [sentence(c, f'AP from lowest to highest {kind}') for _, c in table.iterrows()]

Markdown('\n'.join(f'- {line}' for kind in kinds_of_tests(runs) for line in growth(kind)))

# %% [markdown]
# Averaged over all sets, this is also a second look at the gains of the demo: networks trained again, on the machine named below, and people who played no part in it.

# %%
#| echo: false
lines = [sentence(c, 'AP') for _, c in contrasts(runs, metric='tests_AP').iterrows()]
text = '\n'.join(f'- {line}' for line in lines)
Markdown(f'{text}\n\nOn {tests_text(runs)}. {conditions(runs)}')
