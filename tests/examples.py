"""What the tests with generated examples share: no chance from run to run, and values to draw.

Every run draws the same examples, on every machine: they follow from the test's own text. With
FSD_FEW_EXAMPLES=1 it draws a few of them and does not look for the smallest one that fails.
"""
import os
import tempfile
from pathlib import Path

import torch
from hypothesis import HealthCheck, Phase, configuration, given, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture import providers

# constants of whatever modules happen to be loaded would change what is drawn
providers._get_local_constants = lambda nothing=providers._local_constants: nothing
configuration.set_hypothesis_home_dir(Path(tempfile.gettempdir(), "fsd_sdpose_hypothesis"))

FEW = os.environ.get("FSD_FEW_EXAMPLES", "") not in ("", "0")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SEEDS = st.integers(0, 2**31 - 1)
ANY_FLOAT = st.floats() | st.sampled_from([0.0, 1e-300, 1e-45, 1e-30, 1e30, 4e157, 1.7e308])
MAPS = dict(  # kinds of heatmaps by what happens to uniform numbers
    uniform=lambda u: u, peaks=lambda u: u**8, wide=lambda u: 3 * u - 1, none=lambda u: 0 * u,
    negative=lambda u: -u, flat=lambda u: 0 * u + u.flatten()[0], full=lambda u: 0 * u + 1)
TOKENS = dict(
    normal=lambda u: (u - 0.5) * 4, large=lambda u: (u - 0.5) * 1e4, none=lambda u: 0 * u,
    small=lambda u: (u - 0.5) * 1e-3, sparse=lambda u: (u > 0.8) * u)


def examples(count=40, **what):
    "A property of drawn values, looked at in `count` examples."
    phases = Phase.explicit, Phase.generate, Phase.shrink
    always = settings(max_examples=max(count // 4, 8) if FEW else count, derandomize=True,
                      database=None, deadline=None, suppress_health_check=list(HealthCheck),
                      print_blob=False, report_multiple_bugs=False,
                      phases=phases[:2] if FEW else phases)
    return lambda test: always(given(**what)(test))


def uniform(seed, *shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def tensors(kinds, *shape):
    "Tensors of a shape, of one of several kinds."
    pick = st.sampled_from(sorted(kinds))
    return st.builds(lambda kind, seed: kinds[kind](uniform(seed, *shape)), pick, SEEDS)


def order_of(seed, n):
    "A permutation of n things."
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def close(a, b, eps=1e-5):
    "Whether two tensors or numbers agree, relative to the larger of them."
    a, b = (torch.as_tensor(x).detach().double() for x in (a, b))
    scale = max(float(a.abs().max()), float(b.abs().max()), 1e-30)
    return bool(torch.isfinite(a).all()) and float((a - b).abs().max()) <= eps * scale


def refused(call, *args, kinds=(ValueError, TypeError, FloatingPointError), **kwargs):
    "The result and '', or None and the one-line message of an error of these kinds."
    try:
        return call(*args, **kwargs), ""
    except kinds as e:
        text = str(e)
        assert text.strip() and "\n" not in text.strip(), f"not one line: {text!r}"
        return None, text
