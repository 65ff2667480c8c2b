"""Loaders: published formats, written in miniature, and the archives where they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from data.images import cifar10, visual_wake_words
from data.machines import FEATURES, detection_auc, reconstruction_error, toy_car
from data.signals import imu_watch, wand
from data.sound import machine_spectrum, mfcc, one_second, read_wav
from data.source import CACHE, FOLDER, place
from data.split import part_of
from data.words import SILENCE, UNKNOWN, speech_commands, spoken_digits, three_words
from data.words import WORDS as CLASSES
from plinio_sweep import Splits
from tests.messages import is_sentence
from tests.studies import published

PARTS = ("train", "validation", "test")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where data sets are to lie; what is decoded is kept beside it."""
    monkeypatch.setenv(FOLDER, str(tmp_path / "data"))
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def rows(data: Splits, part: str) -> list[bytes]:
    return [item.numpy().tobytes() for item in data.part(part).inputs[0]]


def same(one: Splits, other: Splits) -> bool:
    pairs = [(one.part(name), other.part(name)) for name in PARTS]
    return all(
        torch.equal(a.inputs[0], b.inputs[0]) and torch.equal(a.target, b.target) for a, b in pairs
    )


@pytest.mark.parametrize(
    "load",
    [
        *(cifar10, visual_wake_words, toy_car, speech_commands),
        *(three_words, spoken_digits, imu_watch, wand),
    ],
)
def test_a_data_set_that_is_missing_says_what_to_do(
    load: Callable[[], Splits], folder: Path
) -> None:
    with pytest.raises(FileNotFoundError, match=FOLDER) as caught:
        load()
    assert is_sentence(caught.value)


# -- images ---------------------------------------------------------------------------------------


def test_images_of_cifar_are_those_of_the_files(folder: Path) -> None:
    pixels, classes = published.write_cifar10(folder)
    data = cifar10()
    assert [len(data.part(name)) for name in PARTS] == [90, 10, 10]
    assert data.part("validation").target.bincount().tolist() == [1] * 10
    of = {image.numpy().tobytes(): int(c) for image, c in zip(pixels / 255, classes, strict=True)}
    for part in ("train", "validation"):
        assert [of[row] for row in rows(data, part)] == data.part(part).target.tolist()
    assert not set(rows(data, "train")) & set(rows(data, "validation"))
    assert same(data, cifar10())  # from the cache


def test_batches_that_are_cut_off_are_refused(folder: Path) -> None:
    published.write_cifar10(folder)
    path = folder / "cifar-10-batches-bin" / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="images of 3073 bytes") as caught:
        cifar10()
    assert is_sentence(caught.value)
    assert f"but {path} has 61459 bytes; download https://" in str(caught.value)


def test_a_batch_that_is_missing_is_told(folder: Path) -> None:
    published.write_cifar10(folder)
    root = folder / "cifar-10-batches-bin"
    for name in ("data_batch_5.bin", "test_batch.bin"):
        (root / name).unlink()
    with pytest.raises(ValueError, match=r"the files data_batch_1\.bin") as caught:
        cifar10()
    assert is_sentence(caught.value)
    lacking = f"but {root} lacks data_batch_5.bin, test_batch.bin; download https://"
    assert lacking in str(caught.value)


def test_a_class_that_cifar_does_not_have_is_refused(folder: Path) -> None:
    published.write_cifar10(folder)
    path = folder / "cifar-10-batches-bin" / "data_batch_2.bin"
    path.write_bytes(b"\x4d" + path.read_bytes()[1:])
    with pytest.raises(ValueError, match="0 to 9") as caught:
        cifar10()
    assert is_sentence(caught.value)
    assert f"but {path} has class 77; download https://" in str(caught.value)


