"""Where a resumed run goes on, from what its checkpoint stores."""

from pathlib import Path
from typing import Any

import pytest

from sdst.errors import UserError
from sdst.training.resume import batches_done


def make_checkpoint(ready: int, *, is_last_batch: bool) -> dict[str, Any]:
    progress = {"current": {"ready": ready}, "is_last_batch": is_last_batch}
    loops = {"fit_loop": {"epoch_loop.batch_progress": progress}}
    return {"epoch": 4, "optimizer_states": [], "loops": loops}


def test_batches_are_skipped_only_in_an_epoch_that_was_interrupted() -> None:
    assert batches_done(make_checkpoint(2, is_last_batch=False), Path("last.ckpt")) == (4, 2)
    assert batches_done(make_checkpoint(3, is_last_batch=True), Path("last.ckpt")) == (5, 0)


@pytest.mark.parametrize("missing", ["epoch", "optimizer_states", "loops"])
def test_a_checkpoint_without_the_progress_of_training_is_refused(missing: str) -> None:
    checkpoint = make_checkpoint(2, is_last_batch=False)
    del checkpoint[missing]
    with pytest.raises(UserError, match=r"last\.ckpt: the state of training is missing"):
        batches_done(checkpoint, Path("last.ckpt"))
