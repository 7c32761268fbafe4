"""Nothing is lost: kills at every write event, full disks, odd outputs, leftovers, rights."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from semtok import Catalog, SemanticIds, Tokenizer, load_tokenizer, save_tokenizer, storage
from semtok.storage import alone_with, recover, replacing_file, replacing_folder, scratch, sweep

ENV = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
ITEMS = Catalog(item_ids=[f"i{row}" for row in range(30)], fields={})
X = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)


def tokenizer(version: int) -> Tokenizer:
    return Tokenizer.fit(ITEMS, embeddings=X, info={"version": version})


def version(folder: Path) -> int:
    return int(load_tokenizer(folder).info["version"])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def semtok(*arguments: object, cwd: Path, stdin: bytes = b"") -> tuple[int, str]:
    script = "from semtok.cli import main; main()"
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=cwd, env=ENV, input=stdin, capture_output=True, check=False, timeout=300
    )
    return done.returncode, done.stderr.decode()


def write_items(path: Path) -> Path:
    lines = (f'{{"item_id": "i{row}", "title": "soap {row % 7} red"}}\n' for row in range(30))
    path.write_text("".join(lines))
    return path


KILLS = """
import os, shutil, sys
from pathlib import Path
import numpy as np
from semtok import Catalog, Tokenizer, load_tokenizer, save_tokenizer, storage

place, exchanges = Path(sys.argv[1]), sys.argv[2] == "True"
items = Catalog(item_ids=[f"i{row}" for row in range(30)], fields={})
x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
made = {n: Tokenizer.fit(items, embeddings=x, info={"version": n}) for n in (1, 2)}
EVENTS = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "open")

def forked(work):  # polars is imported in the child alone, as its threads outlive no fork
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def saving(kill_at):
    import polars
    count = 0
    def event(name, args):
        nonlocal count
        if name not in EVENTS or (name == "open" and not writes(args)):
            return
        if str(place) in os.fsdecode(args[0]) if isinstance(args[0], (str, bytes)) else True:
            count += 1
            if count == kill_at:
                os._exit(9)
    exchange = storage._exchange
    def exchanged(new, target):
        event("os.rename", (str(new),))  # an event of its own before, and one after
        done = exchange(new, target) if exchanges else False
        event("os.rename", (str(new),))
        return done
    storage._exchange = exchanged
    sys.addaudithook(event)
    save_tokenizer(place / "tok", made[2], overwrite=True)

def writes(args):
    return isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)

def check():
    found = load_tokenizer(place / "tok")
    assert found.info["version"] in (1, 2)
    storage.sweep(place)
    assert os.listdir(place) == ["tok"], os.listdir(place)
    print(found.info["version"], flush=True)

kill_at, code = 0, 9
while code == 9:
    kill_at += 1
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    assert forked(lambda: save_tokenizer(place / "tok", made[1])) == 0
    code = forked(lambda: saving(kill_at))
    assert code in (0, 9), code
    assert forked(check) == 0
print("kills", kill_at - 1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("exchanges", [True, False])
def test_a_kill_at_any_write_event_leaves_the_old_or_the_new(
    tmp_path: Path, exchanges: bool
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLS, tmp_path / "place", str(exchanges)],
        env=ENV, capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    *versions, kills = done.stdout.splitlines()
    assert int(kills.split()[1]) > 20
    assert versions == sorted(versions)
    assert {versions[0], versions[-1]} == {"1", "2"}


@pytest.mark.parametrize("exchanges", [True, False])
def test_everything_is_synced_before_it_is_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool
) -> None:
    save_tokenizer(tmp_path / "tok", tokenizer(1))
    synced: set[int] = set()
    checked: list[int] = []
    rename, replace, sync, exchange = os.rename, os.replace, os.fsync, storage._exchange

    def record(descriptor: int) -> None:
        sync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)

    def check(source: Path, target: Path) -> None:
        if Path(target).parent == tmp_path:
            paths = [Path(source), *Path(source).rglob("*")]
            checked.append(len(paths))
            assert not [path for path in paths if path.stat().st_ino not in synced]

    def renamed(source: Path, target: Path) -> None:
        check(source, target)
        rename(source, target)

    def replaced(source: Path, target: Path) -> None:
        check(source, target)
        replace(source, target)

    def exchanged(source: Path, target: Path) -> bool:
        check(source, target)
        return exchange(source, target) if exchanges else False

    monkeypatch.setattr(os, "fsync", record)
    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(os, "replace", replaced)
    monkeypatch.setattr(storage, "_exchange", exchanged)
    save_tokenizer(tmp_path / "new", tokenizer(1))
    assert tmp_path.stat().st_ino in synced
    save_tokenizer(tmp_path / "tok", tokenizer(2), overwrite=True)
    tokenizer(1).semantic_ids.write(tmp_path / "codes.parquet")
    tokenizer(1).semantic_ids.write(tmp_path / "codes.jsonl")
    assert checked[0] >= 6
    assert checked[-2:] == [1, 1]
    assert version(tmp_path / "tok") == 2


