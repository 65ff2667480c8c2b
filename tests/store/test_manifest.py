from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from plinio_sweep.store.manifest import (
    NAME,
    Manifest,
    fault_of,
    manifest_of,
    parsed,
    read_manifest,
    sum_of,
)

NAMES = st.text("ab./\u00e9\"'\\ ", min_size=1, max_size=8)
FILES = st.dictionaries(NAMES, st.binary(max_size=8).map(sum_of), max_size=3)


@examples(deadline=None)
@given(files=FILES, place=st.text(max_size=8))
def test_a_manifest_is_read_as_it_was_written(files: dict, place: str) -> None:
    manifest = Manifest(files=files, place=place)
    assert parsed(manifest.to_bytes()) == manifest


@examples(deadline=None)
@given(files=FILES, data=st.data())
def test_a_part_of_a_manifest_is_none(files: dict, data: st.DataObject) -> None:
    whole = Manifest(files=files).to_bytes()
    assert parsed(whole[: data.draw(st.integers(0, len(whole) - 1))]) is None


@given(value=st.sampled_from([b"[]", b"{}", b"1", b'{"files": 1, "place": ""}', b"\xff"]))
def test_what_is_no_manifest_is_none(value: bytes) -> None:
    assert parsed(value) is None


@examples(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None
)
@given(data=st.data())
def test_every_changed_bit_is_seen(data: st.DataObject, tmp_path: Path) -> None:
    contents = {"weights": bytes(range(40)), "deep/history": b"[1, 2]"}
    for name, value in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(value)
    (tmp_path / NAME).write_bytes(manifest_of(tmp_path).to_bytes())
    assert fault_of(tmp_path) == ""
    assert read_manifest(tmp_path) == manifest_of(tmp_path)
    name = data.draw(st.sampled_from(sorted(contents)))
    value = bytearray(contents[name])
    value[data.draw(st.integers(0, len(value) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (tmp_path / name).write_bytes(value)
    assert fault_of(tmp_path) == f"has other contents in {name}"
