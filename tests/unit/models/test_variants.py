"""Variants of the paper's ablations: every option has an effect, and every combination works or is refused."""

import itertools
import json
from collections.abc import Sequence
from copy import copy, deepcopy
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from helpers.composed import composed
from helpers.corpus import TINY, make_rows, write_rows
from sdst.cli import main
from sdst.config.build import build
from sdst.config.schema import Levels
from sdst.data.annotations import read_annotations
from sdst.errors import UserError
from sdst.features.writer import FeatureWriter
from sdst.losses.criterion import TERMS
from sdst.models.decoding import decode
from sdst.models.dense_stream import SIGNALS
from sdst.models.sparse_stream import MODULES
from sdst.training.checkpoint import build_model
from sdst.training.complete import complete
from sdst.training.module import GroundingModule, make_module
from sdst.types import Batch, Output

K, M, DIM, TEXT_DIM = 3, 4, 16, 12
VIDEO_DIMS = {"adaptive": 10, "avg": 14, "cls": 14}
LAYERS = 13  # K = 5 at stride 3
VARIANT_OPTIONS = ("model", "levels", "loss")
ATTENTIONS = ("rdsa", "deformable", "pure_init", "mixed_init", "standard")
"""Tab. 5."""


@cache
def attention_of(name: str) -> dict[str, Any]:
    options: Any = OmegaConf.to_container(composed(f"attention={name}").model.attention)
    return options


@pytest.fixture(scope="module")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Train on features of three poolings and of enough layers for every choice of levels."""
    folder = tmp_path_factory.mktemp("variants")
    paths = {split: write_rows(folder / f"{split}.jsonl", make_rows(split, 5)) for split in ("train", "val")}
    rng = np.random.default_rng(0)
    writer = FeatureWriter(
        folder / "features.h5",
        backbone="made up",
        video_layers=range(41 - LAYERS, 41),
        text_layers=range(20 - LAYERS, 20),
        clip_seconds=2.0,
    )
    with writer:
        for record in (record for path in paths.values() for record in read_annotations(path).records):
            clips = int(record.duration / 2)
            for pooling, width in VIDEO_DIMS.items():
                if not writer.has_video(record.vid, pooling):
                    writer.write_video(pooling, record.vid, rng.normal(size=(clips, LAYERS, width)))
            writer.write_text(record.qid, rng.normal(size=(1 + int(rng.integers(4)), LAYERS, TEXT_DIM)))
        writer.finish()
    files = {
        **{f"data.annotations.{split}": path for split, path in paths.items()},
        "data.annotations.test": "null",
    }
    return [
        *TINY,
        f"levels.count={K}",
        f"data.features={folder / 'features.h5'}",
        *(f"{key}={path}" for key, path in files.items()),
    ]


class Variant(NamedTuple):
    """A model with its losses, built as in training, and a fixed batch of its features."""

    module: GroundingModule
    batch: Batch

    def run(self) -> Output:
        return self.module.eval()(self.batch)


def make(config: DictConfig) -> Variant:
    """Build what ``sdst train`` would train, with every weight moved, including those that start at zero."""
    config = complete(config)
    data: Any = OmegaConf.to_container(config.data)
    levels: Any = OmegaConf.to_container(config.levels)
    recipe, batch = read(json.dumps(data), json.dumps(levels))
    torch.manual_seed(0)
    module = make_module(config, recipe)
    for parameter in module.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return Variant(module, copy(batch))


@cache
def read(data: str, levels: str) -> tuple[dict[str, Any], Batch]:
    """Recipe of the features, and the batch of all validation queries, of a data module with these options."""
    module = build(DictConfig(json.loads(data)), levels=Levels(**json.loads(levels)), seed=0)
    (batch,) = module.loader("val")
    return module.recipe, batch


@pytest.fixture
def variant(overrides: list[str]):
    return lambda *changes: make(composed(*overrides, "data.batch_size=5", *changes))


# --- every option has an effect ---


def leaves(node: Any, prefix: str) -> dict[str, Any]:
    """Return every option below a node of a configuration by its full name; a list is one option."""
    if not isinstance(node, dict):
        return {prefix: node}
    return {name: value for key in node for name, value in leaves(node[key], f"{prefix}.{key}").items()}


LEAVES = {
    name: value
    for group in VARIANT_OPTIONS
    for name, value in leaves(OmegaConf.to_container(composed(*TINY)[group]), group).items()
    if not name.endswith(("._target_", ".denoising_noise"))  # has an effect with model.denoising_groups alone
}
OTHER_TEXT = {
    "model.signal": SIGNALS[:-1],
    "levels.source": ["last"],
    "levels.direction": ["ascending"],
    "loss.over_levels": ["mean"],
    "model.references": ["random"],
    "model.attention.spread": ["line"],
}


def others(name: str, value: Any) -> list[Any]:
    """Return other legal values of an option. An option with text needs an entry above."""
    if name.startswith("loss.match_weights"):
        return [20.0]  # so strong that some query changes its moment
    if isinstance(value, str):
        return list(OTHER_TEXT[name])
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [2 * value or 1]
    if isinstance(value, float):
        return [0.0, value / 2] if name.startswith("loss.weights") else [value / 2]
    assert isinstance(value, list)
    return [value[:-1]]


def fingerprint(variant: Variant) -> list[Any]:
    """Shapes of the parameters, predictions, and a training step's loss and gradients."""
    shapes = [(name, tuple(parameter.shape)) for name, parameter in variant.module.named_parameters()]
    output = variant.run()
    torch.manual_seed(1)  # for dropout
    total, _ = variant.module.criterion(variant.module.train()(variant.batch), variant.batch)
    total.backward()
    gradients = [None if p.grad is None else p.grad.tolist() for p in variant.module.parameters()]
    predicted = output.class_logits, output.references, output.actionness, output.saliency
    return [shapes, [tensor.tolist() for tensor in predicted], total.item(), gradients]


