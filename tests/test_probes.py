"""Probes on real photographs and at the edges: what is refused, what is None, and that nothing about the model changes."""
import json
import math

import pytest
import torch

from fsd_sdpose.crops import Augmentation
from fsd_sdpose.data import PoseDataset
from fsd_sdpose.losses import ForegroundTokenDistilLoss, TokenDistilLoss
from fsd_sdpose.models import Attention, sdpose
from fsd_sdpose.probes import (
    attention_maps,
    attention_probe,
    cover,
    cover_probe,
    gradient_probe,
    pick_people,
    probe,
)
from fsd_sdpose.synthetic import make_dataset
from fsd_sdpose.training import build_losses, make_config

KEYS = {"background_gradient", "background_gradient_plain", "background_tokens", "attention_local", "attention_local_last", "attention_local_uniform",
        "attention_distance", "attention_distance_uniform", "attention_visual", "OKS_covered", "OKS_clear", "people"}


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    file = make_dataset(tmp_path_factory.mktemp("probes") / "people", 10, seed=2, size=(128, 96), people=1)
    return PoseDataset(file, file.parent / "images", input_size=(128, 96))


def model(variant="n", num_keypoints=17, cycles=None):
    torch.manual_seed(0)
    return sdpose(variant, num_keypoints, cycles)


def test_record_is_json_and_in_range(people):
    answers = probe(model(), people, build_losses(make_config()), num_people=10)
    assert answers.keys() == KEYS and json.loads(json.dumps(answers, allow_nan=False)) == answers
    assert answers["background_gradient"] == pytest.approx(answers["background_gradient_plain"])  # the baseline's loss is the plain one
    for key in KEYS - {"attention_distance", "attention_distance_uniform", "OKS_covered", "OKS_clear", "people"}:
        assert 0 < answers[key] < 1, key


@pytest.mark.parametrize("method", ["TokenDistilLoss", "ForegroundTokenDistilLoss"])
def test_detaching_the_teacher_does_not_matter(people, method):
    batch = pick_people(people, 6)
    kinds = {"TokenDistilLoss": TokenDistilLoss, "ForegroundTokenDistilLoss": ForegroundTokenDistilLoss}
    a, b = (gradient_probe(model(), batch, kinds[method](detach_teacher=d)) for d in (False, True))
    assert a == b


def test_answers_do_not_depend_on_batches_loss_weight_or_grad_mode(people, monkeypatch):
    batch, loss = pick_people(people, 10), ForegroundTokenDistilLoss()
    whole = [gradient_probe(model(), batch, loss), attention_probe(model(), batch), cover_probe(model(), batch, people.skeleton)]
    monkeypatch.setattr("fsd_sdpose.probes.BATCH", 3)
    with torch.no_grad():
        parts = [gradient_probe(model(), batch, ForegroundTokenDistilLoss(1.0)), attention_probe(model(), batch), cover_probe(model(), batch, people.skeleton)]
    for a, b in zip(whole, parts, strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_empty_strata_are_none(people):
    batch = pick_people(people, 3)
    batch["visible"] = torch.zeros_like(batch["visible"])
    assert cover_probe(model(), batch, people.skeleton) == dict(OKS_covered=None, OKS_clear=None)
    answers = attention_probe(model(), batch)
    assert answers["attention_local"] is answers["attention_local_uniform"] is answers["attention_distance"] is None
    assert gradient_probe(model(), batch, TokenDistilLoss())["background_gradient"] == 1  # nobody annotated: all background
    assert gradient_probe(model(), batch, ForegroundTokenDistilLoss(loss_weight=0.0))["background_gradient"] is None
    assert probe(model(cycles=1), people, build_losses(make_config()), 3)["background_gradient_plain"] is None


def test_a_joint_covered_is_seen_no_more(people):
    "What the network sees under the square has no influence: two pictures that differ there only give the same answer."
    images, places = torch.randn(2, 3, 128, 96), torch.tensor([[40.0, 60.0], [10.0, 100.0]])
    other = images.clone()
    other[0, :, 55:65, 35:45] += 1
    net = model().eval()
    with torch.inference_mode():
        assert torch.equal(net.heatmaps(cover(images, places, 16.0)), net.heatmaps(cover(other, places, 16.0)))
        assert not torch.equal(net.heatmaps(images)[0], net.heatmaps(other)[0])


def test_hooks_are_removed_after_an_error():
    net = model()
    with pytest.raises(ValueError, match="this model takes"):
        attention_maps(net, torch.zeros(1, 3, 256, 192))
    assert net.training and not any(m._forward_pre_hooks for m in net.modules() if isinstance(m, Attention))
    for cycle in (-1, 2, 0.5, None):
        with pytest.raises(ValueError, match="cycle must be in 0..1"):
            attention_maps(net, torch.zeros(1, 3, 128, 96), cycle)


def test_wrong_input_is_refused(people):
    losses, moving = build_losses(make_config()), PoseDataset(people.annotation_file, people.image_root, input_size=(128, 96), augment=Augmentation())
    for args, message in (((model(num_keypoints=14), people, losses), "the model 14"), ((model("t"), people, losses), "pass input_size"),
                          ((model(), moving, losses), "augment=None"), ((model(), people, losses, 0), "num_people must be at least 1")):
        with pytest.raises(ValueError, match=message):
            probe(*args)
    with pytest.raises(ValueError, match="covers must be at least 1"):
        probe(model(), people, losses, 2, covers=0)


@pytest.mark.parametrize("variant", ["n", "t"])
def test_photographs(lspet, variant):
    "Fourteen joints and crops of another size, of people whose joints carry no occlusion flags."
    net = model(variant, 14)
    data = PoseDataset(lspet / "person_keypoints_val.json", lspet / "images", input_size=net.variant.input_size)
    answers = probe(net, data, build_losses(make_config()), num_people=4, covers=1)
    assert answers.keys() == KEYS and 0 < answers["background_tokens"] < 1 and answers["OKS_covered"] is not None
    assert math.isfinite(answers["attention_distance"])
