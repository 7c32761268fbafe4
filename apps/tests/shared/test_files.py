"""Files as they are written and read: whole or not at all, nobody else's, damage in a sentence."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import stat
import threading
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
    check_writable,
    read_json,
    read_json_lines,
    replacing,
    save_array,
    save_tensors,
    sweep,
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


def dead_pid() -> int:
    process = multiprocessing.get_context("spawn").Process(target=int)
    process.start()
    process.join()
    assert process.pid is not None
    return process.pid


def test_two_writers_of_one_file_never_mix(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    with replacing(path) as first, replacing(path) as second:
        assert first != second
        with first.open("w") as first_file, second.open("w") as second_file:
            for _ in range(1000):
                first_file.write("first\n")
                second_file.write("second\n")
    assert path.read_text() == "first\n" * 1000  # the outer block ends last
    assert os.listdir(tmp_path) == ["answers"]


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


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    path.write_text("old")

    def write(error: type[BaseException]) -> None:
        with replacing(path) as beside:
            beside.write_text("new")
            raise error

    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error):
            write(error)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["answers"]


def test_content_and_folder_are_on_the_disk_around_the_renaming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    replace = os.replace
    monkeypatch.setattr(files, "sync", lambda path: events.append(Path(path).name))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append("replace"), replace(a, b)))
    with replacing(tmp_path / "answers") as beside:
        beside.write_text("new")
    assert events == [beside.name, "replace", tmp_path.name]


def test_only_what_dead_writers_left_is_swept(tmp_path: Path) -> None:
    dead = dead_pid()
    left = tmp_path / f".answers.{dead}.{'0' * 16}.unfinished"
    kept = [
        tmp_path / f".answers.{os.getppid()}.{'0' * 16}.unfinished",
        tmp_path / f".answers.{dead}.unfinished",
        tmp_path / "thesis.unfinished",
        tmp_path / ".thesis.txt",
    ]
    held = tmp_path / f".held.{dead}.{'1' * 16}.unfinished"  # by a process of another container
    for path in (left, held, *kept):
        path.write_text("x")
    with held.open("r+") as file:
        files._lock(file.fileno())
        with replacing(tmp_path / "other") as beside:
            sweep(tmp_path)
            beside.write_text("new")
        assert not left.exists()
        assert all(path.exists() for path in (held, *kept))
    sweep(tmp_path)
    assert not held.exists()


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_modes_follow_the_umask(tmp_path: Path, mask: int) -> None:
    with umask(mask):
        write_json(tmp_path / "a.json", {})
        save_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(3)})
        save_array(tmp_path / "a.npy", np.zeros(3))
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {0o666 & ~mask}


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name in ("old", "new"):
        link, target = tmp_path / f"{name}.link", tmp_path / "there" / name
        link.symlink_to(target)
        if name == "old":
            target.write_text("old")
        write_json(link, {"a": 1})
        assert link.is_symlink()
        assert read_json(target) == {"a": 1}
        assert not target.is_symlink()
    assert sorted(os.listdir(tmp_path / "there")) == ["new", "old"]


def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe, content = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: content.append(pipe.read_text()))
    reader.start()
    write_json(pipe, {"a": 1})
    reader.join()
    assert json.loads(content[0]) == {"a": 1}
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_device_is_written_to_and_stays(tmp_path: Path) -> None:
    null = tmp_path / "null"
    try:
        os.mknod(null, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        null.write_text("")
    except OSError:
        pytest.skip("devices cannot be made here")
    write_json(null, {"a": 1})
    assert stat.S_ISCHR(null.stat().st_mode)
    assert os.listdir(tmp_path) == ["null"]


def test_a_place_that_cannot_be_written_is_named_as_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("folder").mkdir()
    for path, parents, words in (
        ("gone/answers", False, "gone/answers: the folder gone is missing"),
        ("file/answers", False, "file/answers: .*file is a file, not a folder"),
        ("folder", False, "folder is a folder, not a file"),
        ("file", True, "file is a file, not a folder"),
        ("file/a/b", True, "file/a/b: .*file is a file, not a folder"),
    ):
        with pytest.raises(ExperimentError, match=f"^{words}$"):
            check_writable(Path(path), parents=parents)
    check_writable(Path("gone/far/away"), parents=True)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ExperimentError, match=r"^folder/x: no permission to write in "):
        check_writable(Path("folder/x"))


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
    with pytest.raises(ExperimentError, match=r"a\.json is damaged: it lacks the digest"):
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
