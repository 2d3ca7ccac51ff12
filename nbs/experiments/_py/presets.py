# ---
# jupyter:
#   kernelspec:
#     display_name: python3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Presets for simple and complex backgrounds
#
# > Do the guide's presets fit the backgrounds they are meant for?

# %% [markdown]
# The guide recommends 1.5 : 0.7 for simple backgrounds (and as a gentle start), 3.0 : 0.3 for complex or crowded ones, 1.3 : 0.8 as a last resort. Simple scenes show one person in
# little clutter, complex ones a group in heavy clutter. Every preset is compared with the baseline trained on the same scenes.

# %%
#| hide
import cv2
from IPython.display import Markdown

from fsd_sdpose.experiments import SCENES, check_parameters, conditions, gather_sweep, repository_results, resolve, study_files, sweep_table, sweep_verdict, to_markdown
from fsd_sdpose.figures import show_images, sweep_plot, use_style

use_style()

# %% tags=["parameters"]
study: str = 'demo'  # a key of fsd_sdpose.experiments.STUDIES
results: str = ''  # folder with the study's records; empty: the repository's

# %%
check_parameters(globals(), study=str, results=str)

# %%
#| label: fig-scenes
#| fig-cap: The two kinds of scenes, first pictures of each validation set. Above simple, below complex.
pictures = []
for scene in SCENES.values():
    s, _ = resolve('demo', 'baseline', 0, {f'scene.{k}': v for k, v in scene.items()} | dict(train_images=1, val_images=6))
    pictures += [cv2.imread(str(f))[..., ::-1] for f in sorted(study_files(s, splits=('val',))['val'][1].glob('*.jpg'))[:6]]
show_images(pictures, size=1.2);

# %% [markdown]
# ## The table
#
# Computed from the records of all seeds. The workflow trains the points (`make grid SWEEPS=presets`); a point that has not been run says so.

# %%
folder = results or repository_results()
Markdown(to_markdown(sweep_table('presets', study, folder)))

# %%
#| label: fig-sweep-presets
#| fig-cap: Paired gain over the baseline of the same scenes, 95% intervals over seeds.
sweep_plot('presets', study, folder, 'preset (foreground : background weight)');

# %% [markdown]
# ## Reading it

# %%
print(sweep_verdict('presets', study, folder))
points = gather_sweep('presets', study, folder)
for scene in SCENES: print(f'{scene} scenes. ' + conditions(points[points.group == scene]))