def write_mosaics(folder: Path) -> dict[str, np.ndarray]:
    """An archive of 100 and 10 images of CIFAR-10; a hundred tiles of each part."""
    image = pytest.importorskip("PIL.Image")
    noise = np.random.default_rng(0)
    arrays, tiles = {}, {}
    for part, count in (("train", 100), ("test", 10)):
        tiles[part] = noise.integers(0, 256, (100, 32, 32, 3), dtype=np.uint8)
        mosaic = np.zeros((10 * 32, 10 * 32, 3), dtype=np.uint8)
        for k, tile in enumerate(tiles[part]):
            top, left = 32 * (k // 10), 32 * (k % 10)
            mosaic[top : top + 32, left : left + 32] = tile
        path = folder / "mosaic.webp"
        image.fromarray(mosaic).save(path, lossless=True)
        arrays[f"img_{part}_0"] = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(count, dtype=np.uint8) % 10
    np.savez(folder / "cifar10_exact_dev_40k_5k.npz", **arrays)
    return tiles


def test_tiles_of_a_mosaic_are_images_row_by_row(folder: Path) -> None:
    tiles = write_mosaics(folder)
    data = cifar10()
    expected = torch.from_numpy(tiles["test"][:10]).permute(0, 3, 1, 2) / 255
    assert torch.equal(data.part("test").inputs[0], expected)
    assert [len(data.part(name)) for name in PARTS] == [90, 10, 10]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"img_train_0": np.zeros(9, np.uint8)}, "img_train_0 in {path} is cut off or none"),
        ({"y_train": np.full(100, 10)}, "{path} has class 10"),
        ({"y_test": np.zeros(101)}, "{path} has 100 for 101"),
        ({"img_test_0": None}, "{path} lacks img_test_0"),
    ],
)
def test_mosaics_that_are_not_those_of_cifar_are_refused(
    change: dict[str, np.ndarray | None], found: str, folder: Path
) -> None:
    write_mosaics(folder)
    path = folder / "cifar10_exact_dev_40k_5k.npz"
    with np.load(path) as file:
        arrays = {**file, **change}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(ValueError, match="must") as caught:
        cifar10()
    assert is_sentence(caught.value)
    assert f"but {found.format(path=path)}; copy that file there anew" in str(caught.value)


def test_photos_are_split_by_name_and_a_person_is_class_1(folder: Path) -> None:
    pytest.importorskip("PIL.Image")
    root = published.write_photos(folder)
    data = visual_wake_words()
    names = [path.stem for path in root.rglob("*.jpg")]
    assert Counter(map(part_of, names)) == {name: len(data.part(name)) for name in PARTS}
    for name in PARTS:
        images = data.part(name).inputs[0]
        assert images.shape[1:] == (3, 96, 96)
        assert ((images.mean((1, 2, 3)) > 0.5).long() == data.part(name).target).all()


def test_a_photo_of_another_size_is_refused(folder: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    root = published.write_photos(folder, each=2)
    image.new("RGB", (96, 95)).save(root / "person" / "wrong.jpg")
    with pytest.raises(ValueError, match=r"wrong\.jpg has 96 by 95") as caught:
        visual_wake_words()
    assert is_sentence(caught.value)


@pytest.mark.parametrize("length", [0, 100, 2_000])
def test_a_photo_that_is_cut_off_is_refused(length: int, folder: Path) -> None:
    pytest.importorskip("PIL.Image")
    path = published.write_photos(folder) / "person" / "COCO_train2014_000000000007.jpg"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match="must be whole") as caught:
        visual_wake_words()
    assert is_sentence(caught.value)
    assert f"but {path} is cut off or none; download https://" in str(caught.value)


def test_photos_of_one_class_alone_are_refused(folder: Path) -> None:
    pytest.importorskip("PIL.Image")
    root = published.write_photos(folder, each=2)
    for path in (root / "person").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="non_person and person") as caught:
        visual_wake_words()
    assert is_sentence(caught.value)
    assert f"but {root} has none in person; download https://" in str(caught.value)


# -- sounds ---------------------------------------------------------------------------------------


