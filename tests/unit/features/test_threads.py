"""The number of PyTorch's threads within a block and after it."""

import pytest
import torch

from sdst.features.threads import at_most_threads, usable_cores


@pytest.mark.parametrize(
    ("given", "most", "expected"), [(4, 2, 2), (4, 9, 4), (4, 0, 1), (4, -3, 1), (1, 2, 1)]
)
def test_threads_are_limited_in_the_block_alone(given: int, most: int, expected: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(given)
    try:
        with pytest.raises(KeyError), at_most_threads(most):  # noqa: PT012  # the block fails on purpose
            assert torch.get_num_threads() == expected
            raise KeyError
        assert torch.get_num_threads() == given
    finally:
        torch.set_num_threads(before)


def test_there_is_a_core_to_use() -> None:
    assert usable_cores() >= 1
