"""Projected-gradient unlearning against its float64 statement, its promises to first order, and its stops."""

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unlearn import PGU, CoreBasis, second_moments
from unlearn.methods import IncompatibleMoments, MethodDidNothing, UnlearnError, UnlearnTooFast
from unlearn.moments import SecondMoments, digest_model

from . import reference_pgu as reference

Batches = list[tuple[Tensor, Tensor]]


class Net(nn.Module):
    """Convolutions plain, strided, grouped and dilated, normalisation of both kinds, and two linear layers."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=2)
        self.conv3 = nn.Conv2d(16, 16, 3, dilation=2, padding=1, padding_mode="reflect", bias=False)
        self.dropout = nn.Dropout(dropout)
        self.linear1 = nn.Linear(16 * 9, 24)
        self.norm2 = nn.BatchNorm1d(24)
        self.linear2 = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        x = torch.relu(self.conv2(x))
        x = self.dropout(torch.relu(self.conv3(x)).flatten(1))
        return self.linear2(torch.relu(self.norm2(self.linear1(x))))


LAYERS = ["conv1", "conv2", "conv3", "linear1", "linear2"]


def batches(images: Tensor, labels: Tensor, size: int = 64) -> Batches:
    return list(zip(images.split(size), labels.split(size), strict=True))


def patterned(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images of five classes that differ by a faint pattern under noise: learnt, and not without remembering."""
    patterns = torch.randn(5, 3, 10, 10, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % 5
    noise = torch.randn(count, 3, 10, 10, generator=torch.Generator().manual_seed(seed))
    return 0.2 * patterns[labels] + noise, labels


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    return patterned(400, 1)


@pytest.fixture(scope="module")
def held_out() -> Batches:
    return batches(*patterned(200, 2))


@pytest.fixture(scope="module")
def trained(data: tuple[Tensor, Tensor]) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Net(dropout=0.2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for _ in range(12):
            for images, labels in batches(*data):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(images), labels).backward()
                optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def model(trained: Net) -> Net:
    """The trained model without dropout, so that runs can be compared weight by weight."""
    plain = copy.deepcopy(trained)
    plain.dropout.p = 0.0
    return plain


@pytest.fixture(scope="module")
def forget(data: tuple[Tensor, Tensor]) -> Batches:
    return batches(data[0][:40], data[1][:40], 16)


@pytest.fixture(scope="module")
def moments(model: Net, data: tuple[Tensor, Tensor]) -> SecondMoments:
    return second_moments(model, batches(*data))


@pytest.fixture(scope="module")
def exact(model: Net, data: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    return reference.moments(model, data[0][40:])


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: model.get_submodule(name).weight.detach().double() for name in LAYERS}


def relative(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def ten_steps(**changes: Any) -> PGU:
    settings = {"epochs": 10, "lr": 0.05, "final_lr": 0.01, "batch_size": 1000, "early_stop": None, "gamma": 0.9}
    return PGU(**{**settings, **changes})


@pytest.mark.parametrize("criterion", ["singular", "energy"])
def test_the_rank_is_the_references_for_every_gamma(moments, model, forget, exact, criterion: str) -> None:
    basis = CoreBasis.from_moments(moments, minus=second_moments(model, forget))
    assert basis.warnings == []
    for name in LAYERS:
        values = torch.linalg.eigvalsh(exact[name])
        for gamma in (0.3, 0.5, 0.75, 0.8, 0.85, 0.9, 0.95, 0.96, 0.98, 0.99):
            k = [reference.rank(row.flip(0), gamma, criterion) for row in values]
            assert basis.ranks(name, gamma, criterion) == k, (name, gamma)


@pytest.mark.parametrize("criterion", ["singular", "energy"])
@pytest.mark.parametrize("gamma", [0.5, 0.9, 0.98])
def test_ten_full_batch_steps_are_the_references(model, data, forget, moments, exact, criterion, gamma) -> None:
    method = ten_steps(gamma=gamma, criterion=criterion)
    result = method.unlearn(model, forget=forget, moments=moments)
    spaces = {name: reference.projection(exact[name], gamma, criterion) for name in LAYERS}
    rates = [0.05 * (0.01 / 0.05) ** (e / 10) for e in range(10)]
    slow = reference.unlearn(model, data[0][:40], data[1][:40], spaces, rates)
    before, after, expected = weights(model), weights(result.model), weights(slow)
    for name in LAYERS:
        assert relative(after[name], expected[name]) < 1e-4, name
        change = expected[name] - before[name]
        if float(change.norm()) > 1e-9:  # at γ = 0.98 of the energy one layer is frozen
            assert relative(after[name] - before[name], change) < 1e-3, f"{name}: the change itself"
    assert [row["lr"] for row in result.history[1:]] == pytest.approx(rates)
    first = reference.loss(model(data[0][:40]).double(), data[1][:40], 0.05, 1.0, 0.2)
    assert result.history[1]["loss"] == pytest.approx(first.item(), rel=1e-4)


def test_batches_are_the_methods_whatever_the_loaders_are(model, data, forget, moments, exact) -> None:
    """40 samples in batches of 16 as loaded, in batches of 12 as asked: 12, 12, 12 and 4, in order, in every pass."""
    result = ten_steps(batch_size=12, epochs=2).unlearn(model, forget=forget, moments=moments)
    spaces = {name: reference.projection(exact[name], 0.9, "singular") for name in LAYERS}
    slow = reference.unlearn(model, data[0][:40], data[1][:40], spaces, [0.05, 0.05 * 0.2**0.5], batch_size=12)
    for name, weight in weights(result.model).items():
        assert relative(weight, weights(slow)[name]) < 1e-4


def test_one_basis_serves_like_the_moments(model, forget, moments) -> None:
    basis = CoreBasis.from_moments(moments, minus=second_moments(model, forget))
    for gamma in (0.8, 0.95):
        shared, own = (ten_steps(gamma=gamma).unlearn(model, forget=forget, moments=m) for m in (basis, moments))
        for name, weight in weights(shared.model).items():
            assert torch.equal(weight, weights(own.model)[name])


def test_only_projected_weights_move(trained, forget, moments, data) -> None:
    moments = second_moments(trained, batches(*data))
    result = ten_steps().unlearn(trained, forget=forget, moments=moments)
    changed = [k for k, v in result.model.state_dict().items() if not torch.equal(v, trained.state_dict()[k])]
    assert changed == [f"{name}.weight" for name in LAYERS], "no bias, no normalisation, no running statistics"
    assert not result.model.training
    assert all(parameter.requires_grad for parameter in result.model.parameters())
    assert not any(module._forward_hooks for module in result.model.modules())


def test_a_step_leaves_outputs_on_the_core_space_unchanged(model, forget, moments, data) -> None:
    """Inputs inside the core space of a layer give the same outputs after any number of steps; others do not."""
    basis = CoreBasis.from_moments(moments, minus=second_moments(model, forget))
    result = ten_steps(gamma=0.9).unlearn(model, forget=forget, moments=basis)
    for name in LAYERS:
        groups = basis.values[name].shape[0]
        change = (weights(result.model)[name] - weights(model)[name]).reshape(groups, -1, basis.vectors[name].shape[1])
        core = basis.core(name, 0.9).double()
        inside = torch.bmm(change, core).norm() / change.norm()
        assert float(inside) < 1e-4, name
        assert float(change.norm()) > 0


def test_retain_outputs_stay_to_first_order(model, forget, moments, data) -> None:
    """The change of the loss's descent is kept, that of retain outputs is not: γ trades one for the other."""

    def moved(gamma: float) -> tuple[float, float]:
        result = ten_steps(gamma=gamma, epochs=1, lr=1e-3, final_lr=None).unlearn(model, forget=forget, moments=moments)
        with torch.no_grad():
            return tuple(
                float((result.model(x) - model(x)).norm() / len(x) ** 0.5) for x in (data[0][40:], data[0][:40])
            )

    free_retain, free_forget = moved(0.0)
    held_retain, held_forget = moved(0.9)
    assert held_retain < 0.1 * free_retain
    assert held_forget / held_retain > 1.05 * free_forget / free_retain, "what is left bears on the forget set"


def test_retain_inputs_inside_the_core_space_keep_their_outputs() -> None:
    """Where the core space holds every retain input, retain outputs stay to rounding, and the forget set still moves."""
    random = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 5))
    retain, gone = torch.randn(10, 3, 4, 4, generator=random), torch.randn(6, 3, 4, 4, generator=random)
    labels = torch.arange(16) % 5
    everything, forgotten = [(torch.cat([gone, retain]), labels)], [(gone, labels[:6])]
    method = ten_steps(gamma=1 - 1e-9, criterion="energy", lr=0.5)
    result = method.unlearn(net, forget=forgotten, moments=second_moments(net, everything))
    with torch.no_grad():
        kept, moved = ((result.model(x) - net(x)).abs().max() for x in (retain, gone))
    assert float(kept) < 1e-4
    assert float(moved) > 0.3