@pytest.fixture(scope="module")
def unchanged(overrides: list[str]) -> tuple[DictConfig, list[Any]]:
    """A configuration and the fingerprint of its model."""
    # Many queries, so that a weight of the matching decides between some of them.
    config = composed(*overrides, "data.batch_size=5", "model.num_queries=16")
    before = fingerprint(make(config))
    assert fingerprint(make(config)) == before
    return config, before


@pytest.mark.parametrize("name", LEAVES)
def test_every_option_changes_the_model_its_output_or_its_loss(
    unchanged: tuple[DictConfig, list[Any]], name: str
) -> None:
    config, before = unchanged
    for value in others(name, LEAVES[name]):
        changed = deepcopy(config)
        OmegaConf.update(changed, name, value)
        assert fingerprint(make(changed)) != before, value


@pytest.mark.parametrize(
    ("option", "other"),
    [("num_points", 8), ("start", "pure"), ("start", "mixed"), ("with_place", False), ("spread", "line")],
    ids=str,
)
def test_every_option_of_deformable_attention_has_an_effect(
    unchanged: tuple[DictConfig, list[Any]], option: str, other: Any
) -> None:
    config = deepcopy(unchanged[0])
    config.model.attention = attention_of("deformable")
    before = fingerprint(make(config))
    config.model.attention[option] = other
    assert fingerprint(make(config)) != before


def test_every_attention_is_another_model(unchanged: tuple[DictConfig, list[Any]]) -> None:
    config = deepcopy(unchanged[0])
    prints = []
    for config.model.attention in map(attention_of, ATTENTIONS):
        prints.append(fingerprint(make(config)))
    assert prints[0] == unchanged[1]
    assert all(a != b for a, b in itertools.combinations(prints, 2))


@pytest.mark.parametrize("pooling", VIDEO_DIMS)
def test_each_pooling_reads_its_own_features(variant, pooling: str) -> None:
    chosen = variant(f"data.pooling={pooling}")
    assert chosen.batch.video.shape[-1] == VIDEO_DIMS[pooling]
    assert chosen.module.model.video_dim == VIDEO_DIMS[pooling]
    others = [variant(f"data.pooling={other}") for other in VIDEO_DIMS if other != pooling]
    assert all(fingerprint(other) != fingerprint(chosen) for other in others)


# --- every combination works or is refused ---

CHOICES = {
    "model.attention": st.sampled_from(ATTENTIONS).map(attention_of),
    "model.signal": st.sampled_from(SIGNALS),
    "model.sharing": st.booleans(),
    "model.stop_reference_gradient": st.booleans(),
    "model.num_queries": st.integers(0, 9),
    "levels.count": st.integers(1, 5),
    "levels.source": st.sampled_from(["intermediate", "last"]),
    "levels.stride": st.integers(1, 3),
    "levels.text_stride": st.integers(1, 3),
    "levels.direction": st.sampled_from(["ascending", "descending"]),
    "data.pooling": st.sampled_from(list(VIDEO_DIMS)),
    **{f"loss.weights.{term}": st.sampled_from([0.0, 0.5]) for term in TERMS},
    **{f"loss.match_weights.{cost}": st.sampled_from([0.0, 0.5]) for cost in ("cls", "l1", "iou")},
    "decode.score": st.sampled_from(["auto", "both", "class", "actionness"]),
}
OF_RDSA = {  # Hydra refuses them with another attention
    "model.attention.sampling": st.lists(st.sampled_from("lcr"), max_size=3).map(list),
    "model.attention.cnn_depth": st.integers(0, 2),
}
ORDERS = [order for n in range(1, 5) for order in itertools.permutations(MODULES, n)]


