"""Motions of a hand as signals `(C, T)`: `C` channels over `T` samples."""

from __future__ import annotations

from data.archive import archive, pair, texts
from data.split import Pair, held_groups, held_out, validated
from plinio_sweep import Splits


def imu_watch(most: int | None = None) -> Splits:
    """Seven exercises of the shoulder, six signals of a smart watch at 50 Hz, `(6, 128)`.

    Persons are in one part only. Signals have zero mean and unit spread over the training split.

    Args:
        most: Items of each part; all when left out.

    Raises:
        FileNotFoundError: When the data set is not there.

    References:
        Burns et al., "Shoulder physiotherapy exercise recognition", 2018 (arXiv 1802.01489).
    """
    found = archive("imu_watch_128x6.npz", "The signals of watches", "subject_train")
    kept, test = _channels_first(pair(found, "train")), _channels_first(pair(found, "test"))
    out = held_groups(texts(found, "subject_train"), 0.3)
    mean = kept[0][~out].mean((0, 2), keepdim=True)
    spread = kept[0][~out].std((0, 2), keepdim=True)
    kept, test = (((part[0] - mean) / spread, part[1]) for part in (kept, test))
    return validated(kept, out, test, most)


def wand(most: int | None = None) -> Splits:
    """Ten digits that were drawn with a wand, `(2, 64)` positions; see `imu_watch`."""
    found = archive("wand_64x2.npz", "The strokes of a wand")
    kept, test = _channels_first(pair(found, "train")), _channels_first(pair(found, "test"))
    return validated(kept, held_out(kept[1].tolist(), 0.2), test, most)


def _channels_first(part: Pair) -> Pair:
    return part[0].transpose(1, 2).contiguous(), part[1]
