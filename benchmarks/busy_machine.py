"""Times a training while other programs run, with threads that spin or yield while they wait.

    python benchmarks/busy_machine.py --work FOLDER
    python benchmarks/busy_machine.py --work FOLDER --beside 0 --beside 1 --rounds 5

The demo's stage II is trained several times: alone, while one other process keeps a core busy, and
while ten do; with OMP_WAIT_POLICY unset (the default for a program that imports torch) and
"passive" (the choice of the command lines). The two policies take turns (A B A B). The times are
those that the stage measures, so imports and the reading of data are not included. The table has
medians with the fastest and the slowest round, and the ratio to the first line. "Fair share" is
this ratio on a machine that gives each busy thread an equal part of the cores.

No other program should run: the benchmark prints the load of the machine at its start.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from rich.console import Console
from rich.table import Table

from semrec.prorec.app import APP
from semrec.shared.app import demo_data

COMMAND = Path(__file__).resolve().parents[1] / "apps" / "prorec.py"
STAGE = "stage_two"
POLICIES = {"spinning": None, "yielding": "passive"}
"""OMP_WAIT_POLICY for each way in which threads can wait."""

AFTER = (STAGE, "test", "joined", "candidates_*", "variants", "metrics.json", "report.html")


def prepared(work: Path) -> Path:
    """The demo's run, which is made if it does not exist."""
    out = work / "demo"
    if not (out / "metrics.json").exists():
        subprocess.run([sys.executable, str(COMMAND), "demo", "--out", str(out)], check=True)
    return out


def trained(run: Path, policy: str | None, threads: int) -> float:
    """Seconds that stage II takes in a copy of `run`, as the stage measures them."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment["OMP_NUM_THREADS"] = str(threads)
    if policy is not None:
        environment["OMP_WAIT_POLICY"] = policy
    with tempfile.TemporaryDirectory(dir=run.parent) as folder:
        copy = Path(folder) / "demo"
        shutil.copytree(run, copy, ignore=shutil.ignore_patterns(*AFTER))
        command = [sys.executable, str(Path(__file__).resolve()), "--train", str(copy)]
        finished = subprocess.run(
            command, env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
    return float(finished.stdout.splitlines()[-1])


def train(out: Path) -> None:
    """Trains stage II of a run whose earlier stages are complete, and prints its seconds."""
    pipeline = APP.open(demo_data(out), out, APP.demo, "cpu")
    print(pipeline.stage_two.complete()["seconds"])


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Runs `count` processes within the block, each of which keeps one core busy."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def share(programs: int, cores: int, threads: int) -> float:
    """How much longer a program of `threads` threads takes if cores are shared fairly by thread."""
    return max(1.0, (programs + threads) / cores) if programs else 1.0


def main() -> None:
    """Reads the options, measures, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, help="folder of the demo's run")
    parser.add_argument("--beside", type=int, nargs="+", default=[0, 1, 10])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        train(options.train)
        return
    if options.work is None:
        parser.error("--work is needed: the folder of the demo's run")
    run, cores = prepared(options.work), os.cpu_count() or 1
    load = os.getloadavg()[0]
    print(f"{date.today()}, {cores} cores, {options.threads} threads, load {load:.1f} at the start")
    seconds: dict[tuple[int, str], list[float]] = {}
    for beside in options.beside:
        for _ in range(options.rounds):
            for name, policy in POLICIES.items():
                with busy(beside):
                    took = trained(run, policy, options.threads)
                seconds.setdefault((beside, name), []).append(took)
                print(f"beside {beside}, {name}: {took:.1f} s", flush=True)
    table = Table("beside", "waiting", "seconds", "spread", "times alone", "fair share")
    alone = statistics.median(seconds[options.beside[0], "spinning"])
    for (beside, name), values in seconds.items():
        middle = statistics.median(values)
        table.add_row(
            str(beside),
            name,
            f"{middle:.1f}",
            f"{min(values):.1f} to {max(values):.1f}",
            f"{middle / alone:.2f}",
            f"{share(beside, cores, options.threads):.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