@st.composite
def changes(draw: st.DrawFn) -> dict[str, Any]:
    """Draw other values for a few options, of which enough are legal that whole combinations often are."""
    choices = CHOICES | OF_RDSA
    chosen = draw(st.lists(st.sampled_from(list(choices)), max_size=6, unique=True))
    drawn = {name: draw(choices[name]) for name in chosen}
    if drawn.get("model.attention", attention_of("rdsa")) != attention_of("rdsa"):
        drawn = {name: value for name, value in drawn.items() if name not in OF_RDSA}
    drawn = dict(sorted(drawn.items()))  # the attention before its options
    if draw(st.booleans()):
        drawn["model.modules"] = list(draw(st.sampled_from(ORDERS)))
    return drawn


def starts_from_clips(config: DictConfig) -> bool:
    return OmegaConf.select(config, "model.attention.start") in ("pure", "mixed")


def impossible(config: DictConfig) -> bool:
    """Whether a combination has no meaning according to the paper."""
    model, levels, weights = config.model, config.levels, config.loss.weights
    scored = {"cls": weights.cls > 0, "act": weights.act > 0}
    needed = {"both": {"cls", "act"}, "class": {"cls"}, "actionness": {"act"}}.get(config.decode.score, set())
    reads_video = "rdsa" in model.modules
    attention = model.attention
    steered = attention["_target_"] == attention_of("rdsa")["_target_"]
    reduced = steered and (len(attention.sampling) < 3 or attention.cnn_depth == 0)
    costs = config.loss.match_weights
    return (
        model.num_queries == 0
        or (steered and not 0 < len(attention.sampling) == len(set(attention.sampling)))
        or "ffn" in model.modules[:-1]
        or (not reads_video and (not steered or model.signal != "post_ca_sa_ffn" or reduced))
        or (starts_from_clips(config) and not scored["cls"])
        or (levels.source == "last" and (levels.stride, levels.text_stride) != (1, 1))
        or not any(scored.values())
        or any(not scored[term] for term in needed)
        or not (costs.l1 or costs.iou or (costs.cls and scored["cls"]))
    )


@pytest.fixture(scope="module")
def plain(overrides: list[str]) -> DictConfig:
    return composed(*overrides, "data.batch_size=5")


@pytest.mark.slow
@settings(max_examples=75)
@given(changes=changes())
def test_a_combination_gives_finite_outputs_of_the_right_shapes_or_is_refused_in_one_line(
    plain: DictConfig, changes: dict[str, Any]
) -> None:
    config = deepcopy(plain)
    for name, value in changes.items():
        OmegaConf.update(config, name, value, merge=False)
    refusal = ""
    try:
        built = make(config)
    except UserError as error:
        refusal = str(error)
    assert bool(refusal) == impossible(config), refusal
    if refusal:
        assert "\n" not in refusal
        assert refusal.startswith(("model.", "attention=", "levels.", "loss", "decode."))
    else:
        assert_works(built, config)


def assert_works(built: Variant, config: DictConfig) -> None:
    """Check shapes as documented in ``Output``, finite values and gradients, and predictions inside the video."""
    module, batch = built
    levels, queries, size = config.levels.count, config.model.num_queries, len(batch)
    clips = batch.video.shape[2]
    output = built.run()
    shapes = {
        "class_logits": (size, levels, queries),
        "references": (size, levels, queries, 2),
        "actionness": (size, queries),
        "saliency": (size, clips),
        "dense": (size, clips, DIM),
        "query": (size, DIM),
        "video": (size, levels, clips, DIM),
        "text": (size, levels, DIM),
        "initial_references": (size, queries, 2),
    }
    if starts_from_clips(config):
        shapes["proposal_logits"] = (size, queries)
    tensors = {name: value for name, value in vars(output).items() if value is not None}
    assert {name: tuple(value.shape) for name, value in tensors.items()} == shapes
    assert all(value.isfinite().all() for value in tensors.values())
    assert all(((moments > 0) & (moments < 1)).all() for moments in (output.references, output.actionness))
    for prediction, record in zip(decode(output, batch, module.decoding), batch.records, strict=True):
        assert prediction.windows.shape == (queries, 3)
        assert (prediction.windows >= 0).all()
        assert (prediction.windows[:, :2] <= record.duration).all()
        assert (prediction.windows[:, 2] <= 1).all()
    total, terms = module.criterion(module.train()(batch), batch)
    assert set(terms) == {term for term in TERMS if config.loss.weights[term]}
    assert total.isfinite()
    total.backward()
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)