def test_gamma_towards_one_leaves_the_model(model, forget, moments) -> None:
    changes = []
    for gamma in (0.5, 0.9, 0.99, 0.9999, 0.999999):
        after = weights(ten_steps(gamma=gamma).unlearn(model, forget=forget, moments=moments).model)
        changes.append(sum(float((after[n] - w).square().sum()) for n, w in weights(model).items()) ** 0.5)
    assert changes == sorted(changes, reverse=True)
    assert changes[-1] < 0.2 * changes[0]
    frozen = ten_steps(gamma=1.0).unlearn(model, forget=forget, moments=moments)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in frozen.model.state_dict().items())
    assert "every layer is frozen" in frozen.notes[0]


def test_gamma_by_layer_and_depth(model, forget, moments) -> None:
    result = ten_steps(gamma={"conv1": 1.0, "linear2": 0.5}).unlearn(model, forget=forget, moments=moments)
    assert torch.equal(result.model.conv1.weight, model.conv1.weight)
    assert set(result.history[1]["projected_fraction"]) == {"conv2", "conv3", "linear1", "linear2"}
    top = ten_steps(top_k=2).unlearn(model, forget=forget, moments=moments)
    changed = [name for name in LAYERS if not torch.equal(weights(top.model)[name], weights(model)[name])]
    assert changed == ["linear1", "linear2"]
    with pytest.raises(UnlearnError, match="gamma: 'nose' is no layer of the model; it has conv1, conv2"):
        ten_steps(gamma={"nose": 0.5}).unlearn(model, forget=forget, moments=moments)
    with pytest.raises(UnlearnError, match="top_k: 6 is not allowed; the model has 5 layers"):
        ten_steps(top_k=6).unlearn(model, forget=forget, moments=moments)


