from __future__ import annotations

import json

from plinio_sweep.train.history import Epoch


def test_an_epoch_comes_back_from_json() -> None:
    epoch = Epoch(
        phase="pit.search",
        index=2,
        step=7,
        train_loss=0.5,
        validation_loss=0.6,
        metrics={"accuracy": 0.9},
        strength=1e-3,
        costs={"params": 12.0},
    )
    assert Epoch(**json.loads(json.dumps(epoch.to_dict()))) == epoch