@pytest.mark.parametrize("order", [order for order in ORDERS if "ffn" not in order[:-1]], ids="-".join)
def test_every_order_of_every_subset_of_the_modules_works(plain: DictConfig, order: Sequence[str]) -> None:
    config = deepcopy(plain)
    config.model.modules = list(order)
    assert_works(make(config), config)


@pytest.mark.parametrize("count", range(1, 6))
def test_every_choice_of_levels_works(plain: DictConfig, count: int) -> None:
    choices = [*({"source": "intermediate", "stride": stride} for stride in (1, 2, 3)), {"source": "last"}]
    for choice in choices:
        config = deepcopy(plain)
        config.levels.update({"count": count, **choice})
        assert_works(make(config), config)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_every_attention_works_on_every_signal(plain: DictConfig, attention: str) -> None:
    for signal in SIGNALS:
        config = deepcopy(plain)
        config.model.attention = attention_of(attention)
        config.model.signal = signal
        assert_works(make(config), config)


@pytest.mark.parametrize("cnn_depth", [0, 2])
def test_every_choice_of_sampling_points_works_with_and_without_the_cnn(
    plain: DictConfig, cnn_depth: int
) -> None:
    for sampling in ("c", "lr", "lcr"):
        config = deepcopy(plain)
        config.model.attention.update({"sampling": list(sampling), "cnn_depth": cnn_depth})
        assert_works(make(config), config)


REFUSED = {
    "order=no_rdsa attention=deformable": ["model.attention=deformable", "rdsa"],
    "order=no_rdsa attention=standard": ["model.attention=standard", "rdsa"],
    "model.modules=[ca,sa,ffn] model.signal=raw": ["model.signal=raw", "rdsa"],
    "order=no_rdsa model.attention.sampling=[c]": ["model.attention.sampling", "rdsa"],
    "order=no_rdsa model.attention.cnn_depth=0": ["model.attention.cnn_depth", "rdsa"],
    "attention=standard model.attention.sampling=[l,r]": ["model.attention.sampling"],
    "attention=standard model.attention.num_points=8": ["model.attention.num_points"],
    "attention=deformable model.attention.cnn_depth=0": ["model.attention.cnn_depth"],
    "attention=mixed_init loss.weights.cls=0": ["attention=mixed_init", "loss.weights.cls"],
    "attention=pure_init loss=no_cls": ["attention=pure_init", "loss.weights.cls"],
    "levels.source=last levels.stride=2": ["levels.source: last", "levels.stride"],
    "levels.source=last levels.text_stride=2": ["levels.source: last", "text_stride"],
    "model.denoising_noise=0.4": ["model.denoising_noise", "model.denoising_groups"],
    "loss.weights.cls=0 loss.weights.act=0": ["loss.weights", "cls", "act"],
    "loss.weights.act=0 decode.score=both": ["decode.score", "loss.weights.act"],
    "loss.weights.cls=0 loss.match_weights.l1=0 loss.match_weights.iou=0": [
        "loss.match_weights",
        "all are 0",
    ],
    "levels.count=5 levels.stride=4": ["video_layers", "24"],
    "levels.count=5 levels.text_stride=4": ["text_layers", "3"],
}


