"""Characteristics of LST, E3VA and LoSA: which levels and clips their gates and adapters use, and how much."""

from collections.abc import Callable
from math import log

import pytest
import torch
from torch import Tensor, nn

from helpers.tiny_baselines import SMALL, build
from sdst.errors import UserError

K, T, L, DIM = 4, 9, 3, SMALL["dim"]
EVERY, NONE, LAST = {*range(K)}, set[int](), K - 1
OPEN, SHUT = 100.0, -100.0
"""Logits of gates."""


def inputs() -> dict[str, Tensor]:
    """Return the inputs of a side network: one sample without padding."""
    generator = torch.Generator().manual_seed(1)
    return {
        "video": torch.randn(1, K, T, DIM, generator=generator),
        "video_mask": torch.ones(1, T, dtype=torch.bool),
        "text": torch.randn(1, K, L, DIM, generator=generator),
        "text_mask": torch.ones(1, L, dtype=torch.bool),
        "positions": torch.randn(1, T, DIM, generator=generator),
    }


@torch.no_grad()
def levels_seen(network: nn.Module, modality: str) -> set[int]:
    """The levels of ``video`` or ``text`` that the refined clips depend on."""
    before = network(**inputs()).clips
    seen = set()
    for level in range(K):
        changed = inputs()
        changed[modality][:, level] += torch.randn(DIM, generator=torch.Generator().manual_seed(2))
        if not torch.allclose(network(**changed).clips, before, atol=1e-5):
            seen.add(level)
    return seen


@torch.no_grad()
def clips_moved(network: Callable[[Tensor], Tensor]) -> list[int]:
    """The clips of the result that another clip 4 changes."""
    clips = inputs()["video"][:, 0]
    changed = clips.clone()
    changed[:, 4] += torch.randn(DIM, generator=torch.Generator().manual_seed(2))
    return (network(changed) != network(clips)).any(dim=-1)[0].nonzero().flatten().tolist()


def side_network(name: str, **options: int) -> nn.Module:
    network: nn.Module = build(name, **options).refine
    return network


# --- LST ---


@pytest.mark.parametrize(
    ("gate", "video", "text"), [(0.0, EVERY, EVERY), (OPEN, {LAST}, {LAST}), (SHUT, {0}, EVERY)]
)
def test_a_ladder_gate_mixes_its_level_with_the_state_of_earlier_levels(
    gate: float, video: set[int], text: set[int]
) -> None:
    network = side_network("lst")
    nn.init.constant_(network.gates, gate)
    assert levels_seen(network, "video") == video
    assert levels_seen(network, "text") == text


class Unchanged(nn.Module):
    def forward(self, clips: Tensor, *_: Tensor) -> dict[str, Tensor]:
        return {"post_ca_sa_ffn": clips}


@torch.no_grad()
def test_the_gates_of_the_ladder_have_the_temperature_of_lst() -> None:
    """With blocks and projections that change nothing, the ladder is a weighted sum of the levels."""
    network = side_network("lst", reduction=1)
    network.blocks = nn.ModuleList(Unchanged() for _ in range(K))
    for linear in (*network.narrow_clips, network.widen):
        nn.init.eye_(linear.weight)
        nn.init.zeros_(linear.bias)
    nn.init.constant_(network.gates, 0.1 * log(3))  # odds of 3 to 1 for the level
    a, b, c, d = inputs()["video"].unbind(1)
    expected = ((a * 0.25 + b * 0.75) * 0.25 + c * 0.75) * 0.25 + d * 0.75
    torch.testing.assert_close(network(**inputs()).clips, expected)


def test_a_side_width_that_is_not_a_multiple_of_the_heads_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.reduction"):
        build("lst", reduction=3)


# --- E3VA ---


def adapters_alone(*working: tuple[str, int]) -> nn.Module:
    """E3VA's side network in which only the named adapters add anything."""
    network = side_network("e3va")
    for kind in ("before", "after"):
        for level, adapter in enumerate(getattr(network, kind)):
            if (kind, level) not in working:
                nn.init.zeros_(adapter[-1].weight)
                nn.init.zeros_(adapter[-1].bias)
    return network


@torch.no_grad()
def test_an_empty_highway_leaves_only_the_normed_last_level() -> None:
    network = adapters_alone()
    torch.testing.assert_close(network(**inputs()).clips, network.norm(inputs()["video"][:, LAST]))


@pytest.mark.parametrize("level", range(K))
def test_an_adapter_reads_its_own_level_and_only_the_second_adapter_reads_the_query(level: int) -> None:
    for kind, text in (("before", NONE), ("after", {level})):
        network = adapters_alone((kind, level))
        assert levels_seen(network, "video") == {level, LAST}
        assert levels_seen(network, "text") == text


@torch.no_grad()
def test_an_adapter_reads_the_state_of_the_highway() -> None:
    first, second, both = (
        adapters_alone(*working).double()
        for working in ([("before", 0)], [("before", 1)], [("before", 0), ("before", 1)])
    )
    shallow, deep = (inputs()["video"][:, level].double() for level in (0, 1))
    carried = first.before[0](shallow)
    last = inputs()["video"][:, LAST].double()
    expected = both.norm(last + carried + second.before[1](deep + carried))
    doubled = {name: x.double() if x.is_floating_point() else x for name, x in inputs().items()}
    torch.testing.assert_close(both(**doubled).clips, expected)


def test_adapters_process_each_clip_separately() -> None:
    network = side_network("e3va")

    def refined(clips: Tensor) -> Tensor:
        given = inputs()
        given["video"][:, 0] = clips
        result: Tensor = network(**given).clips
        return result

    assert clips_moved(refined) == [4]


# --- LoSA ---


def gates_open(*gates: tuple[int, int]) -> nn.Module:
    """LoSA's side network in which only the gates of these adapters (level, 0 long or 1 short) are open."""
    network = side_network("losa")
    nn.init.constant_(network.gates, SHUT)
    with torch.no_grad():
        for gate in gates:
            network.gates[gate] = OPEN
    return network


@torch.no_grad()
def test_closed_gates_leave_only_the_normed_last_level() -> None:
    network = gates_open()
    torch.testing.assert_close(network(**inputs()).clips, network.norm(inputs()["video"][:, LAST]))


@pytest.mark.parametrize("level", range(K))
def test_a_gate_controls_only_its_own_adapter_of_its_own_level(level: int) -> None:
    for adapter, text in ((0, {level}), (1, NONE)):
        network = gates_open((level, adapter))
        assert levels_seen(network, "video") == {level, LAST}
        assert levels_seen(network, "text") == text


def test_the_long_range_adapter_reads_the_whole_video_and_the_short_range_adapter_three_clips() -> None:
    network, given = side_network("losa"), inputs()

    def long(clips: Tensor) -> Tensor:
        signals: dict[str, Tensor] = network.long[0](
            clips, given["positions"], given["video_mask"], given["text"][:, 0], given["text_mask"]
        )
        return signals["post_ca_sa_ffn"]

    assert clips_moved(lambda clips: network.short[0](clips, given["video_mask"])) == [3, 4, 5]
    assert clips_moved(long) == [*range(T)]
