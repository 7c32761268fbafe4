"""Kills, full disks and other programs: what is on disk is the old or the new, and nothing else."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
from genrec import storage
from genrec.artifact import load_weights, save_weights
from genrec.checkpoint import load_checkpoint, save_checkpoint
from genrec.reading import ArtifactError
from genrec.saved_seq2seq import load_model, save_model
from genrec.seq2seq import Seq2Seq
from genrec.seq2seq_config import Seq2SeqConfig
from genrec.trie import Trie

OLD_IDS, NEW_IDS = ["a", "b", "c"], ["d", "e", "f"]
MODEL = Seq2Seq(
    Seq2SeqConfig(dim=8, num_heads=2, num_decoder_layers=1, feedforward_dim=8),
    Trie.build(torch.tensor([[0, 0], [0, 1], [1, 0]]), (2, 2)),
).eval()
EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.listdir"}


def killed_at(number: int, act: Callable[[], object]) -> bool:
    """Runs `act` in a process that is killed before its n-th dealing with the file system.

    Returns:
        Whether it came that far; if not, it has ended well.
    """
    child = os.fork()
    if child == 0:
        count = 0

        def kill() -> None:
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

        def fsync(file: int, sync: Callable[[int], None] = os.fsync) -> None:
            kill()
            sync(file)

        os.fsync = fsync
        sys.addaudithook(lambda event, _: kill() if event in EVENTS else None)
        try:
            act()
        except BaseException as error:
            print(error, file=sys.stderr)
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def no_exchange(*_: object) -> bool:
    return False


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_model_folder_is_old_or_new_whenever_its_writing_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool, is_first: bool
):
    if not exchanges:
        monkeypatch.setattr(storage, "exchange", no_exchange)
    number, results = 0, set()
    is_killed = True
    while is_killed:
        number += 1
        place = tmp_path / str(number)
        place.mkdir()
        if not is_first:
            save_model(place / "m", MODEL, OLD_IDS)
        is_killed = killed_at(number, partial(save_model, place / "m", MODEL, NEW_IDS))
        try:
            results.add(tuple(load_model(place / "m").item_ids))
        except ArtifactError:
            assert is_first
            assert not (place / "m").exists()
            results.add(())
        save_model(place / "m", MODEL, OLD_IDS)  # sweeps what the killed one left
        assert [path.name for path in place.iterdir()] == ["m"]
    assert number > 30
    assert results == {() if is_first else tuple(OLD_IDS), tuple(NEW_IDS)}


def test_a_checkpoint_is_old_or_new_whenever_its_writing_is_killed(tmp_path: Path):
    def save(folder: Path, step: int, kept: dict[str, str]) -> dict[str, str]:
        weights = {"w": torch.full((3,), float(step))}
        best = {"best-1": weights if step == 1 else None}
        about = {"config": {}, "steps_per_epoch": 1, "state": {"step": step}}
        return save_checkpoint(
            folder, about, {f"last-{step}": weights, **best}, kept=kept, log_bytes=3 * step
        )

    number, is_killed, results = 0, True, set()
    while is_killed:
        number += 1
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "log.jsonl").write_text("{}\n{}\n")
        kept = save(folder, 1, {})
        is_killed = killed_at(number, partial(save, folder, 2, kept))
        loaded = load_checkpoint(folder)
        assert loaded is not None
        about, tensors = loaded
        step = about["state"]["step"]
        assert tensors[f"last-{step}"]["w"].tolist() == [step] * 3
        assert tensors["best-1"]["w"].tolist() == [1] * 3
        results.add(step)
        save(folder, 2, kept)
        names = ["best-1.safetensors", "checkpoint.json", "last-2.safetensors", "log.jsonl"]
        assert sorted(path.name for path in folder.iterdir()) == names
    assert number > 12
    assert results == {1, 2}


def test_weights_are_old_or_new_whenever_their_writing_is_killed(tmp_path: Path):
    old, new = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    number, is_killed, results = 0, True, set()
    while is_killed:
        number += 1
        path = tmp_path / str(number) / "w.safetensors"
        path.parent.mkdir()
        save_weights(path, old)
        is_killed = killed_at(number, partial(save_weights, path, new))
        loaded = torch.nn.Linear(2, 2)
        load_weights(path, loaded)
        is_new = torch.equal(loaded.weight, new.weight)
        assert is_new or torch.equal(loaded.weight, old.weight)
        results.add(is_new)
        save_weights(path, old)
        assert [path.name for path in path.parent.iterdir()] == ["w.safetensors"]
    assert results == {True, False}


@pytest.mark.parametrize("exchanges", [True, False])
def test_nothing_takes_its_place_before_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool
):
    """A power cut loses what was not synced: no rename may come before its content was."""
    on_disk: set[tuple[int, int, int]] = set()  # inode, size, time of change
    renamed: list[str] = []
    unsynced: set[int] = set()  # inodes of folders whose names have changed

    def identity(path: Path | int) -> tuple[int, int, int]:
        about = os.stat(path)
        return about.st_ino, about.st_size, about.st_mtime_ns

    def fsync(file: int, sync: Callable[[int], None] = os.fsync) -> None:
        sync(file)
        on_disk.add(identity(file))
        unsynced.discard(os.fstat(file).st_ino)

    def checked(act: Callable[..., object]) -> Callable[..., object]:
        def rename(source: Path, target: Path) -> object:
            if target.name != "old" and source.name != "old":
                inside = [source, *(source.iterdir() if source.is_dir() else ())]
                assert all(identity(path) in on_disk for path in inside), source
                renamed.append(target.name)
                unsynced.add(target.parent.stat().st_ino)
            return act(source, target)

        return rename

    monkeypatch.setattr(os, "fsync", fsync)
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, checked(getattr(os, name)))
    monkeypatch.setattr(
        storage, "exchange", checked(storage.exchange) if exchanges else no_exchange
    )
    for ids in (OLD_IDS, NEW_IDS):
        save_model(tmp_path / "m", MODEL, ids)
    save_weights(tmp_path / "w", MODEL)
    (tmp_path / "log.jsonl").touch()
    save_checkpoint(tmp_path, {}, {"last-1": {"w": torch.ones(2)}}, kept={}, log_bytes=0)
    assert renamed == ["m", "m", "w", "last-1.safetensors", "checkpoint.json"]
    assert not unsynced


def test_what_is_left_over_is_swept_unless_its_program_runs(tmp_path: Path):
    save_model(tmp_path / "m", MODEL, OLD_IDS)
    for name in (".m.aaaaaaaa.part", ".other.aaaaaaaa.part", ".m.bbbbbbbb.part"):
        (tmp_path / name / "new").mkdir(parents=True)
    (tmp_path / ".m.bbbbbbbb.part" / "thesis.tex").write_text("x")  # none of ours
    with storage.working_beside(tmp_path / "m") as work:
        assert sorted(hidden(tmp_path)) == sorted(
            [".m.bbbbbbbb.part", ".other.aaaaaaaa.part", work.name]
        )
        save_model(tmp_path / "m", MODEL, NEW_IDS)
        assert work.is_dir()
    assert sorted(hidden(tmp_path)) == [".m.bbbbbbbb.part", ".other.aaaaaaaa.part"]
    assert load_model(tmp_path / "m").item_ids == NEW_IDS


@pytest.mark.parametrize("exchanges", [True, False])
def test_two_that_save_into_one_folder_at_once_never_mix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool
):
    if not exchanges:
        monkeypatch.setattr(storage, "exchange", no_exchange)
    refused: list[OSError] = []

    def save(ids: list[str]) -> None:
        for _ in range(10):
            try:
                save_model(tmp_path / "m", MODEL, ids, info={"ids": ids})
            except OSError as error:  # only where the system cannot exchange
                refused.append(error)

    threads = [threading.Thread(target=save, args=(ids,)) for ids in (OLD_IDS, NEW_IDS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    saved = load_model(tmp_path / "m")
    assert saved.info == {"ids": saved.item_ids}
    assert hidden(tmp_path) == []
    assert not (refused and exchanges)


def test_a_folder_that_another_has_just_put_there_is_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As where two save at once, and the first comes between a look and a rename."""
    exists = Path.exists
    looks = iter([False])
    monkeypatch.setattr(
        Path,
        "exists",
        lambda path, **options: (
            next(looks, True) if path.name == "new-place" else exists(path, **options)
        ),
    )
    (tmp_path / "new-place").mkdir()
    (tmp_path / "new-place/before").touch()
    (tmp_path / "fresh").mkdir()
    assert not storage.renamed(tmp_path / "fresh", tmp_path / "new-place")
    assert (tmp_path / "new-place/before").is_file()
    assert storage.renamed(tmp_path / "fresh", tmp_path / "elsewhere")