@pytest.mark.parametrize("combination", REFUSED)
def test_contradictory_options_end_with_one_line_and_status_2_before_anything_is_written(
    overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], combination: str
) -> None:
    run_dir = tmp_path / "runs/run"
    assert main(["train", *overrides, *combination.split(), f"run_dir={run_dir}"]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("sdst: error: ")
    assert all(part in line for part in REFUSED[combination])
    assert captured.out == ""
    assert not run_dir.exists()


# --- variants that must be equal ---


def sparse(output: Output) -> tuple[Tensor, Tensor]:
    return output.class_logits, output.references


def assert_same(one: Output, other: Output) -> None:
    for name, value in vars(one).items():
        if value is not None:
            assert torch.equal(value, getattr(other, name)), name


def test_the_papers_order_is_the_default(variant) -> None:
    assert_same(variant("order=ca_sa_rdsa_ffn").run(), variant().run())
    other = variant("order=rdsa_ca_sa_ffn").run()
    assert not torch.equal(other.class_logits, variant().run().class_logits)


def test_one_intermediate_layer_equals_the_last_layer_once(variant) -> None:
    last = variant("levels.count=1", "levels.source=last")
    for stride in (1, 3):
        intermediate = variant("levels.count=1", f"levels.stride={stride}")
        assert torch.equal(intermediate.batch.video, last.batch.video)
        assert torch.equal(intermediate.batch.text, last.batch.text)
        assert_same(intermediate.run(), last.run())
    assert_same(variant("levels.count=1", "model.sharing=false").run(), last.run())


def test_the_last_layer_repeats_and_the_stride_skips_layers_of_the_video_only(variant) -> None:
    layers = variant("levels.count=5", "levels.direction=ascending").batch
    last = variant("levels.source=last").batch
    for level in range(K):
        assert torch.equal(last.video[:, level], layers.video[:, -1])
        assert torch.equal(last.text[:, level], layers.text[:, -1])
    skipped = variant("levels.stride=2", "levels.direction=ascending").batch
    assert torch.equal(skipped.video, layers.video[:, [0, 2, 4]])
    assert torch.equal(skipped.text, layers.text[:, 2:])


class Queries(nn.Module):
    """Replaces the MLP of eq. 10: returns the decoder queries with their positions, with which RDSA was called."""

    def __init__(self, rdsa: nn.Module) -> None:
        super().__init__()
        self.now = torch.zeros(0)
        rdsa.register_forward_pre_hook(lambda _, inputs: setattr(self, "now", inputs[0] + inputs[1]))

    def forward(self, _: Tensor) -> Tensor:
        return self.now


@pytest.mark.parametrize("sharing", ["true", "false"])
def test_rdsa_with_sampling_from_its_queries_equals_deformable_attention(variant, sharing: str) -> None:
    deformable = variant("attention=deformable", f"model.sharing={sharing}")
    rdsa = variant(f"model.attention.query_dim={DIM}", f"model.sharing={sharing}")
    before = rdsa.run().class_logits
    for stream in rdsa.module.model.sparse:
        stream.rdsa.query = Queries(stream.rdsa)
    missing, unexpected = rdsa.module.load_state_dict(deformable.module.state_dict(), strict=False)
    assert all(".rdsa.cnn." in name for name in missing)
    assert not unexpected
    assert_same(rdsa.run(), deformable.run())
    assert not torch.equal(rdsa.run().class_logits, before)


@pytest.mark.parametrize(
    "modules", [c for n in range(1, 4) for c in itertools.combinations(("ca", "sa", "ffn"), n)], ids="-".join
)
def test_without_rdsa_the_moments_do_not_depend_on_the_video(variant, modules: Sequence[str]) -> None:
    blind = variant(f"model.modules=[{','.join(modules)}]")
    before = blind.run()
    blind.batch.video = torch.randn_like(blind.batch.video)
    after = blind.run()
    assert all(torch.equal(a, b) for a, b in zip(sparse(after), sparse(before), strict=True))
    assert not torch.equal(after.saliency, before.saliency)


def test_with_rdsa_the_moments_depend_on_the_video(variant) -> None:
    seeing = variant()
    before = seeing.run()
    seeing.batch.video = torch.randn_like(seeing.batch.video)
    assert not any(torch.equal(a, b) for a, b in zip(sparse(seeing.run()), sparse(before), strict=True))


@pytest.mark.parametrize(("sharing", "low", "high"), [("true", 4.0e6, 4.4e6), ("false", 12.0e6, 13.2e6)])
def test_sizes_with_and_without_sharing_stay_within_the_papers_budget(
    sharing: str, low: float, high: float
) -> None:
    config: Any = OmegaConf.to_container(composed(f"model.sharing={sharing}"), resolve=True)
    with torch.device("meta"):
        model = build_model(config, {"video_dim": 768, "text_dim": 1024})
    assert low <= sum(p.numel() for p in model.parameters() if p.requires_grad) <= high


def test_a_module_denoises_in_training_alone_with_the_given_noise(variant) -> None:
    one = variant("model.denoising_groups=1")
    assert one.module.eval()(one.batch).denoised_logits is None
    assert one.module.train()(one.batch).denoised_logits is not None
    other = variant("model.denoising_groups=1", "model.denoising_noise=0.4")
    assert fingerprint(other) != fingerprint(variant("model.denoising_groups=1"))
