"""Query denoising: how true moments are noised, who sees them, and that nothing else changes."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.tiny_sdst import K, M, build, changed, criterion, make_batch, run
from sdst.losses.denoising import denoising_losses
from sdst.losses.moment import focal_errors
from sdst.models.denoising import SMALLEST_WIDTH, Denoising
from sdst.spans import aligned_iou, cw_to_se

GROUPS = 3


def truth(batch):
    return batch.moments, batch.moment_mask


def train(batch, **options):
    """Output in training, without random dropping, of a model that denoises."""
    model = build(denoising_groups=GROUPS, dropout=0.0, drop_path=0.0, **options).train()
    torch.manual_seed(1)
    return model, run(model, batch, truth=truth(batch))


@given(
    centre=st.floats(0.01, 0.99),
    width=st.floats(0.002, 0.99),
    noise=st.sampled_from([0.1, 0.4, 1.0, 3.0]),
    seed=st.integers(0, 1000),
)
def test_noise_is_bounded_by_half_widths(centre: float, width: float, noise: float, seed: int) -> None:
    torch.manual_seed(seed)
    true = cw_to_se(torch.tensor([[[centre, width]]])).clamp(0, 1)
    moments = torch.stack([true.mean(-1), true[..., 1] - true[..., 0]], dim=-1)
    noised = Denoising(GROUPS, noise).draw(moments)
    assert noised.shape == (1, GROUPS * 2, 2)
    assert (noised[..., 1] >= SMALLEST_WIDTH).all()
    half = moments[0, 0, 1].item() / 2
    for index, reference in enumerate(noised[0]):
        start, end = cw_to_se(reference).tolist()
        negative = index % 2  # groups × (positive, negative) × one moment
        if reference[1] == SMALLEST_WIDTH:
            continue
        assert -1e-5 <= start <= end <= 1 + 1e-5
        low, high = noise * negative * half - 1e-5, noise * (1 + negative) * half + 1e-5
        shifts = [abs(start - true[0, 0, 0].item()), abs(end - true[0, 0, 1].item())]
        inside = start > 1e-5 and end < 1 - 1e-5  # clamping shortens a shift
        crossed = noise * (1 + negative) >= 1  # boundaries that crossed have changed places
        if inside and not crossed:
            assert all(low <= shift <= high for shift in shifts)


def test_a_noised_query_is_seen_by_its_own_group_alone() -> None:
    mask = torch.tensor([[True, True], [True, False]])
    seen = Denoising(GROUPS).visible(M, mask)
    noised = list(itertools.product(range(GROUPS), range(2), range(2)))  # group, kind, moment
    assert seen.shape == (2, M + len(noised), M + len(noised))
    for b in range(2):
        for row, column in itertools.product(range(seen.shape[1]), repeat=2):
            if column < M:
                expected = True
            elif row < M:
                expected = False
            else:
                (group, *_), (other, _, moment) = noised[row - M], noised[column - M]
                expected = group == other and bool(mask[b, moment])
            assert seen[b, row, column] == expected


@pytest.mark.parametrize("attention", ["rdsa", "mixed_init", "standard"])
def test_learned_queries_and_their_losses_do_not_depend_on_it(attention: str) -> None:
    batch = make_batch()
    model, output = train(batch, attention=attention)
    alone = run(model, batch)
    assert alone.denoised_logits is None
    for name in ("class_logits", "references", "saliency", "actionness"):
        torch.testing.assert_close(getattr(output, name), getattr(alone, name), atol=1e-5, rtol=1e-5)
    assert output.denoised_logits.shape == (4, K, GROUPS * 2 * 2)
    assert run(model.eval(), batch, truth=truth(batch)).denoised_logits is None


def test_a_moment_that_a_sample_lacks_changes_nothing() -> None:
    batch = make_batch()
    _, output = train(batch)
    batch.moments[1, 1] = torch.tensor([0.7, 0.2])  # sample 1 has one moment
    assert not batch.moment_mask[1, 1]
    _, other = train(batch)
    valid = batch.moment_mask[1].repeat(2 * GROUPS)
    torch.testing.assert_close(output.denoised_logits[1, :, valid], other.denoised_logits[1, :, valid])
    for terms in (criterion("cls", "l1", "iou"), criterion("l1")):
        torch.testing.assert_close(terms(output, batch)[0], terms(other, batch)[0])


def test_groups_do_not_see_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = make_batch()
    _, output = train(batch)
    draw = Denoising.draw

    def moved(self: Denoising, moments: torch.Tensor) -> torch.Tensor:
        noised = draw(self, moments)
        noised[:, -4:] = 0.5  # the last group
        return noised

    monkeypatch.setattr(Denoising, "draw", moved)
    _, other = train(batch)
    torch.testing.assert_close(output.denoised_logits[..., :-4], other.denoised_logits[..., :-4])
    assert changed(output.denoised_logits[..., -4:], other.denoised_logits[..., -4:])


def test_losses_equal_a_loop_over_the_noised_queries() -> None:
    torch.manual_seed(0)
    batch = make_batch()
    count = batch.moments.shape[1]
    logits = torch.randn(4, GROUPS * 2 * count)
    references = torch.rand(4, GROUPS * 2 * count, 2)
    got = denoising_losses(logits[:, None], references[:, None], *truth(batch))
    classes, l1, iou, positives = 0.0, 0.0, 0.0, 0
    for b in range(4):
        for index, (_, kind, g) in enumerate(itertools.product(range(GROUPS), range(2), range(count))):
            if not batch.moment_mask[b, g]:
                continue
            positive = kind == 0
            classes += focal_errors(logits[b, index], torch.tensor(positive)).item()
            if positive:
                positives += 1
                l1 += (references[b, index] - batch.moments[b, g]).abs().sum().item()
                pair = cw_to_se(references[b, index]), cw_to_se(batch.moments[b, g])
                iou += 1 - aligned_iou(*pair).item()
    assert positives == GROUPS * int(batch.moment_mask.sum())
    expected = {"cls": classes / positives, "l1": l1 / positives, "iou": iou / positives}
    assert {name: value.item() for name, value in got.items()} == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("attention", ["rdsa", "pure_init"])
def test_they_are_added_to_the_losses_of_their_levels(attention: str) -> None:
    batch = make_batch()
    model, output = train(batch, attention=attention)
    terms = criterion("cls", "l1", "iou")
    together, matched = terms.by_level(output, batch), terms.by_level(run(model, batch), batch)
    for k in range(K):
        level = denoising_losses(
            output.denoised_logits[:, k : k + 1], output.denoised_references[:, k : k + 1], *truth(batch)
        )
        for name, (value,) in level.items():
            difference = together[name][k - K] - matched[name][k - K]
            torch.testing.assert_close(difference, value, atol=1e-5, rtol=1e-5)
    if attention == "pure_init":  # proposals come first
        torch.testing.assert_close(together["cls"][0], matched["cls"][0])


def test_samples_without_moments_have_no_denoising_loss() -> None:
    batch = make_batch([3])
    assert not batch.moment_mask.any()
    model, output = train(batch)
    total, _ = criterion("cls", "l1", "iou")(output, batch)
    total.backward()
    torch.testing.assert_close(total, criterion("cls", "l1", "iou")(run(model, batch), batch)[0])
    assert model.noised_query.grad is not None  # every process of a distributed run has the same parameters