def test_links_are_followed_and_devices_not_replaced(tmp_path: Path):
    save_model(tmp_path / "real", MODEL, OLD_IDS)
    (tmp_path / "link").symlink_to("real")
    save_model(tmp_path / "link", MODEL, NEW_IDS)
    save_weights(tmp_path / "w", MODEL)
    (tmp_path / "w.link").symlink_to("w")
    save_weights(tmp_path / "w.link", torch.nn.Linear(2, 2))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "w.link").is_symlink()
    assert load_model(tmp_path / "real").item_ids == NEW_IDS
    load_weights(tmp_path / "w", torch.nn.Linear(2, 2))
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path / "real"):
        with pytest.raises(FileExistsError, match=f"{path.name} is no regular file, so it is not"):
            save_weights(path, MODEL)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@pytest.mark.parametrize("umask", [0o022, 0o007, 0o077])
def test_permissions_follow_the_umask(tmp_path: Path, umask: int):
    before = os.umask(umask)
    try:
        save_model(tmp_path / "m", MODEL, OLD_IDS)
        save_weights(tmp_path / "w", MODEL)
        folder = tmp_path / "run"
        folder.mkdir()
        (folder / "log.jsonl").touch()
        save_checkpoint(folder, {}, {"last-1": {"w": torch.ones(2)}}, kept={}, log_bytes=0)
    finally:
        os.umask(before)
    for path in (*tmp_path.rglob("*"),):
        expected = (0o777 if path.is_dir() else 0o666) & ~umask
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


