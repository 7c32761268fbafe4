"""What is written is there whole or not at all, and nothing else stays; what is read is checked."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from evalrec import (
    DataError,
    ItemToItemFloor,
    PrepareOptions,
    find_interactions,
    prepare,
    read_report,
    storage,
    write_synthetic,
)
from evalrec.storage import (
    check_writable,
    recover_folder,
    replacing_file,
    replacing_folder,
    write_parquet,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

KILLED = """
import os, sys
from pathlib import Path
from evalrec import storage
from evalrec.storage import replacing_file, replacing_folder, recover_folder

mode, base = sys.argv[1], Path(sys.argv[2])
if mode == "folder-in-two":
    storage._exchange = lambda first, second: False

def write(text):
    if mode == "file":
        with replacing_file(base / "place") as path:
            path.write_text(text)
    else:
        with replacing_folder(base / "place") as path:
            (path / "a").write_text(text)
            (path / "b").write_text(text)

def read():
    if mode == "file":
        return {(base / "place").read_text()}
    recover_folder(base / "place")
    assert sorted(os.listdir(base / "place")) == ["a", "b"]
    return {path.read_text() for path in (base / "place").iterdir()}

def killed_at(event):
    child = os.fork()
    if child == 0:
        left = event
        def hook(name, arguments):
            nonlocal left
            if name.split(".")[0] in ("open", "os", "shutil", "ctypes", "fcntl"):
                left -= 1
                if left < 0:
                    os._exit(9)
        sys.addaudithook(hook)
        write("new")
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

write("old")
event, seen = 0, set()
while killed_at(event) == 9:
    texts = read()
    assert len(texts) == 1, (event, texts)
    seen |= texts
    write("old")
    assert os.listdir(base) == ["place"], (event, os.listdir(base))
    event += 1