def test_recordings_of_words_become_twelve_classes(folder: Path) -> None:
    published.write_words(folder)
    data = speech_commands()
    for name in PARTS:
        each = 2 * len(published.SPEAKERS[name])  # of one word
        found = data.part(name).target.bincount(minlength=12).tolist()
        assert found[:10] == [each] * 10
        assert found[SILENCE] == found[UNKNOWN] == each
    train = data.part("train").inputs[0]
    assert train.shape[1:] == (1, 49, 10)
    assert train.mean((0, 1, 2)).abs().max() < 1e-4
    assert torch.allclose(train.std((0, 1, 2)), torch.ones(10), atol=1e-3)
    assert same(data, speech_commands())


def test_words_are_heard_in_their_own_class(folder: Path) -> None:
    root = published.write_words(folder)
    test = speech_commands().part("test")
    paths = [
        path
        for word in CLASSES
        for path in sorted((root / word).glob("*.wav"))
        if path.name.split("_")[0] in published.SPEAKERS["test"]
    ]
    expected = mfcc(torch.stack([one_second(read_wav(path)) for path in paths]))
    labels = [CLASSES.index(path.parent.name) for path in paths]
    assert test.target[: len(paths)].tolist() == labels
    for k in range(10):  # each coefficient has a scale of its own
        pair = torch.stack(
            [expected[..., k].flatten(), test.inputs[0][: len(paths), 0, :, k].flatten()]
        )
        assert torch.corrcoef(pair)[0, 1] > 0.9999


def test_the_published_test_set_takes_the_place_of_the_rule(folder: Path) -> None:
    published.write_words(folder)
    tests = folder / "speech_commands_test_set_v0.02"
    for place_, word in enumerate((*CLASSES, "_silence_", "_unknown_")):
        published.write_wav(tests / word / "some.wav", published.tone(1.0, 150 + place_))
    data = speech_commands()
    assert sorted(data.part("test").target.tolist()) == list(range(12))
    assert len(data.part("validation")) == 12 * 2 * len(published.SPEAKERS["validation"])


def only_speakers_of(root: Path, parts: tuple[str, ...]) -> None:
    """Removes what all others have spoken."""
    kept = {speaker for part in parts for speaker in published.SPEAKERS[part]}
    for path in root.rglob("*_nohash_*.wav"):
        if path.name.split("_")[0] not in kept:
            path.unlink()


@pytest.mark.parametrize(
    ("name", "shown"), [("_background_noise_", "silence (_background_noise_)"), ("stop", "stop")]
)
def test_recordings_that_lack_a_class_are_refused(name: str, shown: str, folder: Path) -> None:
    root = published.write_words(folder)
    (root / name).rename(folder / name)
    with pytest.raises(ValueError, match="of all classes") as caught:
        speech_commands()
    assert is_sentence(caught.value)
    assert f"but {root} has none of {shown}; download https://" in str(caught.value)


def test_a_part_without_recordings_is_refused(folder: Path) -> None:
    root = published.write_words(folder)
    only_speakers_of(root, ("train", "test"))
    with pytest.raises(ValueError, match="The validation part of Speech Commands") as caught:
        speech_commands()
    assert is_sentence(caught.value)
    assert f"but {root} has none of down, go, " in str(caught.value)


def test_a_folder_of_words_without_any_is_refused(folder: Path) -> None:
    (folder / "speech_commands_v0.02").mkdir()
    with pytest.raises(FileNotFoundError, match="download https://") as caught:
        speech_commands()
    assert is_sentence(caught.value)


def test_a_published_test_set_that_lacks_a_class_is_refused(folder: Path) -> None:
    published.write_words(folder)
    tests = folder / "speech_commands_test_set_v0.02"
    for word in (*CLASSES, "_unknown_"):
        published.write_wav(tests / word / "some.wav", published.tone(1.0, 150))
    with pytest.raises(ValueError, match="The test part of Speech Commands") as caught:
        speech_commands()
    assert is_sentence(caught.value)
    assert f"but {tests} has none of _silence_; download https://" in str(caught.value)


def test_a_word_that_is_cut_off_is_refused(folder: Path) -> None:
    path = published.write_words(folder) / "go" / "00176480_nohash_0.wav"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="must be whole") as caught:
        speech_commands()
    assert is_sentence(caught.value)
    assert f"but {path} is cut off at 31900 of 32000 bytes; download https" in str(caught.value)


