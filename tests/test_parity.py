"""The released SDPose code against ours, on recorded vectors (folder named by FSD_REFERENCE)."""
import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from fsd_sdpose.heatmaps import decode, encode, flip_merge
from fsd_sdpose.losses import HeatmapMSELoss, TokenDistilLoss
from fsd_sdpose.models import sdpose
from fsd_sdpose.skeletons import COCO
from fsd_sdpose.training import build_losses, make_config, total_loss

if not os.environ.get("FSD_REFERENCE"):
    pytest.skip("FSD_REFERENCE is not set: the recorded outputs of the released code are not at hand", allow_module_level=True)
PARITY = Path(os.environ["FSD_REFERENCE"]) / "parity"


@pytest.fixture(scope="module")
def rule():
    spec = importlib.util.spec_from_file_location("fill_rule", PARITY / "fill_rule.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def filled(name, rule):
    model = sdpose(name)
    state = {k: torch.tensor(f) if (f := rule.fill(k, tuple(v.shape))) is not None else v for k, v in model.state_dict().items()}
    model.load_state_dict(state)
    return model.eval()


def terms(model, rule, dtype):
    target, weight = (torch.tensor(a).to(dtype) for a in rule.target())
    outs = model.to(dtype)(torch.tensor(rule.image()).to(dtype))
    losses = torch.nn.ModuleDict(dict(heatmap=HeatmapMSELoss(), visual=TokenDistilLoss(5e-6), keypoint=TokenDistilLoss(5e-6)))
    return total_loss(outs, target, weight, losses, model.grid)


@pytest.mark.parametrize("name", ["t", "s_v1"])
def test_losses(name, rule):
    "All three terms within 1e-6 relative, and the per-cycle heatmap losses."
    z = np.load(PARITY / f"sdpose_{name}.npz")
    with torch.no_grad():
        got = terms(filled(name, rule), rule, torch.float32)
    np.testing.assert_allclose([got[k].item() for k in ("heatmap", "visual", "keypoint")], z["losses_eval_fp32"], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t", "s_v1"])
def test_gradients(name, rule):
    "Gradient norm of every parameter for every loss, teacher not detached, float64."
    z, model = np.load(PARITY / f"sdpose_{name}.npz"), filled(name, rule)
    got = terms(model, rule, torch.float64)
    names = [str(n) for n in z["grad_names"]]
    parameters = dict(model.named_parameters())
    for term, key in (("heatmap", "gradnorm_heatmap_loss"), ("visual", "gradnorm_vis_dist_loss"), ("keypoint", "gradnorm_kpt_dist_loss")):
        grads = torch.autograd.grad(got[term], [parameters[n] for n in names], retain_graph=True, allow_unused=True)
        norms = np.array([0.0 if g is None else g.norm().item() for g in grads])
        # losses are computed in float32, so the comparison is relative to the largest norm
        np.testing.assert_allclose(norms, z[key], rtol=2e-3, atol=1e-5 * z[key].max())


@pytest.mark.parametrize("name", ["t", "s_v1"])
def test_batch_norm_statistics(name, rule):
    "Running variances after one forward pass in training mode."
    z, model = np.load(PARITY / f"sdpose_{name}.npz"), filled(name, rule).double().train()
    with torch.no_grad():
        model(torch.tensor(rule.image()).double())
    got = [model.state_dict()[str(n)].abs().sum().item() for n in z["train_running_var_names"]]
    np.testing.assert_allclose(got, z["train_running_var_abs_sum"], rtol=1e-6)


def test_encoding(rule):
    joints, visible = (torch.tensor(a) for a in rule.joints())
    heatmaps, weight = encode(joints, visible)
    target, target_weight = rule.target()
    np.testing.assert_allclose(heatmaps.numpy(), target, atol=1e-6)
    np.testing.assert_array_equal(weight.numpy(), target_weight[..., 0])


def test_flip_through_the_model(rule):
    "Flip test of the filled S-V1, column 0 keeping its value, decoded and mapped to image pixels."
    z, model = np.load(PARITY / "decode.npz"), filled("s_v1", rule)
    images = torch.tensor(rule.image())
    with torch.inference_mode():
        merged = flip_merge(model.heatmaps(images), model.heatmaps(images.flip(-1)), COCO.flip_index)
    np.testing.assert_allclose(merged[0, [0, 9, 16]].numpy(), z["flip_heatmap_s0"], atol=3e-5)
    joints, scores = decode(merged)
    center, scale = z["flip_boxes"][:, :2], z["flip_boxes"][:, 2:4]
    image_px = joints.numpy() * (scale * 200 / [192, 256])[:, None] + (center - scale * 100)[:, None]
    np.testing.assert_allclose(scores.numpy(), z["flip_preds"][..., 2], atol=3e-5)
    np.testing.assert_allclose(image_px, z["flip_preds"][..., :2], atol=0.05)


def test_build_losses_is_the_released_baseline(rule):
    "The study's baseline dictionaries give the released terms."
    model = filled("s_v1", rule)
    target, weight = (torch.tensor(a) for a in rule.target())
    z = np.load(PARITY / "sdpose_s_v1.npz")
    with torch.no_grad():
        got = total_loss(model(torch.tensor(rule.image())), target, weight, build_losses(make_config()), model.grid)
    np.testing.assert_allclose([got[k].item() for k in ("heatmap", "visual", "keypoint")], z["losses_eval_fp32"], rtol=1e-6)
