"""Trains and evaluates, for test_processes.py: two_processes.py FOLDER OUT SETTINGS"""
import json
import os
import sys
from pathlib import Path

import torch

from fsd_sdpose.data import PoseDataset
from fsd_sdpose.models import sdpose
from fsd_sdpose.training import fit, make_config, validate

torch.set_num_threads(1)
folder, out, settings = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
train, val = (PoseDataset(folder / f"{name}.json", folder / "images", input_size=(128, 96))
              for name in ("train", "val"))
config = make_config(variant="n", device="cpu", batch_size=4, base_batch=4, warmup_steps=5,
                     flip_test=False, **settings)
torch.manual_seed(0)
model = sdpose("n")
before = validate(model, val, config, torch.device("cpu"), out.with_suffix(".before.json"))
visited = []
history = fit(model, train, val, config, show=False, results_file=out.with_suffix(".results.json"),
              checkpoints=out.with_suffix(".weights"),
              after_epoch=lambda epoch, *_: visited.append(epoch))
result = dict(history=history.drop(columns="seconds").to_dict("list"), visited=visited,
              variance=model.backbone.bn1.running_var.tolist(), before=before)
out.with_suffix(f".rank{os.environ.get('RANK', 0)}").write_text(json.dumps(result))
