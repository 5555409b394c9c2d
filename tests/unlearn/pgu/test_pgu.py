"""Projected-gradient unlearning against its float64 statement, and its promises to first order."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unlearn import PGU, second_moments
from unlearn.methods import UnlearnError

from .. import reference_pgu as reference
from .net import LAYERS, batches, relative, ten_steps, weights


@pytest.mark.parametrize("criterion", ["singular", "energy"])
def test_the_rank_is_the_references_for_every_gamma(moments, model, forget, exact, criterion: str) -> None:
    basis = moments.decompose(minus=second_moments(model, forget))
    assert basis.warnings == []
    for name in LAYERS:
        values = torch.linalg.eigvalsh(exact[name])
        for gamma in (0.3, 0.5, 0.75, 0.8, 0.85, 0.9, 0.95, 0.96, 0.98, 0.99):
            k = [reference.rank(row.flip(0), gamma, criterion) for row in values]
            assert basis.ranks(name, gamma, criterion) == k, (name, gamma)


@pytest.mark.medium
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
    basis = moments.decompose(minus=second_moments(model, forget))
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
    basis = moments.decompose(minus=second_moments(model, forget))
    result = ten_steps(gamma=0.9).unlearn(model, forget=forget, moments=basis)
    for name in LAYERS:
        groups = basis.values[name].shape[0]
        change = (weights(result.model)[name] - weights(model)[name]).reshape(groups, -1, basis.vectors[name].shape[1])
        core = basis.core(name, 0.9).double()
        inside = torch.bmm(change, core).norm() / change.norm()
        assert float(inside) < 1e-4, name
        assert float(change.norm()) > 0


def test_retain_outputs_stay_to_first_order(model, forget, moments, data) -> None:
    """A core space of 0.9 takes most of the change of retain outputs away; the forget set still moves."""

    def moved(gamma: float) -> tuple[float, float]:
        result = ten_steps(gamma=gamma, epochs=1, lr=1e-3, final_lr=None).unlearn(model, forget=forget, moments=moments)
        with torch.no_grad():
            return tuple(
                float((result.model(x) - model(x)).norm() / len(x) ** 0.5) for x in (data[0][40:], data[0][:40])
            )

    free_retain, _ = moved(0.0)
    held_retain, held_forget = moved(0.9)
    assert held_retain < 0.1 * free_retain
    assert held_forget > 0


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
    assert [row["forget_accuracy"] is not None for row in rows] == [True, False, False, True, True]
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
    assert PGU.of(release_schedule=True).rate(0) == PGU().rate(1)
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