def test_half_of_the_tested_cars_validate_and_each_recording_gives_196_windows(
    folder: Path,
) -> None:
    root = published.write_toys(folder)
    data = toy_car()
    assert [len(data.part(name)) for name in PARTS] == [4 * 196, 8 * 196, 8 * 196]
    for name in ("validation", "test"):
        labels = data.part(name).target[:, FEATURES + 1 :][::196]
        assert Counter(map(tuple, labels.tolist())) == {
            (kind, car): 2 for kind in (0.0, 1.0) for car in (1.0, 2.0)
        }
        assert set(labels[:2, 0].tolist()) == {0.0, 1.0}  # `check` looks at the first few
    train = data.part("train")
    assert train.target[:, FEATURES + 1].count_nonzero() == 0
    assert torch.equal(train.inputs[0], train.target[:, :FEATURES])
    # The first window of the first car is the first five frames, one after the other.
    spectrum = machine_spectrum(read_wav(root / "train" / "normal_id_01_00000000.wav"))
    pair = torch.stack([spectrum[:5].flatten(), train.inputs[0][0]])
    assert torch.corrcoef(pair)[0, 1] > 0.99999
    assert len(toy_car(most=2).part("train")) == 2 * 196


def test_a_recording_of_another_name_is_refused(folder: Path) -> None:
    root = published.write_toys(folder)
    (root / "train" / "normal_id_01_00000000.wav").rename(root / "train" / "one.wav")
    with pytest.raises(ValueError, match=r"one\.wav; download ") as caught:
        toy_car()
    assert is_sentence(caught.value)
    assert str(root / "train" / "one.wav") in str(caught.value)


def test_a_recording_of_a_car_that_is_too_short_is_refused(folder: Path) -> None:
    path = published.write_toys(folder) / "test" / "normal_id_02_00000001.wav"
    published.write_wav(path, published.tone(7.0, 900))
    with pytest.raises(ValueError, match="128000 samples") as caught:
        toy_car()
    assert is_sentence(caught.value)
    assert f"but {path} has 112000; download dev_data_ToyCar.zip from" in str(caught.value)


def test_cars_without_recordings_to_test_on_are_refused(folder: Path) -> None:
    root = published.write_toys(folder)
    (root / "test").rename(root / "tests")
    with pytest.raises(ValueError, match="in test and train") as caught:
        toy_car()
    assert is_sentence(caught.value)
    assert f"but {root} has none in test; download dev_data_ToyCar.zip from" in str(caught.value)


def target_of(labels: list[tuple[int, int, int]]) -> Tensor:
    """Silent windows of recordings, kinds and cars."""
    return torch.cat([torch.zeros(len(labels), FEATURES), torch.tensor(labels).float()], 1)


def test_the_auc_is_how_often_an_anomaly_is_louder_than_a_normal_sound_of_its_car() -> None:
    # Car 1: errors 1 and 3 of normal sounds, 2 of an odd one; car 2: 9 and, equal, 9.
    errors = [(1.0, (0, 0, 1)), (3.0, (1, 0, 1)), (1.0, (2, 1, 1)), (3.0, (2, 1, 1))]
    errors += [(9.0, (3, 0, 2)), (9.0, (4, 1, 2))]
    target = target_of([label for _, label in errors])
    outputs = torch.stack([torch.full((FEATURES,), error**0.5) for error, _ in errors])
    assert detection_auc(outputs, target) == pytest.approx((0.5 + 0.5) / 2)
    order = torch.tensor([5, 2, 0, 4, 1, 3])
    assert detection_auc(outputs[order], target[order]) == detection_auc(outputs, target)
    louder = outputs.clone()
    louder[2:4] *= 2
    assert detection_auc(louder, target) == pytest.approx((1.0 + 0.5) / 2)


def test_the_auc_of_one_kind_alone_is_refused() -> None:
    target = target_of([(0, 1, 1), (1, 0, 2)])
    with pytest.raises(ValueError, match="normal and anomalous") as caught:
        detection_auc(torch.zeros(2, FEATURES), target)
    assert is_sentence(caught.value)


