"""The finished shards of a run on a cluster, so that a killed run can continue.

A checkpoint is a folder on this machine or in an object store. `checkpoint.json` describes the run.
`shard-000000.arrow` and so on (Arrow IPC streams) are written when their shards are finished.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from semtok.places import file_system, inside, is_local, is_url, put_file

_NAME = "checkpoint.json"
_FORMAT = 1


class Checkpoint:
    """The finished shards of a run.

    Attributes:
        num_finished: Number of finished shards. They are the first shards of the run.

    Args:
        folder: The folder of the checkpoint: a path or a URL.
        inputs: For each shard, the file, the version of the file, and the part of the file.
        settings: All other settings that change the results.

    Raises:
        ValueError: If the checkpoint has other inputs or settings, or another version.
        FileExistsError: If the folder contains other files.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        inputs: list[dict[str, Any]],
        settings: Mapping[str, Any],
    ) -> None:
        self._folder = str(folder) if is_url(folder) else str(Path(folder).absolute())
        self._num_shards = len(inputs)
        self._system, self._path = file_system(self._folder)
        if is_local(self._system):
            Path(self._path).mkdir(parents=True, exist_ok=True)
        names = self._names()
        run = json.loads(
            json.dumps({"format": _FORMAT, "inputs": inputs, "settings": dict(settings)})
        )
        if _NAME in names:
            self._check(run)
        elif names:
            raise FileExistsError(
                f"{self._folder}: is no checkpoint, and holds {min(names)}: name a new folder"
            )
        else:
            self._put_json(run)
        self.num_finished = 0
        while self._name(self.num_finished) in names:
            self.num_finished += 1

    def read(self, number: int) -> Iterator[Any]:
        """The Arrow tables of a finished shard, in order.

        Raises:
            ValueError: If the file of the shard is damaged.
        """
        import pyarrow as pa

        place = inside(self._path, self._name(number))
        try:
            with self._system.open(place, "rb") as file, pa.ipc.open_stream(file) as reader:
                for batch in reader:
                    yield pa.Table.from_batches([batch])
        except pa.ArrowException as error:
            raise ValueError(
                f"{self._folder}: {self._name(number)} is broken "
                f"({str(error).splitlines()[0]}): delete it, and the run begins there"
            ) from None

    def recorded(self, tables: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        """Yields the tables of the unfinished shards, and saves each shard that is complete.

        Args:
            tables: Pairs of the number of a shard and a table of some of its rows, in order.
        """
        import pyarrow as pa

        with tempfile.TemporaryDirectory() as folder:
            file, number, writer = Path(folder) / "shard.arrow", self.num_finished, None

            def finish() -> None:
                stream = pa.ipc.new_stream(file, pa.schema([])) if writer is None else writer
                stream.close()
                put_file(file, inside(self._folder, self._name(number)))

            for shard, table in tables:
                while number < shard:
                    finish()
                    number, writer = number + 1, None
                if writer is None:
                    writer = pa.ipc.new_stream(file, table.schema)
                writer.write_table(table)
                yield shard, table
            while number < self._num_shards:
                finish()
                number, writer = number + 1, None

    def _check(self, run: Mapping[str, Any]) -> None:
        """Refuses a checkpoint of another run."""
        with self._system.open(inside(self._path, _NAME), "rb") as file:
            kept = json.loads(file.read())
        if kept.get("format") != _FORMAT:
            raise ValueError(f"{self._folder}: is a checkpoint of another version of semtok")
        others = [
            name for name in run["settings"] if kept["settings"][name] != run["settings"][name]
        ]
        if others:
            raise ValueError(
                f"{self._folder}: is a checkpoint of other settings ({', '.join(others)}): name a "
                "new folder, or give the settings that it was begun with"
            )
        for shard, (before, now) in enumerate(zip(kept["inputs"], run["inputs"], strict=False)):
            if before != now:
                raise self._other_input(f"shard {shard} was {before['place']}", now["place"])
        if len(kept["inputs"]) != len(run["inputs"]):
            raise self._other_input(f"{len(kept['inputs'])} shards", f"{len(run['inputs'])}")

    def _other_input(self, before: str, now: str) -> ValueError:
        return ValueError(
            f"{self._folder}: is a checkpoint of other input ({before}, and is now {now} or "
            "another version of it): name a new folder"
        )

    def _put_json(self, run: Mapping[str, Any]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / _NAME
            file.write_text(json.dumps(run, indent=1), encoding="utf-8")
            put_file(file, inside(self._folder, _NAME))

    def _names(self) -> set[str]:
        """The names of the files in the folder, without incomplete files of a killed run."""
        if not self._system.exists(self._path):
            return set()
        paths = (entry["name"] for entry in self._system.ls(self._path, detail=True))
        names = {path.rstrip("/").rpartition("/")[2] for path in paths}
        return {name for name in names if name and not name.startswith(".")}

    def _name(self, number: int) -> str:
        return f"shard-{number:06d}.arrow"
