"""Fine-tuning: the same training as CF-k of all layers, to the bit."""

from unlearn import CFk, Training
from unlearn.methods import Finetune

from .conftest import same


def test_it_is_cf_k_of_all_layers(trained, given) -> None:
    settings = {"lr": 0.01, "final_lr": None, "epochs": 2, "batch_size": 32, "augment": "crop_flip", "seed": 3}
    everything = CFk(k=5, momentum=0.9, weight_decay=5e-4, **settings).unlearn(trained, **given)
    assert same(Finetune(**settings).unlearn(trained, **given).model, everything.model)


def test_other_loaders_are_taken_as_they_come(trained, given) -> None:
    """A list of batches gives the training that the same batches give in any loader."""
    listed = {**given, "retain": list(given["retain"]), "forget": list(given["forget"])}
    first, second = (Finetune(epochs=2).unlearn(trained, **which).model for which in (listed, listed))
    assert same(first, second)
    assert not same(first, trained)


def test_schedules() -> None:
    method = Finetune(lr=0.1, epochs=4)
    assert [method.phase().rate(e) for e in range(4)] == [0.1] * 4
    cosine = Finetune(lr=0.1, epochs=4, schedule="cosine").phase()
    assert [round(cosine.rate(e), 6) for e in range(5)] == [0.1, 0.085355, 0.05, 0.014645, 0.0]
    falling = Finetune(lr=0.1, final_lr=0.01, epochs=4, schedule="exponential").phase()
    same_as = Training(lr=0.1, final_lr=0.01, epochs=4)
    assert [falling.rate(e) for e in range(4)] == [same_as.rate(e) for e in range(4)]
