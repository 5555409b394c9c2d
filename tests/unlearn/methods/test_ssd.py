"""SSD and the statistic that it works by."""

from __future__ import annotations

import pytest
import torch

from unlearn import Fisher, fisher_diagonal
from unlearn.methods import SSD, IncompatibleMoments, MethodDidNothing, UnlearnError

from .conftest import weights


def slow_sums(model, loader, statistic="fisher"):
    """One sample at a time, in float64."""
    wide = __import__("copy").deepcopy(model).double().eval()
    names = [name for name, _ in wide.named_parameters()]
    sums = {name: torch.zeros_like(p) for name, p in wide.named_parameters()}
    for images, labels in loader:
        for image, label in zip(images.double(), labels, strict=True):
            logits = wide(image[None])
            if statistic == "fisher":
                losses = [(1.0, -logits.log_softmax(1)[0, label])]
            elif statistic == "expected":
                p = logits.softmax(1).detach()[0]
                losses = [(float(p[c]), -logits.log_softmax(1)[0, c]) for c in range(len(p))]
            else:
                losses = [(1.0, logits.square().sum())]
            for weight, loss in losses:
                found = torch.autograd.grad(loss, list(wide.parameters()), retain_graph=True)
                for name, gradient in zip(names, found, strict=True):
                    sums[name] += (
                        weight * (gradient.abs() if statistic == "sensitivity" else gradient.square()).detach()
                    )
    return sums


@pytest.mark.parametrize("statistic", ["fisher", "expected", "sensitivity"])
def test_statistics_are_those_of_single_samples(trained, loader_of, statistic) -> None:
    loader = loader_of(range(12), batch_size=5)
    found = fisher_diagonal(trained, loader, statistic=statistic)
    assert found.count == 12
    for name, expected in slow_sums(trained, loader, statistic).items():
        assert torch.allclose(found.sums[name], expected, rtol=1e-3, atol=1e-9 + 1e-4 * float(expected.max())), name


def test_statistics_do_not_depend_on_batches_and_add_up(trained, loader_of, tmp_path) -> None:
    whole = fisher_diagonal(trained, loader_of(range(40), batch_size=40))
    ones = fisher_diagonal(trained, loader_of(list(reversed(range(40))), batch_size=1))
    parts = fisher_diagonal(trained, loader_of(range(25))) + fisher_diagonal(trained, loader_of(range(25, 40)))
    for other in (ones, parts, parts + ones - whole):
        for name, total in whole.sums.items():
            assert torch.allclose(total, other.sums[name], rtol=1e-5, atol=1e-12 + 1e-6 * float(total.max())), name
        assert other.data_digest == whole.data_digest
    whole.save(tmp_path / "fisher.safetensors")
    read = Fisher.load(tmp_path / "fisher.safetensors")
    assert (read.count, read.statistic, read.data_digest) == (40, "fisher", whole.data_digest)
    assert all(torch.equal(read.sums[name], total) for name, total in whole.sums.items())


def test_the_rule(trained, given, fisher, loader_of, split) -> None:
    result = SSD(alpha=2.0, lam=0.5).unlearn(trained, forget=given["forget"], fisher=fisher)
    few, all_data = slow_sums(trained, given["forget"]), fisher.mean
    chosen = 0
    for name, before in weights(trained).items():
        ours = few[name] / len(split.forget)
        strong = ours > 2.0 * all_data[name]
        factor = torch.where(strong, (0.5 * all_data[name] / ours).clamp(max=1), 1.0)
        after = weights(result.model)[name]
        assert (after.abs() <= before.abs()).all(), "no weight grows"
        assert torch.allclose(after.double(), before.double() * factor, rtol=1e-2, atol=1e-6), name
        chosen += int(strong.sum())
    assert result.history[0]["dampened_weights"] == pytest.approx(chosen, abs=3)


def test_a_threshold_that_nothing_passes_is_told(trained, given, fisher) -> None:
    with pytest.raises(MethodDidNothing, match="alpha: no weight matters 1e\\+30 times as much"):
        SSD(alpha=1e30).unlearn(trained, forget=given["forget"], fisher=fisher)


def test_forgetting_everything_is_nothing_special(trained, loader_of, fisher) -> None:
    """With D_f = D both statistics are one, and no weight passes α ≥ 1."""
    with pytest.raises(MethodDidNothing):
        SSD(alpha=1.001).unlearn(trained, forget=loader_of(), fisher=fisher)


def test_statistics_of_something_else_are_refused(trained, given, fisher) -> None:
    import copy

    other = copy.deepcopy(trained)
    with torch.no_grad():
        other.linear2.bias += 1
    with pytest.raises(IncompatibleMoments, match="fisher: it was computed with other weights"):
        SSD().unlearn(other, forget=given["forget"], fisher=fisher)
    expected = fisher_diagonal(trained, given["forget"], statistic="expected")
    with pytest.raises(IncompatibleMoments, match="fisher: it holds expected, but fisher is needed"):
        SSD().unlearn(trained, forget=given["forget"], fisher=expected)
    with pytest.raises(UnlearnError, match="fisher: ssd needs it"):
        SSD().unlearn(trained, forget=given["forget"])
