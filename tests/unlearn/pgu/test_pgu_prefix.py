"""The frozen prefix and the input side of linear layers: what they save, and that they change nothing."""

import copy

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from unlearn import build_model, second_moments
from unlearn.methods.cut import cut
from unlearn.methods.pgu import run as pgu_run
from unlearn.methods.pgu.run import _InputSide
from unlearn.models.layers import deepest
from unlearn.moments.basis import Projector

from .net import batches, ten_steps


def images_of(count: int, size: int = 32) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def prepared(net: nn.Module) -> nn.Module:
    """As in training: dropout active, statistics frozen."""
    net.train()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.eval()
    return net


NETS = {
    "small_vgg": lambda: build_model("small_vgg", num_classes=10, width=0.125),
    "all_cnn": lambda: build_model("all_cnn", num_classes=10, width=0.125),
    "resnet18": lambda: build_model("resnet18", num_classes=10, width=0.125, image_size=32),
    "torchvision resnet18": lambda: torchvision.models.resnet18(num_classes=10),
    "torchvision mobilenet": lambda: torchvision.models.mobilenet_v3_small(num_classes=10),
}


@pytest.mark.medium
@pytest.mark.parametrize("make", NETS.values(), ids=NETS.keys())
@pytest.mark.parametrize("k", [1, 2])
def test_the_halves_compute_what_the_whole_does(make, k: int) -> None:
    net = prepared(make())
    moving = [net.get_submodule(name).weight for depth in deepest(net, k) for name in depth.layers]
    images = images_of(8)
    parts = cut(net, moving, images[:2])
    assert parts is not None
    owned = {id(p) for p in parts.prefix.parameters()}
    assert owned, "something is saved"
    assert not owned & {id(weight) for weight in moving}
    torch.manual_seed(1)
    whole = net(images)
    values = parts.prefix(images)
    torch.manual_seed(1)
    halves = parts.suffix(values)
    assert torch.allclose(whole, halves, atol=1e-5), "dropout included: it draws the same numbers"
    wanted = torch.autograd.grad(whole.square().sum(), moving)
    found = torch.autograd.grad(halves.square().sum(), moving)
    for one, other in zip(wanted, found, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4)


def test_nothing_is_cut_where_the_first_layer_moves() -> None:
    net = prepared(build_model("small_vgg", num_classes=10, width=0.125))
    assert cut(net, [net.conv1.weight], images_of(2)) is None


class Skip(nn.Module):
    """An early value that is used again late, by a function."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(12, 6), nn.Linear(6, 6), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        early = torch.relu(self.a(x.flatten(1)))
        return self.c(torch.cat([early, torch.relu(self.b(early)) + early], dim=1))


def test_values_that_skip_the_cut_are_kept_too() -> None:
    net = Skip()
    images = images_of(5, 2)
    parts = cut(net, [net.b.weight], images[:2])
    assert parts is not None
    assert torch.allclose(parts.suffix(parts.prefix(images)), net(images), atol=1e-6)


class Functional(Skip):
    """Dropout by a function whose mode a trace takes for a constant."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(functional.dropout(x, 0.5, self.training))


class Noisy(Skip):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + torch.randn_like(x) if self.training else x)


class Branching(Skip):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if float(x.sum()) > 0 else -x)


class Remembering(Skip):
    """Changes in place, in the moving part, what crosses the cut."""

    def forward(self, x: Tensor) -> Tensor:
        early = torch.relu(self.a(x.flatten(1)))
        late = self.b(early)
        early.add_(late)
        return self.c(torch.cat([early, late], dim=1))


@pytest.mark.parametrize("kind", [Functional, Noisy, Branching, Remembering])
def test_what_cannot_be_cut_safely_is_right_all_the_same(kind: type[nn.Module]) -> None:
    net = prepared(kind())
    images = images_of(6, 2)
    parts = cut(net, [net.b.weight], images[:2])
    for evaluating in (True, False):
        if parts is not None:
            for part in (net, parts.prefix, parts.suffix):
                part.train(not evaluating)
            torch.manual_seed(0)
            whole = net(images)
            torch.manual_seed(0)
            assert torch.allclose(parts.suffix(parts.prefix(images)), whole, atol=1e-5)
    if kind is not Remembering:
        assert parts is None


