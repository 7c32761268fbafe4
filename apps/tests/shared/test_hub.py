"""Complete runs to a folder and to a faked hub on loopback, and back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import semrec
from semrec.hub import KEPT_BACK, HubRun

OfApp = Callable[[str], Path]


@pytest.mark.parametrize("name", ["prorec", "tssr"])
def test_a_saved_run_answers_as_the_run_without_its_users(
    name: str, completed: OfApp, tmp_path: Path
) -> None:
    run = semrec.load_run(completed(name), device="cpu")
    folder = tmp_path / "saved"
    card = {"license": "mit", "text": "Soap."}
    assert HubRun(run).save_pretrained(folder, model_card_kwargs=card) is None
    assert not set(KEPT_BACK) & {path.name for path in folder.iterdir()}
    back = HubRun.from_pretrained(folder, device="cpu").run
    histories = [run.item_ids[:3], run.item_ids[7:9]]
    for ranking in (None, *run.rankings):
        answers = run.recommender(ranking).recommend(histories)
        assert back.recommender(ranking).recommend(histories) == answers, ranking
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert text.startswith("---\nlibrary_name: semrec\nlicense: mit\n")
    assert f"# {name}: recommendations over 100 items\n\nSoap.\n" in text
    for title, report in run.reports.items():
        mean, low, high = report.estimate("ndcg@10", "filtered")
        (line,) = (line for line in text.splitlines() if line.startswith(f"| {title} |"))
        assert line.endswith(f"| {mean:.4f} ({low:.4f} to {high:.4f}) |")
    with pytest.raises(FileExistsError, match="is not empty, so nothing is written"):
        HubRun(run).save_pretrained(folder)


def test_a_run_goes_to_the_hub_and_back(completed: OfApp, hub: Any, tmp_path: Path) -> None:
    script = (
        "import sys, semrec\n"
        "from semrec.hub import HubRun\n"
        "run = semrec.load_run(sys.argv[1], device='cpu')\n"
        "HubRun(run).push_to_hub('me/shop', private=True)\n"
        "back = HubRun.from_pretrained('me/shop', device='cpu').run\n"
        "history = [run.item_ids[:3]]\n"
        "assert back.recommender().recommend(history) == run.recommender().recommend(history)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(completed("tssr"))],
        cwd=tmp_path,
        env=hub.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert {"README.md", "run.json", "metrics.json", "tssr/stage.json"} < hub.files.keys()
    assert not any(name.startswith(tuple(KEPT_BACK)) for name in hub.files)
    assert not any(name.endswith((".pkl", ".bin", ".pt")) for name in hub.files)
