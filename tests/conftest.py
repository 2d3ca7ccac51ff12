"""Tests keep what they generate in a folder of their own, and use one thread each so that they can run side by side."""
import os
import tempfile
from pathlib import Path

import pytest
import torch

if not os.environ.get("FSD_CACHE"):
    os.environ["FSD_CACHE"] = str(Path(tempfile.gettempdir()) / "fsd_sdpose_tests")
torch.set_num_threads(1)


@pytest.fixture
def lspet():
    "The folder of Leeds Sports Pose Extended."
    folder = Path(os.environ.get("FSD_DATA") or "/nowhere") / "lspet"
    if not folder.is_dir():
        pytest.skip("FSD_DATA is not set, or holds no lspet: the photographs are not at hand")
    return folder
