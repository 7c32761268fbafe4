"""The Ray engine on an object store, which a server on this machine stands in for."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from semtok import (
    Catalog,
    LsaEmbedding,
    ResidualQuantizer,
    SemanticIds,
    Tokenizer,
    read_catalog,
    save_tokenizer,
)
from semtok.code_shards import write_shards
from semtok.places import catalog_files, file_system, put_file, version_of
from semtok.ray_engine import RayOptions, encode_files
from semtok.shards import shard_chunks, shards_of

MODULES = ("moto", "s3fs", "flask")
pytestmark = [
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in MODULES),
        reason="needs semtok[s3] and moto[server]",
    ),
    # The server and its client leave sockets open, and Ray sets options that it calls deprecated.
    pytest.mark.filterwarnings("ignore"),
]
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs semtok[ray]")
WORDS = ("red", "blue", "nail", "polish", "dry", "hair", "shampoo", "face", "cream", "oil")
NUM_ITEMS = 600


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URL of an empty bucket."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("NO_PROXY", host)
        system, _ = file_system("s3://shelf")
        system.mkdir("shelf")
        yield "s3://shelf"
        type(system).clear_instance_cache()
    server.stop()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One large catalogue, of twelve row groups."""
    generator = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "item_id": [f"i{row}" for row in range(NUM_ITEMS)],
            "title": [" ".join(generator.choice(WORDS, 4)) for _ in range(NUM_ITEMS)],
        }
    )
    path = tmp_path_factory.mktemp("file") / "items.parquet"
    frame.write_parquet(path, row_group_size=50)
    return path


@pytest.fixture(scope="module")
def catalog(file: Path) -> Catalog:
    return read_catalog(file)


@pytest.fixture(scope="module")
def tokenizer(catalog: Catalog) -> Tokenizer:
    known = catalog.take(range(60))
    return Tokenizer.fit(
        known,
        source=LsaEmbedding.fit(known, fields=["title"], dim=6),
        quantizer=lambda x, progress=None: ResidualQuantizer.fit(
            x, num_levels=3, codebook_size=16, seed=1
        ),
    )


@pytest.fixture(scope="module")
def url(bucket: str, file: Path) -> str:
    put_file(file, f"{bucket}/shop/items.parquet")
    return f"{bucket}/shop/items.parquet"


@pytest.fixture(scope="module")
def cluster(bucket: str) -> Iterator[None]:
    """Started once the store's address is in the environment, which its workers take over."""
    import ray

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield
        ray.shutdown()


def test_files_of_a_store_are_files(bucket: str, url: str, catalog: Catalog) -> None:
    assert catalog_files([f"{bucket}/shop"]) == [url]
    assert catalog_files([f"{bucket}/*/items.parquet"]) == [url]
    with pytest.raises(ValueError, match=r"s3://shelf/absent.jsonl: no catalogue there"):
        catalog_files([f"{bucket}/absent.jsonl"])
    shards = shards_of([url], 1)
    assert len(shards) == 12
    read = [chunk for shard in shards for chunk in shard_chunks(shard, "item_id", 1000)]
    assert [item_id for chunk in read for item_id in chunk.item_ids] == catalog.item_ids


def test_lines_of_a_store_are_read_by_parts(bucket: str, tmp_path: Path, catalog: Catalog) -> None:
    local = tmp_path / "x.jsonl"
    pl.DataFrame({"item_id": catalog.item_ids, "title": catalog.fields["title"]}).write_ndjson(
        local
    )
    put_file(local, f"{bucket}/x.jsonl")
    shards = shards_of([f"{bucket}/x.jsonl"], 4000)
    assert len(shards) > 5
    read = [chunk for shard in shards for chunk in shard_chunks(shard, "item_id", 1000)]
    assert [item_id for chunk in read for item_id in chunk.item_ids] == catalog.item_ids
    assert [title for chunk in read for title in chunk.fields["title"]] == catalog.fields["title"]


