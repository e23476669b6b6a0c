"""Text files of users other than annotations: byte order marks, other formats, paths that cannot be read."""

import json
from pathlib import Path

import pytest

from sdst.errors import UserError
from sdst.features.backbone.bert import _read_vocab
from sdst.features.selection import choose_records
from sdst.files.text import read_text
from sdst.files.yaml import read_yaml
from sdst.types import Record

PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat")


def test_every_reader_of_text_reads_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("\n".join(PIECES), encoding="utf-8-sig")
    assert _read_vocab(path, len(PIECES)) == {piece: number for number, piece in enumerate(PIECES)}
    path.write_text(json.dumps({"vid": "a"}), encoding="utf-8-sig")
    records = [Record(1, "a", "q", 2), Record(2, "b", "q", 2)]
    assert choose_records(records, path, None) == records[:1]
    path.write_text("name: a", encoding="utf-8-sig")
    assert read_yaml(path) == {"name": "a"}


@pytest.mark.parametrize(
    ("name", "reason"), [("absent", "No such file"), (".", "Is a directory"), ("\0", "must be a valid path")]
)
def test_a_path_that_cannot_be_read_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        read_text(tmp_path / name)
