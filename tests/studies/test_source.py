"""What was decoded is kept, until a source changes; a data set that is missing says what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data import source
from data.source import CACHE, FOLDER, decoded, missing, needed, place
from tests.messages import is_sentence


def sizes(files: Sequence[Path]) -> Mapping[str, Tensor]:
    with (files[0].parent / "calls").open("a") as file:
        file.write(str(len(files)))
    return {"sizes": torch.tensor([len(path.read_bytes()) for path in files])}


def doubled(files: Sequence[Path]) -> Mapping[str, Tensor]:
    return {"sizes": torch.tensor([2 * len(path.read_bytes()) for path in files])}


def calls(files: list[Path]) -> str:
    """How many files each call was for."""
    return (files[0].parent / "calls").read_text()


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    found = [tmp_path / "data" / name for name in ("first.bin", "second.bin")]
    found[0].parent.mkdir()
    for length, path in enumerate(found, start=3):
        path.write_bytes(b"x" * length)
    return found


def test_sources_are_decoded_once(files: list[Path]) -> None:
    found = [decoded("some", files, sizes)["sizes"].tolist() for _ in range(3)]
    assert found == [[3, 4]] * 3
    assert calls(files) == "2"


def test_a_source_that_changed_is_decoded_anew(files: list[Path]) -> None:
    decoded("some", files, sizes)
    files[1].write_bytes(b"longer")
    assert decoded("some", files, sizes)["sizes"].tolist() == [3, 6]
    os.utime(files[0], ns=(1, 1))
    decoded("some", files, sizes)
    assert decoded("some", files[:1], sizes)["sizes"].tolist() == [3]
    assert calls(files) == "2221"


def test_other_code_decodes_anew(files: list[Path]) -> None:
    decoded("some", files, sizes)
    assert decoded("some", files, doubled)["sizes"].tolist() == [6, 8]


def test_what_is_damaged_is_decoded_anew(files: list[Path], tmp_path: Path) -> None:
    decoded("some", files, sizes)
    (kept,) = (tmp_path / "cache").glob("*.sealed")
    data = bytearray(kept.read_bytes())
    data[-1] ^= 1
    kept.write_bytes(bytes(data))
    assert decoded("some", files, sizes)["sizes"].tolist() == [3, 4]
    assert calls(files) == "22"


def test_equal_names_in_two_folders_do_not_push_each_other_out(
    files: list[Path], tmp_path: Path
) -> None:
    other = tmp_path / "other" / "first.bin"
    other.parent.mkdir()
    other.write_bytes(b"x")
    for _ in range(2):
        assert decoded("some", files, sizes)["sizes"].tolist() == [3, 4]
        assert decoded("some", [other], sizes)["sizes"].tolist() == [1]
    assert calls(files) == "2"
    assert calls([other]) == "1"


def test_a_full_disk_is_told(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(source, "write_mapped", full)
    with pytest.raises(ValueError, match=f"No space left on device; .* in {CACHE}") as caught:
        decoded("some", files, sizes)
    assert is_sentence(caught.value)


def test_who_writes_into_what_is_kept_writes_for_itself(files: list[Path]) -> None:
    first, second = (decoded("some", files, sizes)["sizes"] for _ in range(2))
    first.zero_()  # nobody sees what another writes
    assert second.tolist() == [3, 4]
    assert decoded("some", files, sizes)["sizes"].tolist() == [3, 4]
    assert calls(files) == "2"


def test_an_empty_folder_is_told(files: list[Path]) -> None:
    with pytest.raises(FileNotFoundError, match="some") as caught:
        decoded("some", [], sizes)
    assert is_sentence(caught.value)


def test_the_cache_is_the_users_own_when_nothing_else_is_said(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(CACHE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    decoded("some", files, sizes)
    assert len(list((tmp_path / "home" / "plinio-sweep").glob("some-*.sealed"))) == 1


@pytest.mark.parametrize("names", [("a/",), ("a/", "b.npz")])
@pytest.mark.parametrize("known", [True, False])
def test_a_missing_data_set_says_what_to_get_and_where_to_put_it(
    names: tuple[str, ...], known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if known:
        monkeypatch.setenv(FOLDER, str(tmp_path))
    else:
        monkeypatch.delenv(FOLDER, raising=False)
    assert place(names[0]) is None
    error = missing("Some data", names, "download it from there")
    assert is_sentence(error)
    if len(names) == 1:
        with pytest.raises(FileNotFoundError, match="Some data must be in") as raised:
            needed(names[0], "Some data", "download it from there")
        assert str(raised.value) == str(error)
        (tmp_path / names[0]).mkdir()
        assert (place(names[0]) is None) != known
    parts = ["Some data", FOLDER, *names, "download it from there"]
    assert all(part in str(error) for part in parts)
    assert (str(tmp_path) in str(error)) == known
