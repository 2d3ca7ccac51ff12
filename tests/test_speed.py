"""What makes training fast must not change it: no waiting inside a step, plain and shipped steps agree, compilation is optional, loaders do not grow."""
import warnings

import psutil
import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode

from fsd_sdpose import models, training
from fsd_sdpose.crops import Augmentation
from fsd_sdpose.data import PoseDataset, make_loader, to_input
from fsd_sdpose.evaluation import predict
from fsd_sdpose.studies import METHODS
from fsd_sdpose.models import deploy, sdpose
from fsd_sdpose.synthetic import make_dataset
from fsd_sdpose.training import build_losses, fit, make_config, make_optimizer, train_step


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    file = make_dataset(tmp_path_factory.mktemp("people"), 10, seed=3, size=(128, 96), people=1)
    return lambda **kw: PoseDataset(file, file.parent / "images", input_size=(128, 96), **kw)


def batch(n=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    return dict(image=torch.randint(0, 255, (n, 128, 96, 3), dtype=torch.uint8, generator=g), joints=torch.rand(n, 17, 2, generator=g) * 90, visible=torch.ones(n, 17))


def trainer(method="fsd", **settings):
    config = make_config(**dict(batch_size=4, base_batch=4, **settings) | METHODS[method])
    torch.manual_seed(0)
    model, losses = sdpose("n").train(), build_losses(config)
    if config.loss_vis_token_dist["type"].startswith("Dynamic"):
        losses["visual"].set_epoch(60, 300)
    optimizer = make_optimizer(model, losses, config)
    objective = training.Objective(model, losses, config)
    return lambda data: train_step(model, data, losses, optimizer, config, torch.device("cpu"), objective=objective)


class Waits(TorchDispatchMode):
    "Collects operations for which a host would wait for a GPU: reading a value, a size that depends on values, a copy of a Python list."
    NAMES = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "lift_fresh", "masked_select", "unique")

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._overloadpacket.__name__ in self.NAMES:
            self.found.append(func._overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("settings", [dict(method=m) for m in METHODS] + [dict(precision="bf16"), dict(accumulate=2)], ids=str)
def test_nothing_in_a_step_waits_for_a_value(settings, monkeypatch):
    step = trainer(**settings)
    step(batch())
    monkeypatch.setattr(torch.optim.Adam, "step", lambda *_, **__: None)  # on a GPU it is the fused one, which keeps its count on the device
    with Waits() as waits:
        step(batch())
    assert not waits.found
    with waits:
        torch.ones(1).item()
    assert waits.found  # the net catches fish


@pytest.mark.slow
def test_plain_and_shipped_steps_agree(monkeypatch):
    "Attention by einsum with stored maps, fifty steps, float32."
    def losses():
        step = trainer()
        return torch.stack([step(batch(seed=s))["loss"] for s in range(50)])
    shipped = losses()
    def plain(q, k, v):
        return torch.einsum("nhij,nhjd->nhid", (torch.einsum("nhid,nhjd->nhij", q, k) * q.shape[-1]**-.5).softmax(-1), v)
    monkeypatch.setattr(models, "attend", plain)
    assert ((losses() - shipped).abs() / shipped).max() < 1e-4


@pytest.mark.slow
def test_bf16_follows_fp32():
    low, full = trainer(precision="bf16"), trainer()
    a, b = (torch.stack([step(batch(seed=s))["loss"] for s in range(10)]) for step in (low, full))
    assert a.dtype == torch.float32 and ((a - b).abs() / b).max() < .05


def test_a_term_that_is_not_finite_is_named_with_its_step(people, monkeypatch):
    "Noticed late, reported exactly; and nothing was validated or saved in between."
    count, encode = [], training.encode
    def spoiled(*args):
        target, weight = encode(*args)
        count.append(1)
        return target * (float("nan") if len(count) == 7 else 1.), weight
    monkeypatch.setattr(training, "encode", spoiled)
    monkeypatch.setattr(training, "validate", lambda *_: pytest.fail("validated"))
    config = make_config(epochs=3, batch_size=2, val_every=1, device="cpu")
    with pytest.raises(FloatingPointError, match=r"epoch 2, step 2 of 5: heatmap term of cycle 1: the loss is nan. The guide's remedy .* foreground_weight=1.5"):
        fit(sdpose("n"), people(), None, config, show=False)
    assert len(count) == 10


@pytest.mark.slow
def test_compilation_is_traced_and_gives_the_same(monkeypatch):
    "The graph is caught whole; the compiler behind it is replaced by plain execution, so that this is quick."
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **kw: compiler(f, backend="eager", fullgraph=True, **kw))
    plain, compiled = trainer(), trainer(compile=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for seed in range(3):
            a, b = plain(batch(seed=seed)), compiled(batch(seed=seed))
            assert a.keys() == b.keys()
            torch.testing.assert_close(list(a.values()), list(b.values()), rtol=1e-5, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fsd", "dynamic"])
def test_a_schedule_does_not_compile_again(method, monkeypatch):
    "The weights of the dynamic loss change with every step; the graph takes them as numbers from outside after the second."
    compiler, graphs = torch.compile, CompileCounter()
    monkeypatch.setattr(torch, "compile", lambda f, **kw: compiler(f, backend=graphs, **kw))
    config = make_config(batch_size=4, base_batch=4, compile=True, **METHODS[method])
    model, losses = sdpose("n").train(), build_losses(config)
    optimizer, objective = make_optimizer(model, losses, config), training.Objective(model, losses, config)
    for i in range(12):
        training._set_epoch(losses, 60 + i, 300)
        train_step(model, batch(), losses, optimizer, config, torch.device("cpu"), objective=objective)
    assert 1 <= graphs.frame_count <= 2


def test_where_compilation_fails_training_goes_on(people, monkeypatch):
    def broken(*_):
        raise RuntimeError("no compiler found\nlong story")
    monkeypatch.setattr(torch, "compile", lambda f, **kw: broken)
    config = dict(epochs=1, batch_size=4, device="cpu")
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="torch.compile failed, going on without it: RuntimeError: no compiler found"):
        history = fit(sdpose("n"), people(), None, make_config(**config, compile=True), show=False)
    torch.manual_seed(0)
    again = fit(sdpose("n"), people(), None, make_config(**config), show=False)
    assert history.loss.tolist() == again.loss.tolist()


def test_deployed_network_predicts_the_same(people, monkeypatch):
    "Also compiled, where the smaller last batch is filled up to the shape that was compiled."
    shapes = []
    def compiler(f, **kw):
        return lambda x: (shapes.append(len(x)), f(x))[1]
    monkeypatch.setattr(torch, "compile", compiler)
    torch.manual_seed(0)
    model = sdpose("n").eval()
    torch.nn.init.normal_(model.keypoint_head["tokenpose"].mlp_head[-1].weight, std=.02)
    expected, plain, compiled = (predict(m, make_loader(people(), 4), flip_test=True) for m in (model, deploy(model), deploy(model, compile=True)))
    for a, b, c in zip(expected, plain, compiled, strict=True):
        assert a["keypoints"] == pytest.approx(b["keypoints"], abs=.02) and b["keypoints"] == pytest.approx(c["keypoints"], abs=.02)
    assert set(shapes) == {4} and len(shapes) == 6
    assert not model.training and sum(p.requires_grad for p in model.parameters()) > 0  # the original stays as it was


@pytest.mark.parametrize("name", ["n", "b"])
def test_deployed_variants(name):
    torch.manual_seed(0)
    model = sdpose(name).eval()
    x = to_input(torch.randint(0, 255, (1, *model.variant.input_size, 3), dtype=torch.uint8))
    with torch.inference_mode():
        a, b = model.heatmaps(x), deploy(model).heatmaps(x)
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5 * a.abs().max().item())


def test_loader_memory_does_not_grow(people, tmp_path):
    "Twenty epochs with cache and augmentation: private memory stays where it was after the second."
    def private_kb():
        return psutil.Process().memory_full_info().uss >> 10
    dataset, used = people(augment=Augmentation(), cache=tmp_path), []
    loader = make_loader(dataset, 4, shuffle=True)
    for epoch in range(20):
        dataset.set_epoch(epoch)
        for _ in range(5):
            for data in loader:
                assert len(data["image"])
        used.append(private_kb())
    assert used[-1] - used[1] < 2048, used


def test_attention_forms_agree():
    q, k, v = torch.randn(3, 2, 4, 30, 24).unbind()
    low = models.attend(q.bfloat16(), k.bfloat16(), v.bfloat16())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), F.scaled_dot_product_attention(q, k, v), atol=.03, rtol=.03)
    torch.testing.assert_close(models.attend(q[:, :, :5], k, v), models.attend(q, k, v)[:, :, :5])