@pytest.mark.parametrize("name", ["config.json", "item_ids.json", "weights.safetensors"])
def test_permission_is_called_permission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    """As another user would meet it; root is refused nothing."""
    save_model(tmp_path / "m", MODEL, OLD_IDS)

    def refusing(method: Callable[..., object]) -> Callable[..., object]:
        def read(path: Path, *args: object, **options: object) -> object:
            if path.name == name:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return method(path, *args, **options)

        return read

    for method in ("open", "read_bytes"):
        monkeypatch.setattr(Path, method, refusing(getattr(Path, method)))
    with pytest.raises(ArtifactError, match=f"{name} may not be read by this user: permission den"):
        load_model(tmp_path / "m")


@contextmanager
def no_larger_than(size: int) -> Iterator[None]:
    """A limit on files, which the system tells as it tells a full disk, in the midst of a write."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("size", [10, 200, 600])
def test_a_write_that_fails_names_the_path_and_leaves_the_old(tmp_path: Path, size: int):
    save_model(tmp_path / "m", MODEL, OLD_IDS)
    save_weights(tmp_path / "w", torch.nn.Linear(2, 2))
    (tmp_path / "log.jsonl").touch()
    weights = {"last-1": {"w": torch.ones(2)}}
    kept = save_checkpoint(tmp_path, {}, weights, kept={}, log_bytes=0)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    large = {"last-2": {"w": torch.ones(200)}}
    for path, act in {
        tmp_path / "m": lambda: save_model(tmp_path / "m", MODEL, NEW_IDS),
        tmp_path / "w": lambda: save_weights(tmp_path / "w", MODEL),
        tmp_path: lambda: save_checkpoint(tmp_path, {}, large, kept=kept, log_bytes=0),
    }.items():
        with no_larger_than(size), pytest.raises(OSError, match="File too large") as caught:
            act()
        assert str(caught.value) == f"[Errno 27] File too large: '{path}'"
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_full_disk_is_one_sentence_with_the_path(tmp_path: Path):
    """On a disk of 64 KiB, where a test may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if mount is None or subprocess.run([mount, *options], capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        save_weights(disk / "w", torch.nn.Linear(2, 2))
        for act in (
            lambda: save_model(disk / "m", MODEL, OLD_IDS, info={"long": "x" * 70_000}),
            lambda: save_weights(disk / "w", torch.nn.Linear(200, 200)),
        ):
            with pytest.raises(OSError, match=r"No space left on device: '.*/disk/[mw]'$"):
                act()
        assert [path.name for path in disk.iterdir()] == ["w"]
        load_weights(disk / "w", torch.nn.Linear(2, 2))
    finally:
        subprocess.run(["umount", str(disk)], check=True)
