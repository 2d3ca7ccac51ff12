"""The released SDPose code against ours, on recorded vectors (folder named by FSD_REFERENCE)."""
import os
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from fsd_sdpose.heatmaps import decode, encode, flip_merge
from fsd_sdpose.models import fill_weights, sdpose
from fsd_sdpose.skeletons import COCO
from fsd_sdpose.training import build_losses, make_config, total_loss

if not os.environ.get("FSD_REFERENCE"):
    pytest.skip("FSD_REFERENCE is not set: the recorded outputs of the released code "
                "are not at hand", allow_module_level=True)
PARITY = Path(os.environ["FSD_REFERENCE"]) / "parity"
RULE = runpy.run_path(str(PARITY / "fill_rule.py"))
TERMS = {"heatmap": "heatmap_loss", "visual": "vis_dist_loss", "keypoint": "kpt_dist_loss"}
variants = pytest.mark.parametrize("name", ["t", "s_v1"])


def tensors(what, dtype=torch.float32):
    return [torch.tensor(a).to(dtype) for a in RULE[what]()]


def recorded_and_ours(name):
    "Recorded outputs of a variant, and our network with the same weights."
    model = fill_weights(sdpose(name).eval(), RULE["fill"])
    return np.load(PARITY / f"sdpose_{name}.npz"), model


def terms(model, dtype=torch.float32):
    "The terms of the study's baseline."
    outs = model.to(dtype)(torch.stack(tensors("image", dtype)))
    return total_loss(outs, *tensors("target", dtype), build_losses(make_config()), model.grid)


@variants
def test_losses(name):
    "The study's baseline gives the released terms, all three within 1e-6 relative."
    recorded, model = recorded_and_ours(name)
    with torch.no_grad():
        ours = terms(model)
    np.testing.assert_allclose([ours[t] for t in TERMS], recorded["losses_eval_fp32"], rtol=1e-6)


@pytest.mark.slow
@variants
def test_gradients(name):
    "Gradient norm of every parameter for every loss, teacher not detached, float64."
    recorded, model = recorded_and_ours(name)
    parameters = dict(model.double().named_parameters())
    parameters = [parameters[n] for n in recorded["grad_names"]]
    ours = terms(model, torch.float64)
    for term, key in TERMS.items():
        grads = torch.autograd.grad(ours[term], parameters, retain_graph=True, allow_unused=True)
        norms = [0.0 if g is None else g.norm() for g in grads]
        expected = recorded[f"gradnorm_{key}"]
        # losses are computed in float32, so the comparison is relative to the largest norm
        np.testing.assert_allclose(norms, expected, rtol=2e-3, atol=1e-5 * expected.max())


@variants
def test_batch_norm_statistics(name):
    "Running variances after one forward pass in training mode."
    recorded, model = recorded_and_ours(name)
    with torch.no_grad():
        model.double().train()(torch.stack(tensors("image", torch.float64)))
    sums = [model.state_dict()[n].abs().sum() for n in recorded["train_running_var_names"]]
    np.testing.assert_allclose(sums, recorded["train_running_var_abs_sum"], rtol=1e-6)


def test_encoding():
    heatmaps, weight = encode(*tensors("joints"))
    target, target_weight = RULE["target"]()
    np.testing.assert_allclose(heatmaps, target, atol=1e-6)
    np.testing.assert_array_equal(weight, target_weight[..., 0])


def test_flip_through_the_model():
    "Flip test of the filled S-V1, column 0 keeping its value, decoded and mapped to image pixels."
    recorded, (_, model) = np.load(PARITY / "decode.npz"), recorded_and_ours("s_v1")
    images = torch.stack(tensors("image"))
    with torch.inference_mode():
        flipped = model.heatmaps(images.flip(-1))
        merged = flip_merge(model.heatmaps(images), flipped, COCO.flip_index)
    np.testing.assert_allclose(merged[0, [0, 9, 16]], recorded["flip_heatmap_s0"], atol=3e-5)
    joints, scores = decode(merged)
    center, scale = recorded["flip_boxes"][:, :2], recorded["flip_boxes"][:, 2:4]
    corner, zoom = (center - scale * 100)[:, None], (scale * 200 / [192, 256])[:, None]
    np.testing.assert_allclose(scores, recorded["flip_preds"][..., 2], atol=3e-5)
    in_image = joints.numpy() * zoom + corner
    np.testing.assert_allclose(in_image, recorded["flip_preds"][..., :2], atol=0.05)
