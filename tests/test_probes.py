"""Probes on photographs and at the edges: what is None, and that no model changes."""
import json
import math

import pytest
import torch

from fsd_sdpose import probes
from fsd_sdpose.data import PoseDataset
from fsd_sdpose.losses import ForegroundTokenDistilLoss, TokenDistilLoss
from fsd_sdpose.models import Attention, sdpose
from fsd_sdpose.synthetic import make_dataset
from fsd_sdpose.training import build_losses, make_config

SHARES = {"background_gradient", "background_gradient_plain", "background_tokens",
          "attention_local", "attention_local_last", "attention_local_uniform", "attention_visual"}
OTHERS = {"attention_distance", "attention_distance_uniform", "OKS_covered", "OKS_clear", "people"}
BASELINE = build_losses(make_config())


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probes") / "people"
    file = make_dataset(folder, 10, seed=2, size=(128, 96), people=1)
    return PoseDataset(file, folder / "images", input_size=(128, 96))


def model(variant="n", num_keypoints=17, cycles=None):
    torch.manual_seed(0)
    return sdpose(variant, num_keypoints, cycles)


def test_record_is_json_and_in_range(people):
    answers = probes.probe(model(), people, BASELINE, num_people=10)
    assert answers.keys() == SHARES | OTHERS
    assert json.loads(json.dumps(answers, allow_nan=False)) == answers
    plain = answers["background_gradient_plain"]
    assert answers["background_gradient"] == pytest.approx(plain), "the baseline's loss is plain"
    assert all(0 < answers[key] < 1 for key in SHARES), answers


def test_answers_do_not_depend_on_batches_loss_weight_or_grad_mode(people, monkeypatch):
    def answers(loss_weight):
        losses = torch.nn.ModuleDict(dict(visual=ForegroundTokenDistilLoss(loss_weight)))
        return probes.probe(model(), people, losses, 10)
    whole = answers(5e-6)
    monkeypatch.setattr(probes, "BATCH", 3)
    with torch.no_grad():
        assert answers(1.0) == pytest.approx(whole, rel=1e-4)


def test_empty_strata_are_none(people):
    batch = probes.pick_people(people, 3)
    batch["visible"] = torch.zeros_like(batch["visible"])
    covered = probes.cover_probe(model(), batch, people.skeleton)
    assert covered == dict(OKS_covered=None, OKS_clear=None)
    answers = probes.attention_probe(model(), batch)
    assert {k for k, v in answers.items() if v is not None} == {"attention_visual"}
    for loss, share in ((TokenDistilLoss(), 1), (ForegroundTokenDistilLoss(loss_weight=0.0), None)):
        answers = probes.gradient_probe(model(), batch, loss)
        assert answers["background_gradient"] == share  # nobody annotated: all is background
    answers = probes.probe(model(cycles=1), people, BASELINE, 3)
    assert answers["background_gradient_plain"] is None


def test_a_joint_covered_is_seen_no_more(people):
    "Pictures that differ only under the square give the same answer."
    images, places = torch.randn(2, 3, 128, 96), torch.tensor([[40.0, 60.0], [10.0, 100.0]])
    other, net = images.clone(), model().eval()
    other[0, :, 55:65, 35:45] += 1
    with torch.inference_mode():
        a, b = (net.heatmaps(probes.cover(x, places, 16.0)) for x in (images, other))
        assert torch.equal(a, b)
        assert not torch.equal(net.heatmaps(images)[0], net.heatmaps(other)[0])


def test_hooks_are_removed_after_an_error():
    net = model()
    with pytest.raises(ValueError, match="this model takes"):
        probes.attention_maps(net, torch.zeros(1, 3, 256, 192))
    layers = [m for m in net.modules() if isinstance(m, Attention)]
    assert net.training and not any(layer._forward_pre_hooks for layer in layers)
    for cycle in (-1, 2, 0.5, None):
        with pytest.raises(ValueError, match="cycle must be in 0..1"):
            probes.attention_maps(net, torch.zeros(1, 3, 128, 96), cycle)


@pytest.mark.parametrize("variant", ["n", "t"])
def test_photographs(lspet, variant):
    "Fourteen joints and crops of another size; the joints carry no occlusion flags."
    net = model(variant, 14)
    file, size = lspet / "person_keypoints_val.json", net.variant.input_size
    data = PoseDataset(file, lspet / "images", input_size=size)
    answers = probes.probe(net, data, BASELINE, num_people=4, covers=1)
    assert answers.keys() == SHARES | OTHERS and 0 < answers["background_tokens"] < 1
    assert answers["OKS_covered"] is not None and math.isfinite(answers["attention_distance"])