def test_history(model, forget, moments, held_out, data) -> None:
    rows: list[dict] = []
    watched = {"retain": batches(data[0][40:], data[1][40:])}
    result = ten_steps(epochs=4, monitor_every=3, gamma=0.5, lr=0.2).unlearn(
        model, forget=forget, moments=moments, validation=held_out, monitor=watched, on_epoch=rows.append
    )
    assert rows == result.history
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["retain_accuracy"] is not None for row in rows] == [True, False, False, True, True]
    assert [row["validation_accuracy"] is not None for row in rows] == [True, False, False, True, True]
    assert "loss" not in rows[0]
    for row in rows[1:]:
        assert row["loss"] == pytest.approx(row["loss_forget"] + 0.2 * row["loss_entropy"], rel=1e-5)
        assert all(0 < share < 1 for share in row["projected_fraction"].values())
        assert row["seconds"] > 0
    assert rows[-1]["loss"] < rows[1]["loss"]
    assert rows[-1]["forget_accuracy"] < rows[0]["forget_accuracy"]
    alone = ten_steps(epochs=1).unlearn(model, forget=forget, moments=moments)
    assert all(row["validation_accuracy"] is None for row in alone.history)


def test_the_projected_fraction_is_measured(model, data, forget, moments, exact) -> None:
    result = ten_steps(epochs=1).unlearn(model, forget=forget, moments=moments)
    wide = copy.deepcopy(model).double()
    reference.freeze_norms(wide)
    reference.loss(wide(data[0][:40].double()), data[1][:40], 0.05, 1.0, 0.2).backward()
    for name in LAYERS:
        space = reference.projection(exact[name], 0.9, "singular")
        gradient = wide.get_submodule(name).weight.grad.reshape(len(space), -1, space.shape[-1])
        share = (gradient - gradient @ space).square().sum() / gradient.square().sum()
        assert result.history[1]["projected_fraction"][name] == pytest.approx(float(share), rel=1e-3)


