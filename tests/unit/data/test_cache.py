"""Features held in shared memory or on the device: the same batches, and shared memory that is left clean."""

import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.corpus import Corpus, make_corpus, make_rows
from helpers.memory_user import hold
from sdst.config.compose import compose
from sdst.config.schema import Levels
from sdst.data import on_device, shared
from sdst.data.datamodule import GroundingDataModule
from sdst.data.store import FeatureStore
from sdst.errors import UserError
from sdst.models.decoding import decode
from sdst.training.builders import make_datamodule
from sdst.training.module import make_module
from sdst.types import Batch

CPU = torch.device("cpu")
LEVELS = (Levels(2), Levels(2, direction="descending"), Levels(3, "last"), Levels(1))


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of this test in place of /dev/shm."""
    folder = tmp_path / "shm"
    folder.mkdir()
    monkeypatch.setattr(shared, "SHARED_MEMORY", folder)
    yield folder
    shared._latest = None


def files(memory: Path) -> list[Path]:
    return [path for path in memory.rglob("*") if path.is_file()]


def data_module(corpus: Corpus, **changes: Any) -> GroundingDataModule:
    arguments = {"features": str(corpus.features), "levels": Levels(2), "batch_size": 3, **changes}
    annotations = {split: str(path) for split, path in corpus.paths.items()}
    return GroundingDataModule("qvhighlights", annotations, **arguments)


def batches(module: GroundingDataModule, split: str) -> list[Batch]:
    module.hold(CPU)
    loader = module.loader(split)
    served = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        served += list(loader)
    return served


@pytest.mark.parametrize("levels", LEVELS, ids=str)
@pytest.mark.parametrize("cache", ["memory", "device"])
def test_batches_are_those_of_the_file(corpus: Corpus, cache: str, levels: Levels) -> None:
    for split in corpus.paths:
        for batch_size, pad_to in ((3, 1), (1, 1), (4, 8)):
            options = {"levels": levels, "batch_size": batch_size, "pad_to": pad_to}
            expected = batches(data_module(corpus, **options), split)
            got = batches(data_module(corpus, cache=cache, **options), split)
            for batch, other in zip(got, expected, strict=True):
                assert [record.qid for record in batch.records] == [record.qid for record in other.records]
                for name in (field.name for field in fields(Batch) if field.name != "records"):
                    one, two = getattr(batch, name), getattr(other, name)
                    assert one.dtype == two.dtype, name
                    assert one.stride() == two.stride(), name
                    assert torch.equal(one, two), name


def test_queries_about_one_video_have_it_once(tmp_path: Path) -> None:
    rows = [{**row, "vid": "v", "duration": 12} for row in make_rows("train", 3)]
    corpus = make_corpus(tmp_path / "corpus", {"train": rows, "val": make_rows("val", 2)})
    for cache in ("none", "device"):
        (batch, _) = batches(data_module(corpus, cache=cache), "train")
        assert batch.video.shape[0] == 1
        assert batch.video_mask.shape[0] == 3


@pytest.mark.parametrize("cache", ["memory", "device"])
def test_a_resumed_epoch_continues_with_the_same_batches(corpus: Corpus, cache: str) -> None:
    expected = batches(data_module(corpus), "train")[4:]
    module = data_module(corpus, cache=cache)
    module.load_state_dict({"epoch": 1, "batches": 2})
    rest = list(module.train_dataloader())
    assert len(rest) == len(expected) - 2
    for batch, other in zip(rest, expected[2:], strict=True):
        assert torch.equal(batch.video, other.video)
        assert torch.equal(batch.positive_clip, other.positive_clip)


def test_padding_to_multiples_gives_few_shapes(corpus: Corpus) -> None:
    for split in corpus.paths:
        for batch in batches(data_module(corpus, pad_to=8), split):
            assert batch.video.shape[2] % 8 == batch.text.shape[2] % 8 == batch.moments.shape[1] % 8 == 0
            assert batch.video_mask.shape[1] == batch.saliency.shape[1] == batch.video.shape[2]


# --- shared memory ---


def test_the_last_user_removes_the_shared_file(corpus: Corpus, memory: Path) -> None:
    store = FeatureStore(corpus.features)
    first = shared.share(store)
    (path,) = files(memory)
    assert path.parent.stat().st_mode & 0o077 == 0
    assert shared.share(store) is first
    other = pickle.loads(pickle.dumps(first))  # as another process has it
    assert np.array_equal(other.text(store.qids()[0]), store.text(store.qids()[0]))
    shared._latest = None
    del first
    assert files(memory) == [path]
    del other
    assert files(memory) == []


def test_other_layers_poolings_and_changed_files_are_held_apart(corpus: Corpus, memory: Path) -> None:
    def key(**options: Any) -> str:
        return shared._key(FeatureStore(corpus.features, **options))

    before = key()
    assert key() == before
    assert key(video_layers=(40,)) != before
    os.utime(corpus.features)
    assert key() != before


@pytest.mark.processes
def test_several_jobs_share_one_file_and_a_killed_one_leaves_nothing(
    corpus: Corpus, memory: Path, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("spawn")

    def start(name: str, dies_while_filling: bool = False) -> Any:
        job = context.Process(target=hold, args=(tmp_path, corpus.features, name, dies_while_filling))
        job.start()
        return job

    def kill(job: Any) -> None:
        job.kill()
        job.join()

    def wait_for(names: Sequence[str]) -> None:
        until = time.monotonic() + 120
        while not all((tmp_path / name).exists() and (tmp_path / name).read_text() for name in names):
            assert time.monotonic() < until
            time.sleep(0.05)

    dead = start("dead", dies_while_filling=True)
    dead.join()
    assert dead.exitcode == -signal.SIGKILL
    (path,) = files(memory)
    assert not path.read_bytes().endswith(shared.COMPLETE)

    jobs = {name: start(name) for name in "abc"}  # they find an incomplete file
    wait_for("abc")
    assert len({(tmp_path / name).read_text() for name in "abc"}) == 1
    (path,) = files(memory)
    kill(jobs["a"])
    kill(jobs["b"])
    assert files(memory) == [path]
    (tmp_path / "end").touch()
    jobs["c"].join()
    assert files(memory) == []

    (tmp_path / "end").unlink()
    job = start("d")
    wait_for("d")
    kill(job)
    (left,) = files(memory)
    inode = left.stat().st_ino
    assert shared.share(FeatureStore(corpus.features)).path.stat().st_ino == inode  # used again
    store = FeatureStore(corpus.features, video_layers=FeatureStore(corpus.features).video_layers[:1])
    shared.share(store)
    assert not left.exists()
    left.write_bytes(b"what a killed job has left behind")
    shared._latest = None
    shared.share(store)
    assert not left.exists()
    assert len(files(memory)) == 1


def test_features_that_do_not_fit_are_refused_in_one_line(
    corpus: Corpus, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, cache in ((shared, "memory"), (on_device, "device")):
        monkeypatch.setattr(module, "available_memory", lambda: 1000)
        with pytest.raises(
            UserError, match=rf"data.cache={cache}: the features need 0.00 GB, but .* 0.00 GB free"
        ):
            data_module(corpus, cache=cache).hold(CPU)
    assert files(memory) == []


def test_a_folder_that_others_can_write_to_is_refused(corpus: Corpus, memory: Path) -> None:
    folder = memory / f"sdst-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(UserError, match="must be a folder of yours"):
        shared.share(FeatureStore(corpus.features))


def test_unknown_values_are_refused(corpus: Corpus) -> None:
    with pytest.raises(UserError, match=r"data.cache must be one of none, memory, device, got 'gpu'"):
        data_module(corpus, cache="gpu")
    with pytest.raises(UserError, match=r"data.pad_to"):
        data_module(corpus, pad_to=0)


@pytest.mark.parametrize("name", ["sdst", "r2_tuning", "last_layer", "qd_detr"])
def test_padding_to_multiples_changes_no_prediction(corpus: Corpus, name: str) -> None:
    small = [text for text in corpus.overrides if not text.startswith("model.")]
    config = compose([*small, f"model={name}", "levels=k2" if name in ("sdst", "r2_tuning") else "seed=0"])
    results = []
    for pad_to in (1, 16):
        config.data.pad_to = pad_to
        data = make_datamodule(config)
        torch.manual_seed(0)
        module = make_module(config, data.recipe).eval()
        (batch, *_) = data.loader("val")
        with torch.inference_mode():
            output = module(batch)
            results.append((module.criterion(output, batch)[0], decode(output, batch, module.decoding)))
    (loss, predictions), (padded_loss, padded) = results
    torch.testing.assert_close(loss, padded_loss, rtol=1e-5, atol=1e-6)
    for one, two in zip(predictions, padded, strict=True):
        assert one.qid == two.qid
        for field in ("windows", "saliency"):
            a, b = getattr(one, field), getattr(two, field)
            np.testing.assert_allclose(a, b[: len(a)], rtol=1e-4, atol=1e-4)
