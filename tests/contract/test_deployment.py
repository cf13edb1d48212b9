"""From every trained algorithm to something that runs elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces

from tests.contract.subjects import Subject

pytestmark = pytest.mark.filterwarnings("ignore::sb3_offline.datasets.DatasetWarning")


@pytest.mark.one_a_family
def test_the_onnx_file_is_predict(subject: Subject, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = subject.make().learn(4)
    session = onnxruntime.InferenceSession(str(model.export_onnx(tmp_path / "policy")), providers=["CPUExecutionProvider"])
    rows = subject.arrays["observations"][:7].astype(np.float32)
    expected, _ = model.predict(rows, deterministic=True)
    np.testing.assert_allclose(session.run(None, {"observation": rows})[0], expected, atol=1e-4)


def test_how_unlike_the_data(subject: Subject, tmp_path: Path) -> None:
    """A state far from the data scores higher than one of them, and the score comes back with the model."""
    model = subject.make().learn(2)
    if subject.actions is not spaces.Box:
        with pytest.raises(ValueError, match=r"ood_score needs vectors of numbers as actions \(a Box space\)"):
            model.fit_ood_detector()
        return
    rows, actions = subject.arrays["observations"][:20], subject.arrays["actions"][:20]
    with pytest.raises(RuntimeError, match="fit_ood_detector"):
        model.ood_score(rows, actions)
    model.fit_ood_detector(n_steps=5)
    scores = model.ood_score(rows, actions)
    assert scores.shape == (20,)
    assert scores.min() >= 0
    assert scores.max() <= 1
    assert model.ood_score(rows + 50, actions).min() > np.median(scores)
    model.save(tmp_path / "model")
    loaded = subject.cls.load(tmp_path / "model", device="cpu")
    np.testing.assert_allclose(loaded.ood_score(rows, actions), scores, atol=1e-6)