class Untouchable:
    """A loader that fails the test when it is read."""

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("this data may not be touched")


def test_retain_data_is_never_read(model, forget, moments, held_out) -> None:
    ten_steps(epochs=2).unlearn(model, forget=forget, moments=moments, retain=Untouchable())


def test_the_forget_set_is_read_twice_at_most(model, moments, forget) -> None:
    """Once for its moments, once for its images, however many epochs."""

    class Counted:
        reads = 0

        def __iter__(self) -> Iterator[Any]:
            Counted.reads += 1
            return iter(forget)

    ten_steps().unlearn(model, forget=Counted(), moments=moments)
    assert Counted.reads == 2


def test_seeds_decide_and_nothing_else_does(trained, forget, data) -> None:
    moments = second_moments(trained, batches(*data))

    def run(seed: int, **changes: Any) -> Tensor:
        result = ten_steps(epochs=2, batch_size=8, seed=seed, **changes).unlearn(
            trained, forget=forget, moments=moments
        )
        return result.model.linear1.weight

    torch.manual_seed(5)
    first, state = run(0), torch.random.get_rng_state()
    torch.manual_seed(5)
    assert torch.equal(torch.random.get_rng_state(), state), "the caller's random numbers go on as if nothing had been"
    torch.manual_seed(6)
    assert torch.equal(first, run(0))
    assert not torch.equal(first, run(1)), "dropout"
    assert not torch.equal(first, run(0, shuffle=True))
    assert torch.equal(run(0, shuffle=True), run(0, shuffle=True))


def test_schedules() -> None:
    assert PGU().rate(0) == 0.05
    assert PGU().rate(100) == pytest.approx(0.01)
    assert PGU(release_schedule=True).rate(0) == PGU().rate(1)
    assert PGU(final_lr=None).rate(50) == 0.05
    assert PGU(epochs=0).rate(0) == 0.05


def test_bfloat16_goes_the_same_way(model, forget, moments) -> None:
    exact, rough = (
        ten_steps(precision=p).unlearn(model, forget=forget, moments=moments) for p in ("float32", "bfloat16")
    )
    for name, weight in weights(model).items():
        way, other = weights(exact.model)[name] - weight, weights(rough.model)[name] - weight
        assert float((way * other).sum() / way.norm() / other.norm()) > 0.98, name
    assert rough.model.linear1.weight.dtype == torch.float32


@pytest.mark.slow
def test_compiling_changes_nothing(model, forget, moments) -> None:
    plain, fast = (ten_steps(compile=c).unlearn(model, forget=forget, moments=moments) for c in (False, True))
    for name, weight in weights(plain.model).items():
        assert relative(weights(fast.model)[name], weight) < 1e-5


# Stops --------------------------------------------------------------------------------------------------------------