assert event > 8 and seen >= {"old"}, (event, seen)
assert read() == {"new"} and os.listdir(base) == ["place"]
print(event)
"""


@pytest.mark.parametrize("mode", ["file", "folder", "folder-in-two"])
def test_a_kill_at_any_event_leaves_the_old_or_the_new_and_the_next_start_sweeps(tmp_path, mode):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, mode, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_what_a_living_writer_holds_is_not_swept(tmp_path):
    with replacing_folder(tmp_path / "a") as first, replacing_file(tmp_path / "b") as second:
        with replacing_folder(tmp_path / "c") as third:
            (third / "x").write_text("c")
        assert first.is_dir()
        assert second.is_file()
        (tmp_path / f"{first.name}x").write_text("no leftover, by its name")
        second.write_text("b")
    names = ["a", "b", "c", f"{first.name}x"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_two_writers_of_one_place_do_not_mix(tmp_path):
    place = tmp_path / "place"
    with replacing_file(place) as first, replacing_file(place) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert place.read_text() == "first"  # the last that was finished
    with replacing_folder(tmp_path / "f") as outer, replacing_folder(tmp_path / "f") as inner:
        (outer / "a").write_text("outer")
        (inner / "b").write_text("inner")
    assert [path.name for path in (tmp_path / "f").iterdir()] == ["a"]


def test_a_file_that_is_there_stays_unless_it_may_be_replaced(tmp_path, monkeypatch):
    place = tmp_path / "place"

    def write(text, *, meanwhile=""):
        with replacing_file(place, overwrite=False) as beside:
            beside.write_text(text)
            if meanwhile:
                place.write_text(meanwhile)

    def no_links(*_):
        raise OSError(95, "Operation not supported")

    for link in (os.link, no_links):  # no_links: as a FAT file system has none
        monkeypatch.setattr(os, "link", link)
        with pytest.raises(FileExistsError) as error:
            write("mine", meanwhile="another's")
        assert error.value.filename == str(place)
        assert place.read_text() == "another's"
        place.unlink()
        write("mine")
        assert place.read_text() == "mine"
        assert os.listdir(tmp_path) == ["place"]
        place.unlink()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_failed_write_leaves_what_was_there(tmp_path, error):
    place = tmp_path / "place"
    place.write_text("old")

    def write():
        with replacing_file(place) as beside:
            beside.write_text("new")
            raise error

    with pytest.raises(error):
        write()
    assert place.read_text() == "old"
    assert os.listdir(tmp_path) == ["place"]


def test_another_file_in_the_place_of_the_empty_one_is_held_and_gets_the_mode(tmp_path):
    with replacing_file(tmp_path / "place") as path:
        private = path.with_name("private")  # as safetensors writes
        os.close(os.open(private, os.O_CREAT | os.O_WRONLY, 0o600))
        private.replace(path)
        with replacing_file(tmp_path / "other") as other:  # sweeps
            other.write_text("x")
    assert (tmp_path / "place").stat().st_mode == (tmp_path / "other").stat().st_mode
    assert sorted(os.listdir(tmp_path)) == ["other", "place"]


def test_files_and_folders_are_on_the_disk_before_they_are_in_place(tmp_path, monkeypatch):
    events = []
    sync, rename = os.fsync, Path.replace
    monkeypatch.setattr(
        "evalrec.storage.os.fsync",
        lambda descriptor: (
            events.append(os.readlink(f"/proc/self/fd/{descriptor}")),
            sync(descriptor),
        ),
    )
    monkeypatch.setattr(Path, "replace", lambda *paths: (events.append("rename"), rename(*paths)))
    monkeypatch.setattr(storage, "_put", lambda *paths: (events.append("put"), put(*paths)))
    with replacing_file(tmp_path / "file") as path:
        path.write_text("x")
    assert events == [str(path), "rename", str(tmp_path)]
    events.clear()
    with replacing_folder(tmp_path / "folder") as path:
        (path / "a").write_text("x")
    assert events == [str(path / "a"), str(path), "put", str(tmp_path)]


put = storage._put


def test_a_folder_that_was_between_two_renames_comes_back_where_it_is_read(tmp_path):
    folder = write_synthetic(tmp_path / "data", num_items=50, num_users=20)
    folder.rename(tmp_path / ".data.0123456789abcdef.evalrec-old")
    with replacing_file(tmp_path / "other") as path:  # sweeps, but not what is needed
        path.write_text("x")
    assert find_interactions(folder) == folder / "interactions.parquet"
    recover_folder(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "other"]


def test_links_are_followed_and_stay(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("old")
    (tmp_path / "link").symlink_to("real/file")
    with replacing_file(tmp_path / "link") as path:
        path.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "file").read_text() == "new"
    (tmp_path / "folder").symlink_to("real")
    with replacing_folder(tmp_path / "folder") as path:
        (path / "a").write_text("x")
    assert (tmp_path / "folder").is_symlink()
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["a"]


@pytest.fixture
def null(tmp_path):
    """A device like /dev/null that a test can lose: never the machine's own."""
    place = tmp_path / "null"
    try:
        os.mknod(place, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        place.write_text("x")
    except PermissionError:
        pytest.skip("only root may make a device here")
    return place


def test_a_device_is_written_to_and_never_replaced(null):
    with replacing_file(null) as path:
        path.write_text("x")
    with (
        pytest.raises(NotADirectoryError, match="null is a pipe or a device of characters, not a"),
        replacing_folder(null),
    ):
        pass
    assert null.is_char_device()
    assert [path.name for path in null.parent.iterdir()] == ["null"]


def test_a_pipe_is_written_to_and_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    texts = []
    reader = threading.Thread(target=lambda: texts.append((tmp_path / "pipe").read_text()))
    reader.start()
    with replacing_file(tmp_path / "pipe") as path:
        path.write_text("through")
    reader.join(10)
    assert texts == ["through"]
    with (
        pytest.raises(NotADirectoryError, match="pipe is a pipe or a device"),
        replacing_folder(tmp_path / "pipe"),
    ):
        pass
    assert (tmp_path / "pipe").is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_pipe_whose_reader_has_left_is_named(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    def write():
        with replacing_file(pipe) as path, path.open("wb", buffering=0) as file:
            os.close(reader)
            file.write(b"x")

    with pytest.raises(BrokenPipeError) as error:
        write()
    assert error.value.filename == str(pipe)


def test_a_folder_takes_no_files_place_and_a_file_no_folders(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="is a file"), replacing_folder(tmp_path / "file"):
        pass
    with pytest.raises(IsADirectoryError, match="is a folder"), replacing_file(tmp_path):
        pass
    late = tmp_path / "late"
    with pytest.raises(NotADirectoryError, match="late is a file"), replacing_folder(late):
        late.write_text("came while the folder was written")
    with pytest.raises(IsADirectoryError, match="is a folder"), replacing_file(tmp_path / "f"):
        (tmp_path / "f").mkdir()
    assert late.read_text().startswith("came")


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_modes_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        with replacing_file(tmp_path / "file") as path:
            path.write_text("x")
        folder = write_synthetic(tmp_path / "folder", num_items=50, num_users=20)
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask
    assert folder.stat().st_mode & 0o777 == 0o777 & ~umask
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o666 & ~umask}


def test_a_place_that_cannot_be_written_is_named_as_it_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"^none/x\.json: the folder none is missing$"):
        check_writable(Path("none/x.json"))
    Path("file").write_text("x")
    for place in ("file/deep/folder", "file"):
        with pytest.raises(NotADirectoryError, match=rf"^{place}.* is a file, not a folder$"):
            check_writable(Path(place), parents=True)
    monkeypatch.setattr("evalrec.storage.os.access", lambda *_: False)
    os.mkfifo("pipe")
    check_writable(Path("pipe"))  # its folder need not be written
    with pytest.raises(PermissionError, match=r"^out: no permission to write in /"):
        check_writable(Path("out"), parents=True)


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_read(make_raw, tmp_path):
    raw = make_raw("movielens-1m")
    (tmp_path / "file").write_text("x")
    (raw.folder / "ratings.dat").write_text("broken")
    with pytest.raises(NotADirectoryError, match="file is a file, not a folder"):
        prepare("movielens", [raw.folder], tmp_path / "file" / "out")