@pytest.mark.medium
@pytest.mark.parametrize("k", [1, 2, 3])
def test_unlearning_is_the_same_with_and_without(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    net = build_model("resnet18", num_classes=10, width=0.125, image_size=32).eval()
    data = batches(images_of(48), torch.arange(48) % 10)
    forget, held_out = batches(images_of(48)[:16], torch.arange(16) % 10), batches(images_of(30), torch.arange(30) % 10)
    basis = second_moments(net, data).decompose(minus=second_moments(net, forget))
    method = ten_steps(top_k=k, unit="blocks", epochs=3, gamma=0.5)
    fast = method.unlearn(net, forget=forget, moments=basis, validation=held_out)
    monkeypatch.setattr(pgu_run, "cut", lambda *args: None)
    slow = method.unlearn(net, forget=forget, moments=basis, validation=held_out)
    for (name, one), other in zip(fast.model.state_dict().items(), slow.model.state_dict().values(), strict=True):
        assert torch.allclose(one, other, atol=1e-5), name
    for one, other in zip(fast.history[1:], slow.history[1:], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert one["validation_accuracy"] == other["validation_accuracy"]


@pytest.mark.medium
def test_the_prefix_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    net = build_model("small_vgg", num_classes=10, width=0.125).eval()
    data, forget = batches(images_of(48), torch.arange(48) % 10), batches(images_of(48)[:16], torch.arange(16) % 10)
    basis = second_moments(net, data).decompose()

    def operations(epochs: int) -> int:
        with FlopCounterMode(display=False) as counter:
            ten_steps(top_k=2, epochs=epochs).unlearn(net, forget=forget, moments=basis)
        return counter.get_total_flops()

    few, many = operations(2), operations(12)
    assert many < 2 * few
    monkeypatch.setattr(pgu_run, "cut", lambda *args: None)
    assert operations(12) - operations(2) > 5 * (many - few)


def test_features_that_do_not_fit_are_computed_in_every_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pgu_run, "room_for_features", lambda device: 1000)
    net = build_model("small_vgg", num_classes=10, width=0.125).eval()
    forget = batches(images_of(16), torch.arange(16) % 10)
    basis = second_moments(net, batches(images_of(48), torch.arange(48) % 10)).decompose()
    result = ten_steps(top_k=2, epochs=1).unlearn(net, forget=forget, moments=basis)
    assert "computed in every pass: its outputs would take 0.0 GiB" in result.notes[0]


# The input side -----------------------------------------------------------------------------------------------------


def projector_of(size: int, rank: int) -> Projector:
    vectors = torch.linalg.qr(torch.randn(size, rank, generator=torch.Generator().manual_seed(0)))[0]
    return Projector(vectors[None], False)


@pytest.mark.parametrize("complement", [False, True])
@pytest.mark.parametrize("shape", [(10, 300), (2, 5, 300)], ids=["vectors", "sequences"])
def test_projected_inputs_give_the_projected_gradient(complement: bool, shape: tuple[int, ...]) -> None:
    layer = nn.Linear(300, 200)
    projector = Projector(projector_of(300, 50).factor, complement)
    side = _InputSide(layer, projector)
    inputs = torch.randn(*shape)
    loss = torch.relu(layer(inputs)).square().sum() + layer(-inputs).square().sum()  # used twice
    (gradient,) = torch.autograd.grad(loss, [layer.weight])
    found = side.take()
    assert found is not None
    assert torch.allclose(found, projector.residual(gradient), rtol=1e-3, atol=1e-3 * float(gradient.abs().max()))
    assert side.take() is None, "the next pass starts anew"
    side.remove()
    assert not layer._forward_hooks


@pytest.mark.parametrize(("rows", "cheaper"), [(20, True), (400, False)])
def test_the_cheaper_side_is_taken_by_operation_count(rows: int, cheaper: bool) -> None:
    layer, projector = nn.Linear(512, 256), projector_of(512, 128)
    inputs = torch.randn(rows, 512)

    def counted(by_inputs: bool) -> int:
        side = _InputSide(layer, projector)
        with FlopCounterMode(display=False) as counter:
            (gradient,) = torch.autograd.grad(layer(inputs).square().sum(), [layer.weight])
            found = side.take()
            if found is None or not by_inputs:
                projector.residual(gradient)
        side.remove()
        assert (found is not None) == cheaper
        return counter.get_total_flops()

    plain = 2 * 2 * rows * 512 * 256 + 4 * 256 * 512 * 128
    if cheaper:
        assert counted(True) < 0.5 * plain
    else:
        assert counted(True) == plain


def test_evaluation_and_frozen_layers_are_not_watched() -> None:
    layer = nn.Linear(300, 200)
    side = _InputSide(layer, projector_of(300, 50))
    with torch.no_grad():
        layer(torch.randn(4, 300))
    assert side.take() is None
    whole = _InputSide(copy.deepcopy(layer), Projector(None, False))
    torch.autograd.grad(whole.layer(torch.randn(4, 300)).sum(), [whole.layer.weight])
    assert whole.take() is None