def test_an_old_folder_alone_is_put_back_by_whoever_opens_it(tmp_path: Path) -> None:
    write_items(tmp_path / "items.jsonl")
    openers = {
        "load": lambda: load_tokenizer(tmp_path / "tok"),
        "extend": lambda: semtok(
            *("encode", "items.jsonl", "--tokenizer", "tok", "--extend", "-o", "-"), cwd=tmp_path
        ),
        "fit": lambda: semtok("fit", "items.jsonl", "-o", "tok", cwd=tmp_path),
        "save": lambda: save_tokenizer(tmp_path / "tok", tokenizer(2), overwrite=True),
    }
    dead = subprocess.Popen(["true"])
    dead.wait()
    for leftover in (f".tok.{dead.pid}.old", ".tok.0123abcd.semtok-part/old"):
        for name, opener in openers.items():
            save_tokenizer(tmp_path / "tok", tokenizer(1))
            (tmp_path / leftover).parent.mkdir(exist_ok=True)
            os.rename(tmp_path / "tok", tmp_path / leftover)
            (tmp_path / f".tok.{dead.pid}.part").mkdir()
            done = opener()
            assert version(tmp_path / "tok") == (2 if name == "save" else 1), (name, done)
            if name == "fit":
                assert isinstance(done, tuple)
                assert "tok: exists already; --force replaces it" in done[1]
            assert names(tmp_path) == ["items.jsonl", "tok"]
            subprocess.run(["rm", "-r", tmp_path / "tok"], check=True)


def test_what_a_live_process_is_at_stays(tmp_path: Path) -> None:
    with scratch(tmp_path / "tok") as work, scratch(tmp_path / "tok", part=True) as part:
        (part / "old").mkdir()
        (tmp_path / f".tok.{os.getpid()}.old").mkdir()
        script = (
            "import sys; from pathlib import Path; from semtok.storage import recover, sweep; "
            "sweep(Path(sys.argv[1])); recover(Path(sys.argv[1]) / 'tok')"
        )
        subprocess.run([sys.executable, "-c", script, tmp_path], env=ENV, check=True)
        assert work.is_dir()
        assert (part / "old").is_dir()
        assert names(tmp_path) == sorted([work.name, part.name, f".tok.{os.getpid()}.old"])
    assert names(tmp_path) == [f".tok.{os.getpid()}.old"]


