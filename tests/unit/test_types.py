"""Readable one-line representations of what the packages exchange."""

import numpy as np

from sdst.types import Prediction


def test_a_prediction_prints_as_one_line() -> None:
    windows = np.array([[72.0, 90.0, 0.256], [1.0, 2.0, 0.1]])
    prediction = Prediction(7, "v", "a dog\njumps", windows, np.zeros(57))
    assert repr(prediction) == (
        "Prediction(qid=7, vid='v', query='a dog\\njumps', 2 moments, best 72.0-90.0 s (0.26), saliency of 57 clips)"
    )
    assert repr(Prediction("7", "v", "q", np.zeros((0, 3)))) == (
        "Prediction(qid='7', vid='v', query='q', 0 moments, no saliency)"
    )
