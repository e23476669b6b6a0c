"""FlashVTG's scores of points and its training losses, with padding and without."""

from dataclasses import replace

import torch

from helpers.tiny_baselines import SAMPLES, build, configured, make_batch
from sdst.baselines.detr.adaptive import AdaptiveOutput
from sdst.baselines.flash_vtg import FlashCriterion, FlashVTG, stretched
from sdst.types import Batch


def trained(batch: Batch) -> tuple[FlashVTG, AdaptiveOutput, dict[str, torch.Tensor]]:
    model = build("flash_vtg").train()
    assert isinstance(model, FlashVTG)
    batch.saliency = batch.saliency.ceil()  # votes without annotators are 0 or 1
    output = model(*batch.inputs(), labels=batch)
    loss = configured("flash_vtg")["loss"]
    weights = loss["weights"] | {"label": 1.0}
    criterion = FlashCriterion(weights, match_weights=loss["match_weights"], alpha=loss["alpha"])
    return model, output, criterion.by_level(output, batch)


@torch.no_grad()
def test_padding_changes_no_training_loss() -> None:
    _, _, expected = trained(make_batch(1))
    _, _, got = trained(make_batch(1, extra_clips=9, extra_tokens=3))
    assert {"cls", "l1", "sal", "attn", "nce", "label"} <= got.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_score_mixes_that_of_the_level_and_that_of_all_levels_in_a_row() -> None:
    batch = make_batch(1, extra_clips=5)
    model, output, _ = trained(batch)
    for b, (clips, _, _) in enumerate(SAMPLES):
        levels = model.pyramid(output.dense[b : b + 1, :clips])
        masks = [torch.ones(1, level.shape[1]).bool() for level in levels]
        by_level = torch.cat([model.score_level(*pair) for pair in zip(levels, masks, strict=True)], dim=1)
        in_a_row = model.score_all(torch.cat(levels, dim=1), torch.cat(masks, dim=1))
        expected = model.mix * by_level + (1 - model.mix) * in_a_row
        exists = output.anchors.mask[b]
        torch.testing.assert_close(output.class_logits[b, :, exists], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_moments_surround_their_points() -> None:
    """The distances to start and end are positive, and the last level's points are the coarsest."""
    _, output, _ = trained(make_batch(1, (0,)))
    centre, width = output.references[0, 0].unbind(dim=-1)
    position = output.anchors.position / SAMPLES[0][0]
    assert (width > 0).all()
    assert ((position - centre).abs() < width / 2).all()
    assert output.anchors.stride.unique().tolist() == [1, 2, 4, 8, 16]


@torch.no_grad()
def test_scores_proportional_to_votes_have_no_label_loss() -> None:
    batch = make_batch(1)
    _, output, terms = trained(batch)
    clips = batch.video_mask.shape[1]
    votes = (batch.saliency > 0).float()
    scores, wanted = output.class_logits[:, 0, :clips][batch.video_mask], votes[batch.video_mask]
    scores = (scores - scores.min()) / (scores.max() - scores.min())
    torch.testing.assert_close(terms["label"], (scores - wanted).square().mean())
    logits = output.class_logits.clone()
    logits[:, 0, :clips] = 3 * votes - 1
    criterion = FlashCriterion(
        configured("flash_vtg")["loss"]["weights"] | {"label": 1.0},
        match_weights={"cls": 1.0, "l1": 1.0, "iou": 1.0},
    )
    assert criterion.by_level(replace(output, class_logits=logits), batch)["label"] == 0
    assert (stretched(torch.ones(1, 3), torch.ones(1, 3, dtype=torch.bool)) == 0).all()
    values, mask = torch.tensor([[1.0, 3.0, -9.0, 9.0]]), torch.tensor([[True, True, False, False]])
    assert stretched(values, mask)[mask].tolist() == [0, 1]