def test_a_file_that_changed_has_another_version(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    put_file(tmp_path / "x", f"{bucket}/version")
    before = version_of(f"{bucket}/version")
    assert before == version_of(f"{bucket}/version")
    (tmp_path / "x").write_text("new")
    put_file(tmp_path / "x", f"{bucket}/version")
    assert version_of(f"{bucket}/version") != before


def test_codes_are_written_to_a_store(bucket: str, tmp_path: Path) -> None:
    codes = np.arange(10).reshape(5, 2)
    table = SemanticIds(codes=codes, codebook_sizes=(9, 10), item_ids=list("abcde"))
    folder = f"{bucket}/codes"
    system, path = file_system(folder)
    write_shards(table, folder, shard_size=2)
    write_shards(table, tmp_path / "codes", shard_size=2)
    names = [f"part-0000{number}.parquet" for number in range(3)]
    assert sorted(system.ls(path)) == [f"{path}/{name}" for name in names]
    for name in names:
        assert system.cat_file(f"{path}/{name}") == (tmp_path / "codes" / name).read_bytes()
    with pytest.raises(FileExistsError, match=r"s3://shelf/codes: exists already"):
        write_shards(table, folder)
    write_shards(table, folder, shard_size=3, overwrite=True)
    system.invalidate_cache()
    assert sorted(system.ls(path)) == [f"{path}/{name}" for name in names[:2]]
    system.pipe_file(f"{path}/thesis.txt", b"years of work")
    with pytest.raises(FileExistsError, match=r"codes: also holds thesis.txt, which would be lost"):
        write_shards(table, folder, overwrite=True)
    write_shards(table, f"file://{tmp_path}/more", shard_size=9)
    assert pl.read_parquet(tmp_path / "more")["item_id"].to_list() == list("abcde")


@needs_ray
@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_one_large_file_of_a_store_gives_the_codes_of_the_local_engine(
    bucket: str, url: str, catalog: Catalog, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    local = tokenizer.encode(catalog)
    options = RayOptions(batch_size=37, shard_bytes=1, checkpoint=f"{bucket}/kept")
    calls: list[int] = []
    encoding = encode_files(
        tokenizer,
        [url],
        workspace=tmp_path,
        options=options,
        progress=lambda done, total: calls.append(done),
    )
    assert encoding.semantic_ids.item_ids == catalog.item_ids
    np.testing.assert_array_equal(encoding.semantic_ids.codes, local.semantic_ids.codes)
    assert (encoding.collisions, encoding.drift) == (local.collisions, local.drift)
    assert local.collisions is not None
    assert local.collisions.num_moved > 0  # else the order would not have mattered
    assert calls[-1] == NUM_ITEMS
    system, path = file_system(f"{bucket}/kept")
    assert len(system.ls(path)) == 1 + 12
    # The last five shards are lost: the others are taken from the checkpoint.
    for number in range(7, 12):
        system.rm_file(f"{path}/shard-{number:06d}.arrow")
    kept = {name: system.info(name)["LastModified"] for name in system.ls(path)}
    again = encode_files(tokenizer, [url], workspace=tmp_path, options=options)
    np.testing.assert_array_equal(again.semantic_ids.codes, local.semantic_ids.codes)
    system.invalidate_cache()
    assert len(system.ls(path)) == 1 + 12
    assert {name: system.info(name)["LastModified"] for name in kept} == kept
    with pytest.raises(ValueError, match=r"s3://shelf/kept: is a checkpoint of other settings"):
        encode_files(
            tokenizer,
            [url],
            workspace=tmp_path,
            options=RayOptions(batch_size=38, shard_bytes=1, checkpoint=f"{bucket}/kept"),
        )


KILLED = """
import os, sys
from semtok import RayOptions, embed_files, load_tokenizer
folder, url, kept, stop = sys.argv[1:]
import ray
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
def progress(done, total):
    if done >= int(stop):
        os.kill(os.getpid(), 9)
source = load_tokenizer(folder + "/tokenizer").views[0].source
options = RayOptions(batch_size=50, shard_bytes=1, checkpoint=kept)
embed_files(source, [url], folder + "/x.npy", options=options, progress=progress)
"""


@needs_ray
@pytest.mark.slow
def test_a_killed_run_goes_on_and_gives_the_same_bytes(
    bucket: str, url: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    save_tokenizer(tmp_path / "tokenizer", tokenizer)
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(tmp_path), url]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    code = subprocess.run(
        [*command, str(tmp_path / "kept"), "300"], check=False, env=environment, timeout=600
    ).returncode
    assert code == -9
    assert not (tmp_path / "x.npy").exists()
    names = sorted(path.name for path in (tmp_path / "kept").iterdir() if path.suffix == ".arrow")
    assert 1 <= len(names) < 12
    kept = {name: (tmp_path / "kept" / name).stat().st_mtime_ns for name in names}
    subprocess.run(
        [*command, str(tmp_path / "kept"), "9999"], check=True, env=environment, timeout=600
    )
    for name, time in kept.items():
        assert (tmp_path / "kept" / name).stat().st_mtime_ns == time
    once = (tmp_path / "x.npy").read_bytes()
    subprocess.run(
        [*command, str(tmp_path / "other"), "9999"], check=True, env=environment, timeout=600
    )
    assert (tmp_path / "x.npy").read_bytes() == once
    assert len(np.load(tmp_path / "x.npy")) == NUM_ITEMS
