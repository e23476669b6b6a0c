"""Progress counts epochs from 1, and knows which epochs had a validation."""

from types import SimpleNamespace
from typing import Any

import pytest

from sdst.training.callbacks.epoch_log import EpochBar, has_validated


def test_progress_bar_counts_epochs_from_1() -> None:
    bar = EpochBar()
    bar._trainer = SimpleNamespace(max_epochs=12)  # type: ignore[assignment]
    assert [bar._get_train_description(epoch) for epoch in (0, 11)] == ["Epoch 1/12", "Epoch 12/12"]


@pytest.mark.parametrize(
    ("every", "validated"), [(None, [True] * 4), (1, [True] * 4), (3, [False, False, True, False])]
)
def test_epoch_has_validation_every_nth_time(every: int | None, validated: list[bool]) -> None:
    trainers: list[Any] = [SimpleNamespace(current_epoch=e, check_val_every_n_epoch=every) for e in range(4)]
    assert [has_validated(trainer) for trainer in trainers] == validated
