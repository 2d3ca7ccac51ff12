"""What makes training fast must not change it: no waiting in a step, and the same results."""
import warnings
from functools import partial

import psutil
import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode

from fsd_sdpose import models, training
from fsd_sdpose.crops import Augmentation
from fsd_sdpose.data import PoseDataset, make_loader
from fsd_sdpose.evaluation import predict
from fsd_sdpose.models import deploy, sdpose
from fsd_sdpose.studies import METHODS
from fsd_sdpose.synthetic import make_dataset
from fsd_sdpose.training import build_losses, fit, make_config, make_optimizer, train_step


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    file = make_dataset(folder, 10, seed=3, size=(128, 96), people=1)
    return lambda **kw: PoseDataset(file, folder / "images", input_size=(128, 96), **kw)


def batch(seed=0, n=4):
    g = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 255, (n, 128, 96, 3), dtype=torch.uint8, generator=g)
    return dict(image=image, joints=torch.rand(n, 17, 2, generator=g) * 90,
                visible=torch.ones(n, 17))


def trainer(method="fsd", **settings):
    "A function that makes one step with a batch; its `losses` can be set to another epoch."
    config = make_config(**dict(batch_size=4, base_batch=4, **settings) | METHODS[method].losses)
    torch.manual_seed(0)
    model, losses = sdpose("n").train(), build_losses(config)
    training._set_epoch(losses, 60, 300)
    optimizer = make_optimizer(model, losses, config)
    objective = training.Objective(model, losses, config)
    def step(data):
        return train_step(model, data, losses, optimizer, config, torch.device("cpu"),
                          objective=objective)
    step.losses = losses
    return step


def losses_of(step, steps):
    return torch.stack([step(batch(seed))["loss"] for seed in range(steps)])


class Waits(TorchDispatchMode):
    """Collects operations for which a host would wait for a GPU: reading a value, a size that
    depends on values, a copy of a Python list."""
    NAMES = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "lift_fresh",
             "masked_select", "unique")

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += {func._overloadpacket.__name__} & {*self.NAMES}
        return func(*args, **(kwargs or {}))


WAYS = [*(dict(method=m) for m in METHODS), dict(precision="bf16"), dict(accumulate=2)]


@pytest.mark.parametrize("settings", WAYS, ids=str)
def test_nothing_in_a_step_waits_for_a_value(settings, monkeypatch):
    step = trainer(**settings)
    step(batch())
    # on a GPU it is the fused one, which keeps its count on the device
    monkeypatch.setattr(torch.optim.Adam, "step", lambda *_, **__: None)
    with Waits() as waits:
        step(batch())
    assert not waits.calls
    with waits:
        torch.ones(1).item()
    assert waits.calls  # the net catches fish


@pytest.mark.slow
def test_plain_and_shipped_steps_agree(monkeypatch):
    "Attention by einsum with stored maps, fifty steps, float32."
    def plain(q, k, v):
        maps = (torch.einsum("nhid,nhjd->nhij", q, k) * q.shape[-1]**-.5).softmax(-1)
        return torch.einsum("nhij,nhjd->nhid", maps, v)
    shipped = losses_of(trainer(), 50)
    monkeypatch.setattr(models, "attend", plain)
    assert ((losses_of(trainer(), 50) - shipped).abs() / shipped).max() < 1e-4


@pytest.mark.slow
def test_bf16_follows_fp32():
    low, full = losses_of(trainer(precision="bf16"), 10), losses_of(trainer(), 10)
    assert low.dtype == torch.float32 and ((low - full).abs() / full).max() < .05


def test_a_term_that_is_not_finite_is_named_with_its_step(people, monkeypatch):
    "Noticed late, reported exactly; and nothing was validated or saved in between."
    calls, encode = [], training.encode
    def spoiled(*args):
        target, weight = encode(*args)
        calls.append(1)
        return target * (float("nan") if len(calls) == 7 else 1.), weight
    monkeypatch.setattr(training, "encode", spoiled)
    monkeypatch.setattr(training, "validate", lambda *_: pytest.fail("validated"))
    config = make_config(epochs=3, batch_size=2, val_every=1, device="cpu")
    message = (r"epoch 2, step 2 of 5: heatmap term of cycle 1: the loss is nan. "
               r"The guide's remedy .* foreground_weight=1.5")
    with pytest.raises(FloatingPointError, match=message):
        fit(sdpose("n"), people(), None, config, show=False)
    assert len(calls) == 10


@pytest.fixture
def compile_with(monkeypatch):
    "Replace the compiler behind `torch.compile`, so that this is quick."
    compiler = torch.compile
    return lambda **options: monkeypatch.setattr(torch, "compile", partial(compiler, **options))


@pytest.mark.slow
def test_compilation_is_traced_and_gives_the_same(compile_with):
    "The graph is caught whole; plain execution stands behind it."
    compile_with(backend="eager", fullgraph=True)
    plain, compiled = trainer(), trainer(compile=True)
    with warnings.catch_warnings(action="error", category=UserWarning):
        for seed in range(3):
            a, b = plain(batch(seed)), compiled(batch(seed))
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fsd", "dynamic"])
def test_a_schedule_does_not_compile_again(method, compile_with):
    "The dynamic loss's weights change with every step; from the second on the graph takes them."
    graphs = CompileCounter()
    compile_with(backend=graphs)
    step = trainer(method, compile=True)
    for i in range(12):
        training._set_epoch(step.losses, 60 + i, 300)
        step(batch())
    assert 1 <= graphs.frame_count <= 2


def test_where_compilation_fails_training_goes_on(people, monkeypatch):
    def broken(*_):
        raise RuntimeError("no compiler found\nlong story")
    def history(**settings):
        torch.manual_seed(0)
        config = make_config(epochs=1, batch_size=4, device="cpu", **settings)
        return fit(sdpose("n"), people(), None, config, show=False).loss.tolist()
    monkeypatch.setattr(torch, "compile", lambda f, **kw: broken)
    message = "torch.compile failed, going on without it: RuntimeError: no compiler found"
    with pytest.warns(UserWarning, match=message):
        compiled = history(compile=True)
    assert compiled == history()


def test_deployed_network_predicts_the_same(people, monkeypatch):
    "Also compiled, where the smaller last batch is filled up to the shape that was compiled."
    shapes = []
    def compiler(f, **kw):
        return lambda x: (shapes.append(len(x)), f(x))[1]
    monkeypatch.setattr(torch, "compile", compiler)
    torch.manual_seed(0)
    model = sdpose("n").eval()
    torch.nn.init.normal_(model.keypoint_head["tokenpose"].mlp_head[-1].weight, std=.02)
    plain, *deployed = (predict(m, make_loader(people(), 4), flip_test=True)
                        for m in (model, deploy(model), deploy(model, compile=True)))
    for people_of in deployed:
        for a, b in zip(plain, people_of, strict=True):
            assert a["keypoints"] == pytest.approx(b["keypoints"], abs=.02)
    assert set(shapes) == {4} and len(shapes) == 6
    assert not model.training  # the original stays as it was
    assert any(p.requires_grad for p in model.parameters())


def test_loader_memory_does_not_grow(people, tmp_path):
    "Twenty epochs with cache and augmentation: private memory stays where it was after the second."
    dataset, used = people(augment=Augmentation(), cache=tmp_path), []
    loader = make_loader(dataset, 4, shuffle=True)
    for epoch in range(20):
        dataset.set_epoch(epoch)
        for _ in range(5):
            assert all(len(data["image"]) for data in loader)
        used.append(psutil.Process().memory_full_info().uss >> 10)  # KB
    assert used[-1] - used[1] < 2048, used