def test_the_next_start_sweeps_what_the_dead_have_left(tmp_path: Path) -> None:
    write_items(tmp_path / "items.jsonl")
    for name in (".a.codes.jsonl.0123abcd.semtok-work", ".tok.89abcdef.semtok-part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "view0.npy").write_bytes(b"0" * 1000)
    (tmp_path / ".tok.semtok-lock").touch()
    (tmp_path / ".mine.0123abcd.part").touch()
    assert semtok("encode", "items.jsonl", cwd=tmp_path)[0] == 0
    assert names(tmp_path) == [".mine.0123abcd.part", "items.codes.jsonl", "items.jsonl"]


def test_a_killed_command_leaves_what_the_next_one_sweeps(tmp_path: Path) -> None:
    write_items(tmp_path / "items.jsonl")
    script = (
        "import os; from semtok import fitting; "
        "fitting.fit_tokenizer = lambda *a, **k: os.kill(os.getpid(), 9); "
        "from semtok.cli import main; main()"
    )
    for arguments in (("fit", "items.jsonl", "-o", "tok"), ("encode", "items.jsonl")):
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            cwd=tmp_path, env=ENV, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == -9
        assert len(names(tmp_path)) == 2
        assert "semtok-work" in names(tmp_path)[0]
    assert semtok("fit", "items.jsonl", "-o", "tok", cwd=tmp_path)[0] == 0
    assert names(tmp_path) == ["items.jsonl", "tok"]


def test_locks_do_not_stay_and_are_those_of_the_living(tmp_path: Path) -> None:
    (tmp_path / "tok").mkdir()
    (tmp_path / ".tok.semtok-lock").touch()  # of a killed process
    with alone_with(tmp_path / "tok"):
        assert names(tmp_path) == [".tok.semtok-lock", "tok"]
        with (
            pytest.raises(BlockingIOError, match="another run changes it"),
            alone_with(tmp_path / "tok"),
        ):
            raise AssertionError
        sweep(tmp_path)
        assert names(tmp_path) == [".tok.semtok-lock", "tok"]
    assert names(tmp_path) == ["tok"]


def test_a_lock_removed_in_between_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tok").mkdir()
    lock, tries = fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        lock(descriptor, operation)
        tries.append(descriptor)
        if len(tries) == 1:  # as if its owner let go of it just now
            (tmp_path / ".tok.semtok-lock").unlink()

    monkeypatch.setattr(fcntl, "flock", flock)
    with alone_with(tmp_path / "tok"):
        assert names(tmp_path) == [".tok.semtok-lock", "tok"]
    assert len(tries) == 2


@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
def test_what_is_no_regular_file_is_never_replaced(tmp_path: Path, kind: str) -> None:
    write_items(tmp_path / "items.jsonl")
    for name, command in {
        "out.jsonl": ("encode", "items.jsonl", "-o"),
        "page.html": ("inspect", "codes.jsonl", "--html"),
    }.items():
        output = tmp_path / name
        if kind == "fifo":
            os.mkfifo(output)
        elif kind == "device":
            output.symlink_to("/dev/null")
        else:
            output.mkdir()
        tokenizer(1).semantic_ids.write(tmp_path / "codes.jsonl")
        code, words = semtok(*command, name, "--force", cwd=tmp_path)
        assert (code, f"semtok: {name}: is " in words) == (1, True), words
        assert "file" in words or "folder" in words
        with pytest.raises(FileExistsError, match=f"{name}: is "), replacing_file(output):
            raise AssertionError
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_links_are_followed(tmp_path: Path) -> None:
    write_items(tmp_path / "items.jsonl")
    (tmp_path / "real").mkdir()
    (tmp_path / "out.jsonl").symlink_to("real/codes.jsonl")
    assert semtok("encode", "items.jsonl", "-o", "out.jsonl", cwd=tmp_path)[0] == 0
    assert (tmp_path / "out.jsonl").readlink() == Path("real/codes.jsonl")
    assert len(SemanticIds.read(tmp_path / "real" / "codes.jsonl")) == 30
    assert names(tmp_path / "real") == ["codes.jsonl"]


def test_no_command_writes_over_what_it_reads(tmp_path: Path) -> None:
    import polars as pl

    items = write_items(tmp_path / "items.jsonl")
    pl.DataFrame({"item_id": ITEMS.item_ids, "x": X.tolist()}).write_parquet(tmp_path / "x.parquet")
    (tmp_path / "alias.parquet").hardlink_to(tmp_path / "x.parquet")
    tokenizer(1).semantic_ids.write(tmp_path / "codes.jsonl")
    save_tokenizer(tmp_path / "tok", tokenizer(1))
    (tmp_path / "page.html").symlink_to("codes.jsonl")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    stored = ("--embedding", "x.parquet")
    for arguments in (
        ("encode", items, "-o", items),
        ("encode", items, *stored, "-o", "x.parquet"),
        ("encode", items, *stored, "-o", "alias.parquet"),
        ("encode", items, *stored, "--tokenizer", "tok", "-o", "tok/codes.parquet"),
        ("fit", items, "-o", items),
        ("inspect", "codes.jsonl", "--html", "page.html"),
    ):
        code, words = semtok(*arguments, "--force", cwd=tmp_path)
        assert code == 1, arguments
        assert "Traceback" not in words
        assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize("output", ["absent/x.jsonl", "items.jsonl/x.jsonl"])
def test_a_missing_folder_is_named_as_given_before_the_work(tmp_path: Path, output: str) -> None:
    write_items(tmp_path / "items.jsonl")
    parent = str(Path(output).parent)
    for command in (
        ("encode", "items.jsonl", "-o", output),
        ("fit", "items.jsonl", "-o", output.removesuffix(".jsonl")),
    ):
        code, words = semtok(*command, cwd=tmp_path)
        assert code == 1
        assert words.startswith(f"semtok: {parent}: ")
        assert words.count("\n") == 1
    code, words = semtok("encode", "items.jsonl", "--cache", "items.jsonl", cwd=tmp_path)
    assert (code, words) == (1, "semtok: items.jsonl: --cache must be a folder, and is a file\n")


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_rights_follow_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        save_tokenizer(tmp_path / "tok", tokenizer(1))
        for name in ("codes.jsonl", "codes.parquet", "codes.csv.gz"):
            tokenizer(1).semantic_ids.write(tmp_path / name)
    finally:
        os.umask(before)
    for path in tmp_path.rglob("*"):
        expected = (0o777 if path.is_dir() else 0o666) & ~mask
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root, to become somebody else")
def test_permission_is_called_permission(tmp_path: Path) -> None:
    import polars as pl

    save_tokenizer(tmp_path / "tok", tokenizer(1))
    write_items(tmp_path / "items.jsonl")
    np.save(tmp_path / "x.npy", X)
    pl.DataFrame({"item_id": ITEMS.item_ids, "x": X.tolist()}).write_parquet(tmp_path / "x.parquet")
    for parent in [tmp_path, *list(tmp_path.parents)[:3]]:
        parent.chmod(0o755)
    # Its libraries may lie where somebody else cannot read.
    script = (
        "import os, encodings.idna, faiss, polars, rich.table, safetensors.numpy, sklearn.utils; "
        "import sklearn.feature_extraction.text, sklearn.utils.extmath, typer.rich_utils; "
        "import semtok.artifact, semtok.fitting, semtok.inspecting; "
        "from semtok.cli import main; os.setuid(65534); main()"
    )

    def refused(*arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            cwd=tmp_path, env=ENV, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 1, done.stderr
        said = done.stderr.splitlines()[-1]
        assert said.startswith("semtok: ")
        assert "permission" in said.lower(), said
        assert "damaged" not in said

    files = [*(tmp_path / "tok").rglob("*"), *tmp_path.glob("x.*")]
    for path in (path for path in files if path.is_file()):
        path.chmod(0o600)
        if path.parent == tmp_path:
            refused("encode", "items.jsonl", "--embedding", path.name, "-o", "-")
        else:
            refused("inspect", "tok")
        path.chmod(0o644)
    refused("encode", "items.jsonl")
    refused("fit", "items.jsonl", "-o", "other")


def failure_of(work: Callable[[], None]) -> OSError | None:
    try:
        work()
    except OSError as error:
        return error
    return None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=200", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("takes root and tmpfs")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_is_one_sentence_that_names_the_file(tmp_path: Path, small_disk: Path) -> None:
    write_items(tmp_path / "items.jsonl")
    save_tokenizer(small_disk / "tok", tokenizer(1))
    filler = small_disk / "filler"
    outcomes = set()
    for room in range(0, 40, 4):
        free = os.statvfs(small_disk)
        filler.write_bytes(b"x" * max(0, (free.f_bavail - room // 4) * free.f_bsize))
        for name, save in {
            "tok": lambda: save_tokenizer(small_disk / "tok", tokenizer(2), overwrite=True),
            "codes.parquet": lambda: tokenizer(1).semantic_ids.write(small_disk / "codes.parquet"),
            "codes.jsonl": lambda: tokenizer(1).semantic_ids.write(small_disk / "codes.jsonl"),
        }.items():
            refusal = failure_of(save)
            if refusal is not None:
                outcomes.add(name)
                assert str(small_disk / name) in str(refusal)
        filler.unlink()
        assert version(small_disk / "tok") in (1, 2)
        for name in ("codes.parquet", "codes.jsonl"):
            if (small_disk / name).exists():
                assert len(SemanticIds.read(small_disk / name)) == 30
                (small_disk / name).unlink()
        assert names(small_disk) == ["tok"]
    assert outcomes == {"tok", "codes.parquet", "codes.jsonl"}
    free = os.statvfs(small_disk)
    filler.write_bytes(b"x" * free.f_bavail * free.f_bsize)
    for arguments in (
        ("fit", "items.jsonl", "-o", "disk/tok", "--force"),
        ("fit", "items.jsonl", "-o", "disk/other"),
        ("encode", "items.jsonl", "-o", "disk/codes.parquet"),
        ("encode", "items.jsonl", "--cache", "disk/cache", "-o", "-"),
    ):
        code, words = semtok(*arguments, cwd=tmp_path)
        assert code == 1, arguments
        assert "Traceback" not in words
        assert words.splitlines()[-1].startswith("semtok: ")
        assert "disk/" in words.splitlines()[-1]


def test_a_write_that_fails_names_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tokenizer(tmp_path / "tok", tokenizer(1))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"No space left on device: .*tok'") as refusal:
        save_tokenizer(tmp_path / "tok", tokenizer(2), overwrite=True)
    assert refusal.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert version(tmp_path / "tok") == 1
    assert names(tmp_path) == ["tok"]
    with pytest.raises(OSError, match="No space left"), replacing_folder(tmp_path / "x") as beside:
        full(beside)
    recover(tmp_path / "tok")
    assert names(tmp_path) == ["tok"]
