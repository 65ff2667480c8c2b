"""Tensors in a mapped file come back as they were, and nobody can write into it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from data import mapped
from data.mapped import as_decoded, read_mapped, write_mapped

TENSORS = {
    "x": torch.randint(256, (7, 3, 5), generator=torch.Generator().manual_seed(0)).byte(),
    "y": torch.arange(7),
    "turned": torch.arange(6.0).reshape(2, 3).T,
    "third": torch.arange(7)[::3],
    "flags": torch.tensor([True, False, True]),
    "none": torch.empty(0, 3),
}


def halves(items: Tensor) -> Tensor:
    return items.float() / 2 if items.dtype == torch.uint8 else items


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_mapped(tmp_path / "kept", "key", TENSORS)
    return tmp_path / "kept"


def read(path: Path, key: str = "key") -> dict[str, Tensor]:
    found = read_mapped(path, key)
    assert found is not None
    return found


@pytest.mark.parametrize("at_once", [1, 40, 2**26])
@pytest.mark.parametrize("keep", [as_decoded, halves])
def test_tensors_come_back_whatever_is_written_at_once(
    at_once: int, keep: mapped.Keep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped, "_AT_ONCE", at_once)
    write_mapped(tmp_path / "kept", "key", TENSORS, keep)
    found = read(tmp_path / "kept")
    assert list(found) == list(TENSORS)
    for name, tensor in TENSORS.items():
        assert torch.equal(found[name], keep(tensor))
        assert found[name].dtype == keep(tensor).dtype
        assert found[name].data_ptr() % 64 == 0
    assert [file.name for file in tmp_path.iterdir()] == ["kept"]


def test_who_writes_into_a_tensor_writes_into_a_copy_of_its_own(path: Path) -> None:
    before = path.read_bytes()
    first, second = read(path), read(path)
    first["x"].zero_()
    assert not first["x"].any()
    assert torch.equal(second["x"], TENSORS["x"])
    assert path.read_bytes() == before
    assert torch.equal(read(path)["x"], TENSORS["x"])


def test_who_has_a_file_mapped_keeps_it_when_it_is_written_anew(path: Path) -> None:
    found = read(path)
    write_mapped(path, "key", {"x": torch.zeros(2)})
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
    assert list(read(path)) == ["x"]


def test_another_key_or_a_damaged_file_gives_nothing(path: Path) -> None:
    assert read_mapped(path, "other") is None
    assert read_mapped(path.with_name("none"), "key") is None
    data = path.read_bytes()
    turned = [data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :] for place in (3, 30, 99)]
    for damaged in (b"", data[:50], data[:88], data[:-1], data + b"\0", *turned):
        path.write_bytes(damaged)
        assert read_mapped(path, "key") is None


def test_what_can_not_be_written_leaves_the_file_as_it_was(path: Path) -> None:
    def fails(items: Tensor) -> Tensor:
        if len(items):
            raise OSError("no space")
        return items

    with pytest.raises(OSError, match="no space"):
        write_mapped(path, "key", {"x": torch.zeros(2)}, fails)
    assert [file.name for file in path.parent.iterdir()] == ["kept"]
    assert torch.equal(read(path)["y"], TENSORS["y"])


def test_all_may_read_what_is_kept_in_a_folder_for_all(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    write_mapped(tmp_path / "kept", "key", TENSORS)
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o644
