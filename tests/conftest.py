"""What all tests share: a folder for what they generate, one thread each, generous time limits, and strictness about skipping.

With FSD_STRICT=1 a test that is skipped has failed, so that nothing is left out unseen.
"""
import os
import tempfile
from pathlib import Path

import pytest
import torch

LIMIT = 900  # seconds that anything outside may take before it counts as stuck: long enough for a machine that is busy with other work
STRICT = os.environ.get("FSD_STRICT", "") not in ("", "0")

if not os.environ.get("FSD_CACHE"):  # one folder per user: /tmp is shared
    os.environ["FSD_CACHE"] = str(Path(tempfile.gettempdir()) / f"fsd_sdpose_tests-{getattr(os, 'getuid', lambda: 'all')()}")
torch.set_num_threads(1)


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes more than three seconds or so; leave these out with -m 'not slow'")


def refused(report, name):
    "Turn a skip into a failure that says what was skipped and why; anything else stays as it is."
    if STRICT and report.skipped and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr).removeprefix("Skipped: ")
        report.outcome = "failed"
        report.longrepr = f"{name} was skipped: {reason}\nFSD_STRICT is set, so a skipped test is a failure: provide what it asks for, or unset FSD_STRICT"
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item):
    return refused((yield), item.nodeid)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(collector):
    "Modules that skip themselves as a whole."
    return refused((yield), collector.nodeid)


@pytest.fixture
def lspet():
    "The folder of Leeds Sports Pose Extended."
    folder = Path(os.environ.get("FSD_DATA") or "/nowhere") / "lspet"
    if not folder.is_dir():
        pytest.skip("FSD_DATA is not set, or holds no lspet: the photographs are not at hand")
    return folder