def accuracies(forget: list[float], validation: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans what evaluations find, epoch by epoch."""
    found = iter([value for pair in zip(forget, validation, strict=True) for value in pair])
    monkeypatch.setattr("unlearn.methods.pgu_run.accuracy", lambda *args, **kwargs: next(found))


def by_gap(model, forget, moments, held_out, epochs: int = 5):
    return ten_steps(epochs=epochs, early_stop="gap").unlearn(
        model, forget=forget, moments=moments, validation=held_out
    )


@pytest.mark.parametrize(
    ("forgot", "chosen"),
    [([1.0, 0.9, 0.74], 2), ([1.0, 0.77, 0.5], 1), ([1.0, 0.875, 0.625], 2)],
    ids=["this epoch is nearer", "the last epoch is nearer", "equally near"],
)
def test_early_stop_by_gap_keeps_the_nearer_epoch(
    model, forget, moments, held_out, monkeypatch, forgot, chosen
) -> None:
    accuracies(forgot, [0.75] * 3, monkeypatch)
    result = by_gap(model, forget, moments, held_out)
    assert result.stopped_at == chosen
    assert len(result.history) == 3
    monkeypatch.undo()
    stepwise = first_passes(model, forget, moments, ten_steps(epochs=5), chosen)
    for name, weight in weights(result.model).items():
        assert torch.equal(weight, weights(stepwise)[name]), "the weights of just that epoch"


def first_passes(model, forget, moments, method: PGU, passes: int) -> nn.Module:
    """The model after the first passes of a longer run, one by one with that run's learning rates and space."""
    basis = CoreBasis.from_moments(moments, minus=second_moments(model, forget))
    for step in range(passes):
        one = dataclasses.replace(method, epochs=1, lr=method.rate(step), final_lr=None)
        same = dataclasses.replace(basis, model_digest=digest_model(model))
        model = one.unlearn(model, forget=forget, moments=same).model
    return model


def test_unlearning_too_fast(model, forget, moments, held_out, monkeypatch) -> None:
    accuracies([0.9, 0.5], [0.8, 0.8], monkeypatch)
    with pytest.raises(
        UnlearnTooFast, match=r"lr: unlearning too fast: .* lower lr \(now 0\.05\), for example to 0\.0125"
    ):
        by_gap(model, forget, moments, held_out)


def test_a_gap_that_is_closed_at_the_start(model, forget, moments, held_out, monkeypatch) -> None:
    accuracies([0.7], [0.8], monkeypatch)
    with pytest.raises(UnlearnError, match=r"forget accuracy 0\.700, validation accuracy 0\.800.* use early_stop=None"):
        by_gap(model, forget, moments, held_out)


def test_a_stop_that_is_not_reached_is_said(model, forget, moments, held_out, monkeypatch) -> None:
    accuracies([1.0, 0.95, 0.9], [0.8] * 3, monkeypatch)
    result = by_gap(model, forget, moments, held_out, epochs=2)
    assert result.stopped_at is None
    assert "not reached in 2 epochs: forget accuracy is still 0.100 above" in result.notes[0]


def test_early_stop_by_gap_for_real(trained, data, forget, held_out) -> None:
    moments = second_moments(trained, batches(*data))
    result = PGU(lr=0.05, gamma=0.5, epochs=60).unlearn(trained, forget=forget, moments=moments, validation=held_out)
    start, end = result.history[0], result.history[result.stopped_at]
    assert start["forget_accuracy"] - start["validation_accuracy"] > 0.1
    assert abs(end["forget_accuracy"] - end["validation_accuracy"]) < 0.1
    assert end["validation_accuracy"] > start["validation_accuracy"] - 0.1


def test_early_stop_by_drop(model, forget, moments, held_out, monkeypatch) -> None:
    accuracies([1.0, 0.5, 0.2, 0.1], [0.9, 0.87, 0.86, 0.84], monkeypatch)
    method = ten_steps(early_stop="retain_drop", epochs=5)
    result = method.unlearn(model, forget=forget, moments=moments, monitor={"retain": held_out})
    assert result.stopped_at == 2, "0.84 is more than five points below 0.90; the epoch before it is kept"
    accuracies([1.0, 0.5], [0.9, 0.2], monkeypatch)
    with pytest.raises(UnlearnTooFast, match="retain accuracy fell"):
        method.unlearn(model, forget=forget, moments=moments, monitor={"retain": held_out})
    with pytest.raises(UnlearnError, match="monitor: early_stop='retain_drop' watches test accuracy"):
        ten_steps(early_stop="retain_drop", watch="test").unlearn(model, forget=forget, moments=moments)


def test_what_is_not_needed_is_not_evaluated(model, forget, moments) -> None:
    class Counted(list):
        reads = 0

        def __iter__(self) -> Iterator[Any]:
            self.reads += 1
            return super().__iter__()

    watched = Counted(forget)
    ten_steps(monitor_every=5).unlearn(model, forget=forget, moments=moments, monitor={"test": watched})
    assert watched.reads == 3, "epochs 0, 5 and 10"


# Mistakes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("gamma", 1.1, "gamma: 1.1 is not allowed; give 0 to 1"),
        ("gamma", True, "gamma: True is not allowed"),
        ("gamma", {"conv1": "much"}, "gamma: {conv1: 'much'} is not allowed; give 0 to 1"),
        ("criterion", "energies", "criterion: 'energies' is not allowed; allowed are singular, energy"),
        ("early_stop", "drop", "early_stop: 'drop' is not allowed; allowed are gap, retain_drop, null"),
        ("objective", "poison", "objective: 'poison' is not allowed; allowed are forget, depoison"),
        ("unit", "stages", "unit: 'stages' is not allowed; allowed are layers, blocks"),
        ("precision", "float16", "precision: 'float16' is not allowed; allowed are float32, bfloat16"),
        ("lr", 0.0, "lr: 0.0 is not allowed; give a number above 0"),
        ("lr", "fast", "lr: 'fast' is not allowed; give a number above 0"),
        ("final_lr", -0.1, "final_lr: -0.1 is not allowed; give a number above 0"),
        ("epochs", -1, "epochs: -1 is not allowed; give an integer of 0 or more"),
        ("epochs", 1.5, "epochs: 1.5 is not allowed; give an integer of 0 or more"),
        ("batch_size", 0, "batch_size: 0 is not allowed; give an integer of 1 or more"),
        ("top_k", 0, "top_k: 0 is not allowed; give an integer of 1 or more"),
        ("offset", 0, "offset: 0 is not allowed; give a number from 1e-06 to 1"),
        ("entropy_weight", float("nan"), "entropy_weight: nan is not allowed"),
        ("seed", -1, "seed: -1 is not allowed"),
    ],
)
def test_settings_that_are_not_allowed(field: str, value: Any, told: str) -> None:
    with pytest.raises(ValueError, match="^" + told.translate(str.maketrans({c: "\\" + c for c in ".{}()"}))):
        PGU(**{field: value})


