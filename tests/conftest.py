"""What all tests share: a folder for what they make, one thread each, a time limit, strictness.

With FSD_STRICT=1 a test that is skipped has failed, so that nothing is left out unseen.
"""
import os
import tempfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb")
                   if not any(part[0] in "_." for part in p.relative_to(ROOT).parts))
LIMIT = 1800  # seconds after which a process, or a page, counts as stuck: the machine may be busy
STRICT = os.environ.get("FSD_STRICT", "") not in ("", "0")

if not os.environ.get("FSD_CACHE"):  # one folder per user: /tmp is shared
    user = os.getuid() if hasattr(os, "getuid") else "all"
    os.environ["FSD_CACHE"] = str(Path(tempfile.gettempdir()) / f"fsd_sdpose_tests-{user}")
torch.set_num_threads(1)


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes more than three seconds or so (-m 'not slow')")


def refused(report, name):
    "Turn a skip into a failure that says what was skipped and why; anything else stays as it is."
    if STRICT and report.skipped and not hasattr(report, "wasxfail"):
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = (f"{name} was skipped: {str(why).removeprefix('Skipped: ')}\nFSD_STRICT "
                           "is set, so a skipped test is a failure: provide what it asks for, or "
                           "unset FSD_STRICT")
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item):
    return refused((yield), item.nodeid)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(collector):
    "Modules that skip themselves as a whole."
    return refused((yield), collector.nodeid)


@pytest.fixture(autouse=True)
def same_random_state():
    "A test draws the same numbers in whatever order, and beside whatever others, it runs."
    torch.manual_seed(0)


@pytest.fixture
def lspet():
    "The folder of Leeds Sports Pose Extended."
    folder = Path(os.environ.get("FSD_DATA") or "/nowhere") / "lspet"
    if not folder.is_dir():
        pytest.skip("FSD_DATA is not set, or holds no lspet: the photographs are not at hand")
    return folder
