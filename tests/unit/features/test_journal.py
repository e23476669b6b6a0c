"""The journal of an extraction keeps every complete item, also of a run that continued after a kill."""

from pathlib import Path

import numpy as np

from sdst.features.journal import Journal


def test_items_after_an_incomplete_one_are_kept(tmp_path: Path) -> None:
    path, first, second = tmp_path / "journal", np.ones((2, 1, 3), "f2"), np.zeros((1, 1, 3), "f2")
    journal = Journal(path, {"layers": 1})
    journal.append("first", first)
    journal.append("killed", first)
    journal.close()
    path.write_bytes(path.read_bytes()[:-1])
    journal = Journal(path, {"layers": 1})
    assert list(journal.keys) == ["first"]
    journal.append("second", second)
    journal.close()
    journal = Journal(path, {"layers": 1})
    assert list(journal.keys) == ["first", "second"]
    np.testing.assert_array_equal(journal.read("first"), first)
    np.testing.assert_array_equal(journal.read("second"), second)
    journal.close()