def test_the_loss_is_of_normal_windows_alone() -> None:
    target = target_of([(0, 0, 1), (1, 1, 1), (2, 0, 1)])
    outputs = torch.tensor([1.0, 100.0, 3.0])[:, None].expand(-1, FEATURES)
    assert float(reconstruction_error(outputs, target)) == pytest.approx((1 + 9) / 2)


# -- archives -------------------------------------------------------------------------------------


def test_windows_of_a_watch_are_split_by_person_and_scaled(folder: Path) -> None:
    arrays = published.write_watch(folder)
    data = imu_watch()
    assert [len(data.part(name)) for name in PARTS] == [36, 24, 24]
    train = data.part("train").inputs[0]
    assert train.shape[1:] == (6, 128)
    assert train.mean((0, 2)).abs().max() < 1e-5
    assert torch.allclose(train.std((0, 2)), torch.ones(6), atol=1e-5)
    test = torch.from_numpy(arrays["x_test"].astype(np.float32)).transpose(1, 2)
    pair = torch.stack([test[:, 2].flatten(), data.part("test").inputs[0][:, 2].flatten()])
    assert torch.corrcoef(pair)[0, 1] > 0.99999


def cut_off(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    """With one bit of a number in the middle turned."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def emptied(data: bytes) -> bytes:
    return b""


def page(data: bytes) -> bytes:
    return b"<!DOCTYPE html><title>404</title>"


@pytest.mark.parametrize(
    ("damage", "state"),
    [
        (cut_off, "is cut off or damaged"),
        (flipped, "is cut off or damaged"),
        (emptied, "is empty"),
        (page, "is of another kind, like a page of the web"),
    ],
)
def test_an_archive_that_is_not_whole_is_refused(
    damage: Callable[[bytes], bytes], state: str, folder: Path
) -> None:
    published.write_watch(folder)
    path = folder / "imu_watch_128x6.npz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="The signals of watches") as caught:
        imu_watch()
    assert is_sentence(caught.value)
    assert f"but {path} {state}; copy that file there anew" in str(caught.value)


def test_an_archive_without_an_array_is_refused(folder: Path) -> None:
    arrays = published.write_watch(folder)
    del arrays["y_test"], arrays["subject_train"]
    path = folder / "imu_watch_128x6.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match="x_train, y_train") as caught:
        imu_watch()
    assert is_sentence(caught.value)
    assert f"but {path} lacks y_test, subject_train; copy" in str(caught.value)


@pytest.mark.parametrize(
    ("load", "name", "shape", "classes"),
    [
        (speech_commands, "kws12_mfcc.npz", (1, 49, 10), 12),
        (three_words, "kws3_mfcc.npz", (1, 49, 10), 3),
        (spoken_digits, "fsdd_mfcc.npz", (1, 49, 10), 10),
        (imu_watch, "imu_watch_128x6.npz", (6, 128), 7),
        (wand, "wand_64x2.npz", (2, 64), 10),
    ],
)
def test_an_archive_that_is_there_gives_all_classes_in_all_parts(
    load: Callable[[], Splits], name: str, shape: tuple[int, ...], classes: int
) -> None:
    if place(name) is None:
        pytest.skip(f"needs {name} in the folder PLINIO_SWEEP_DATA")
    data = load()
    for part in PARTS:
        assert data.part(part).inputs[0].shape[1:] == shape
        assert data.part(part).inputs[0].isfinite().all()
        assert data.part(part).target.unique().tolist() == list(range(classes))
    x, y = data.part("train").inputs[0].flatten(1), data.part("train").target
    means = torch.stack([x[y == label].mean(0) for label in range(classes)])
    # Who decides by the nearest mean of a class is far better than chance: labels fit inputs.
    gaps = torch.cdist(data.part("test").inputs[0].flatten(1), means)
    assert (gaps.argmin(1) == data.part("test").target).float().mean() > 1.5 / classes
