"""Sounds of toy cars as spectra `(640,)`: five frames of 128 mel bins, to be given back by a net.

A sound is suspicious when the net, which has heard sound cars only, gives it back badly. So the
target of a window is the window itself, and beside it what the score is made from.

Shapes: `R` recordings, `N` windows of them, `D` features of a window, `L = 3` labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from data.sound import MACHINE_BINS, MACHINE_LEAST, machine_spectrum, read_wav
from data.source import broken, decoded, needed
from data.split import Pair, held_out, in_parts
from plinio_sweep import Splits

FOLDER = "ToyCar"
WAY = "download dev_data_ToyCar.zip from https://zenodo.org/record/3678171 and unpack it there"
FRAMES = 5  # of a window
FEATURES = FRAMES * MACHINE_BINS
KINDS = ("normal", "anomaly")  # 0 and 1


def toy_car(most: int | None = None) -> Splits:
    """ToyCar of the DCASE 2020 challenge, task 2: windows, and as target windows with labels.

    The recordings with anomalies are all in the published test set: half of it validates, with
    the same share of every car and kind. Spectra have zero mean and unit spread over the training
    split, by one number each for all bins.

    Args:
        most: Recordings of each part; all when left out.

    Raises:
        FileNotFoundError: When the data set is not there.
        ValueError: When a part has no recordings, or one is damaged or of another kind.

    References:
        Koizumi et al., "DCASE 2020 challenge task 2", 2020 (arXiv 2006.05822).
    """
    folder = needed(f"{FOLDER}/", "ToyCar", WAY)
    of = {part: sorted((folder / part).glob("*.wav")) for part in ("test", "train")}
    if empty := [part for part, files in of.items() if not files]:
        rule = "ToyCar must have recordings in test and train"
        raise broken(rule, f"{folder} has none in {' and '.join(empty)}", WAY)
    found = decoded("toy-car", [*of["test"], *of["train"]], _spectra)
    heard = found["test.x"], found["test.y"]
    out = held_out([tuple(label) for label in heard[1].tolist()], 0.5)
    validation, test = ((heard[0][mask], heard[1][mask]) for mask in (out, ~out))
    data = in_parts((found["train.x"], found["train.y"]), validation, test, most)
    spectra = data.part("train").inputs[0]
    mean, spread = spectra.mean(), spectra.std().clamp(min=1e-6)
    parts = {}
    for name in ("train", "validation", "test"):
        part = data.part(name)
        order = _in_turn(part.target)
        parts[name] = _windows(((part.inputs[0] - mean) / spread)[order], part.target[order])
    return Splits(**parts)


def _in_turn(labels: Tensor) -> Tensor:
    """`(R,)` an order in which cars and kinds take turns: the first few recordings hold both kinds.

    Who only looks at the start of a split, as `check` does, needs both for a score.
    """
    seen: Counter[tuple[int, int]] = Counter()
    keys = []
    for index, (kind, car) in enumerate(labels.tolist()):
        keys.append((seen[kind, car], car, kind, index))
        seen[kind, car] += 1
    return torch.tensor([key[-1] for key in sorted(keys)])


def _spectra(files: Sequence[Path]) -> Mapping[str, Tensor]:
    """`(R, 200, 128)` of each part, and the kind and the car of each recording, `(R, 2)`."""
    found: dict[str, Tensor] = {}
    for part in ("train", "test"):
        chosen = [path for path in files if path.parent.name == part]
        found[f"{part}.y"] = torch.tensor([_label(path) for path in chosen])
        # One by one: all samples at once would be seven times as large.
        found[f"{part}.x"] = torch.stack([_spectrum(path) for path in chosen])
    return found


def _spectrum(path: Path) -> Tensor:
    samples = read_wav(path, WAY)
    if len(samples) < MACHINE_LEAST:
        rule = f"The sound of a machine must last {MACHINE_LEAST} samples at least"
        raise broken(rule, f"{path} has {len(samples)}", WAY)
    return machine_spectrum(samples)


def _label(path: Path) -> tuple[int, int]:
    """Kind and car, of `anomaly_id_01_00000000.wav`."""
    words = path.stem.split("_")
    if len(words) != 4 or words[0] not in KINDS or not words[2].isdecimal():
        rule = "Recordings of cars must be named like normal_id_01_00000000.wav"
        raise broken(rule, f"one is {path}", WAY)
    return KINDS.index(words[0]), int(words[2])


def _windows(spectra: Tensor, labels: Tensor) -> Pair:
    """`(N, D)` windows of all recordings, and `(N, D + L)` the same with their labels."""
    windows = spectra.unfold(1, FRAMES, 1).transpose(2, 3).flatten(2)  # (R, 196, D)
    count, each, _ = windows.shape
    numbered = torch.cat([torch.arange(count)[:, None], labels], 1).to(windows.dtype)
    spread = numbered[:, None].expand(-1, each, -1)
    target = torch.cat([windows, spread], 2).flatten(0, 1)
    return target[:, :FEATURES], target  # one memory: a view


def reconstruction_error(outputs: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over windows of normal sounds: the others are there to be told apart.

    Args:
        outputs: `(N, D)`.
        target: `(N, D + L)`.
    """
    normal = target[:, FEATURES + 1] == 0
    return _errors(outputs, target)[normal].mean()


def detection_auc(outputs: Tensor, target: Tensor) -> float:
    """Area under the ROC curve of the mean error of a recording, averaged over the cars, in [0, 1].

    It is how often an anomalous recording has a larger error than a normal one of the same car.

    Args:
        outputs: `(N, D)`, of all windows of the recordings.
        target: `(N, D + L)`.

    Raises:
        ValueError: When no car has recordings of both kinds.
    """
    errors = _errors(outputs, target).double()
    recordings, place = target[:, FEATURES:].unique(dim=0, return_inverse=True)
    sums = torch.zeros(len(recordings), dtype=errors.dtype, device=errors.device)
    scores = sums.index_add(0, place, errors) / place.bincount()
    _, kind, car = recordings.unbind(1)
    found = []
    for one in car.unique():
        normal, odd = (scores[(car == one) & (kind == value)] for value in (0, 1))
        if len(normal) and len(odd):
            larger = (odd[:, None] > normal).double() + 0.5 * (odd[:, None] == normal).double()
            found.append(larger.mean())
    if not found:
        raise ValueError(
            "A split must hold normal and anomalous recordings of one car at least, but holds "
            "none of such a car; load more of them."
        )
    return float(torch.stack(found).mean())


def _errors(outputs: Tensor, target: Tensor) -> Tensor:
    return (outputs - target[:, :FEATURES]).square().mean(1)