def test_what_is_read_is_never_replaced(make_raw, tmp_path):
    first = prepare("movielens", [make_raw("movielens-1m").folder], tmp_path / "first")
    options = PrepareOptions(k_core=1)
    before = {path.name: path.read_bytes() for path in first.folder.iterdir()}
    (tmp_path / "link").symlink_to("first")
    for source, out in (("first", "first"), ("link", "first"), ("first", "link")):
        with pytest.raises(FileExistsError, match=r"holds interactions\.parquet, which is read"):
            prepare("native", [tmp_path / source], tmp_path / out, options=options, overwrite=True)
    assert {path.name: path.read_bytes() for path in first.folder.iterdir()} == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_one_error_with_the_path(tmp_path):
    frame = pl.DataFrame({"x": np.arange(100_000)})
    with pytest.raises(OSError, match=r"[Nn]o space left|os error 28") as error:
        write_parquet(frame, Path("/dev/full"))
    assert error.value.filename == "/dev/full"


@pytest.mark.parametrize("at", range(4))
def test_a_full_disk_leaves_the_old_folder_and_names_it(make_raw, tmp_path, monkeypatch, at):
    raw, out = make_raw("movielens-1m"), tmp_path / "out"
    prepare("movielens", [raw.folder], out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    def polars_full(*_, **__):
        raise pl.exceptions.ComputeError("No space left on device (os error 28)")

    where = [
        ("polars.DataFrame.write_parquet", polars_full),
        ("pathlib.Path.write_bytes", full),
        ("pathlib.Path.write_text", full),
        ("evalrec.storage.os.fsync", full),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(*where[at])
        with pytest.raises(OSError, match="No space left") as error:
            prepare("movielens", [raw.folder], out, overwrite=True)
    assert error.value.filename == str(out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["movielens-1m", "out"]


HOSTILE = [
    *("", "{", "[" * 100_000, '{"a": ' * 100_000, "null", "[]", "3", '"x"', "\udcff", "\x00"),
    *('{"format": Infinity}', '{"format": NaN}', '{"format": 1, "format": 2}'),
    *('{"format": true}', '{"format": -1}', '{"format": 1.0}', '{"format": [[]]}'),
    '{"format": ' + "9" * 5000 + "}",
]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    """A saved floor and a report: where they are, and what reads each."""
    from evalrec import evaluate, leave_one_out, read_interactions

    base = tmp_path_factory.mktemp("artifacts")
    folder = write_synthetic(base / "data", num_items=50, num_users=20)
    split = leave_one_out(read_interactions(folder / "interactions.parquet"))
    matrix = sparse.csr_array(np.eye(split.num_items, dtype=np.float32))
    floor = ItemToItemFloor(matrix=matrix, last_items=3, decay=0.5, parameters={"x": 1.0})
    floor.save(base / "floor")
    evaluate(split.test, floor.score, ks=(5,), lists=True).write_json(base / "report.json")
    return {
        base / "floor" / "floor.json": lambda: ItemToItemFloor.load(base / "floor"),
        base / "report.json": lambda: read_report(base / "report.json"),
    }


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_json_is_one_refusal(artifacts, text):
    for path, read in artifacts.items():
        kept = path.read_bytes()
        path.write_bytes(text.encode(errors="surrogateescape"))
        try:
            with pytest.raises(DataError) as error:
                read()
        finally:
            path.write_bytes(kept)
        assert str(path) in str(error.value)


VALUES = st.one_of(
    st.sampled_from([None, True, -1, 0, 1, 1.5, 16.5, 10**400, -(2**63), 2**63, "x", "", [], {}]),
    st.sampled_from([[1.5], [True], [[1]], ["x"], {"x": 10**400}, {"filtered": 3}, {"users": "x"}]),
)


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_value_of_an_artifact_is_refused_or_taken_as_it_is(artifacts, data):
    for path, read in artifacts.items():
        kept = path.read_bytes()
        document = json.loads(kept)
        parent, key = document, data.draw(st.sampled_from(sorted(document)))
        while isinstance(parent[key], dict) and parent[key] and data.draw(st.booleans()):
            parent, key = parent[key], data.draw(st.sampled_from(sorted(parent[key])))
        value = data.draw(VALUES)
        if data.draw(st.booleans()):
            parent[key] = value
        else:
            del parent[key]
        path.write_text(json.dumps(document))
        try:
            back = read()
        except DataError as error:
            assert str(path.parent) in str(error)  # noqa: PT017
        else:
            if hasattr(back, "to_json"):
                written = back.to_json()
                read_back = {name for name in document if name not in ("metrics", "by_group")}
                for name in read_back & {"ranks", "groups", "ks", "counts", "name", "seed"}:
                    assert written[name] == document[name]
        finally:
            path.write_bytes(kept)


def test_a_matrix_whose_indices_lead_outside_is_refused(artifacts):
    path = next(iter(artifacts))
    kept = {each: each.read_bytes() for each in path.parent.iterdir()}
    matrix = sparse.load_npz(path.parent / "matrix.npz")
    try:
        for change in ("indices", "data", "shape"):
            wrong = matrix.copy()
            if change == "shape":
                wrong = wrong[:, :2]
            else:
                getattr(wrong, change)[0] = 10**6 if change == "indices" else np.inf
            sparse.save_npz(path.parent / "matrix.npz", wrong)
            digest = storage_digest(path.parent / "matrix.npz")
            config = {**json.loads(kept[path]), "matrix_sha256": digest}
            path.write_text(json.dumps(config))
            with pytest.raises(DataError, match=r"matrix\.npz is damaged"):
                artifacts[path]()
    finally:
        for each, content in kept.items():
            each.write_bytes(content)


def storage_digest(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()