def test_inputs_that_are_missing_or_anothers(model, forget, moments, held_out) -> None:
    with pytest.raises(UnlearnError, match="moments: PGU needs second moments of the training data"):
        ten_steps().unlearn(model, forget=forget)
    with pytest.raises(IncompatibleMoments, match="moments: dict is neither"):
        ten_steps().unlearn(model, forget=forget, moments={})
    with pytest.raises(UnlearnError, match="validation: early_stop='gap' compares with validation accuracy"):
        PGU().unlearn(model, forget=forget, moments=moments)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.linear2.bias += 1
    for given in (moments, moments.decompose()):
        with pytest.raises(IncompatibleMoments, match="other weights than this model's"):
            ten_steps().unlearn(other, forget=forget, moments=given)
    with pytest.raises(IncompatibleMoments, match="hold none of the layers linear2"):
        ten_steps(top_k=1).unlearn(model, forget=forget, moments=moments.select(["conv1"]))


def test_layers_without_moments_are_frozen_and_named(model, forget, moments) -> None:
    result = ten_steps().unlearn(model, forget=forget, moments=moments.select(["conv1", "linear2"]))
    assert set(result.history[1]["projected_fraction"]) == {"conv1", "linear2"}
    assert any("do not hold conv2, conv3, linear1: frozen" in note for note in result.notes)


def test_moments_of_other_data_are_noted(model, forget, moments, data) -> None:
    small = second_moments(model, batches(data[0][200:210], data[1][200:210]))
    result = ten_steps(epochs=1).unlearn(model, forget=forget, moments=small)
    assert any("other data, or another model's?" in note for note in result.notes)


def test_doing_nothing_is_reported(model, forget, moments) -> None:
    with pytest.raises(MethodDidNothing, match="lr: PGU left every weight as it was"):
        ten_steps(lr=1e-30, final_lr=None).unlearn(model, forget=forget, moments=moments)
    assert "epochs is 0" in ten_steps(epochs=0).unlearn(model, forget=forget, moments=moments).notes[0]


def test_a_loss_that_blows_up_is_told(model, forget, moments) -> None:
    with pytest.raises(UnlearnError, match="lr: the loss is no longer finite in epoch"):
        ten_steps(lr=1e30, final_lr=None, gamma=0.0).unlearn(model, forget=forget, moments=moments)


def test_shared_and_computed_weights_are_refused() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x)))

    given = [(torch.randn(8, 4), torch.arange(8) % 4)]
    for net, told in (
        (Tied(), "a and b share one weight"),
        (
            nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))),
            "the weight of 0 is computed from others",
        ),
    ):
        with pytest.raises(UnlearnError, match=told):
            ten_steps().unlearn(net, forget=given, moments=second_moments(net, given))
