"""Files of a run: written whole or not at all, and what is wrong is said in a sentence.

That writers never mix and that what killed ones left is swept is tested with evalrec's storage.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from semrec.shared import files
from semrec.shared.errors import ExperimentError
from semrec.shared.files import (
    check_place,
    read_json,
    read_json_lines,
    replacing,
    save_array,
    save_tensors,
    write_json,
    write_sealed,
    writing,
)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A limit that writes meet as they meet a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def test_a_file_that_came_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "answers"

    def write() -> None:
        with replacing(path, overwrite=False) as beside:
            beside.write_text("mine")
            path.write_text("another's")

    with pytest.raises(FileExistsError):
        write()
    assert path.read_text() == "another's"
    assert os.listdir(tmp_path) == ["answers"]


def test_a_place_that_cannot_be_written_is_said_with_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ExperimentError, match=r"^a/b: the folder a is missing: choose another --x$"
    ):
        check_place(Path("a/b"), "--x")
    check_place(Path("a/b"), "--x", parents=True)


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_modes_follow_the_umask(tmp_path: Path, mask: int) -> None:
    with umask(mask):
        write_json(tmp_path / "a.json", {})
        save_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(3)})
        save_array(tmp_path / "a.npy", np.zeros(3))
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {0o666 & ~mask}


def test_a_full_disk_is_said_with_the_path(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=10_000)
    with largest_file(4096):
        for write in (
            lambda path: write_json(path, noise.tolist()),
            lambda path: save_array(path, noise),
            lambda path: save_tensors(path, {"x": torch.from_numpy(noise)}),
        ):
            path = tmp_path / "file"
            with pytest.raises(ExperimentError) as refusal:
                write(path)
            assert str(refusal.value).startswith(f"{path} cannot be written: ")
            assert "\n" not in str(refusal.value)
            assert "Os {" not in str(refusal.value)
    assert os.listdir(tmp_path) == []


def test_what_a_stage_cannot_write_names_its_folder(tmp_path: Path) -> None:
    full = "Error while serializing: I/O error: IoError(Os { code: 28, kind: StorageFull })"
    for error in (SafetensorError(full), OSError(errno.ENOSPC, "No space left on device")):
        with (
            pytest.raises(ExperimentError, match=r"folder cannot be written: No space left on dev"),
            writing(tmp_path / "folder"),
        ):
            raise error
    for other in (OSError("cannot be downloaded"), PermissionError(13, "denied", "elsewhere")):
        with pytest.raises(type(other), match=r"downloaded|denied"), writing(tmp_path):
            raise other


def test_damage_to_a_sealed_object_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    value = {"dim": 12, "rates": {10: 0.1, 9: float("inf")}, "names": ["a\u2028"]}
    write_sealed(path, value)
    as_read = {"dim": 12, "rates": {"10": 0.1, "9": float("inf")}, "names": ["a\u2028"]}
    assert read_json(path, sealed=True) == as_read
    text = path.read_text()
    for old, new in (("12", "13"), ("0.1", "0.2"), ('"dim"', '"din"'), ("Infinity", "NaN")):
        path.write_text(text.replace(old, new))
        with pytest.raises(ExperimentError, match=r"a\.json is damaged"):
            read_json(path)
    path.write_text(text.replace('"sha256"', '"sha257"'))
    with pytest.raises(ExperimentError, match=r"a\.json is damaged: it lacks its own digest"):
        read_json(path, sealed=True)


@pytest.mark.parametrize(
    "content",
    [b"[" * 200_000, b"{", b"[]", b"3", b"\xff", b'{"seconds": Infinity}', b'{"seconds": 1e999}'],
)
def test_no_json_is_beyond_the_readers(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ExperimentError, match=r"a\.json: not "):
        read_json(path)
    if b"seconds" not in content:
        with pytest.raises(ExperimentError, match=r"a\.json is missing or damaged"):
            read_json_lines(path)


def test_permission_is_called_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "a.json")

    monkeypatch.setattr(Path, "open", refuse)
    for read in (read_json, read_json_lines, files.file_hash):
        with pytest.raises(PermissionError, match="Permission denied"):
            read(tmp_path / "a.json")
