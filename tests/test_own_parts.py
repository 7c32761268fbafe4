"""docs/own_parts.md as its reader does it: a package of four parts, and what is made with them."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from semtok import SemanticIds
from typer.testing import CliRunner

from semrec import load_run
from semrec.prorec.app import APP
from semrec.shared.command import command_line
from semrec.shared.errors import ExperimentError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/own_parts.md").read_text(encoding="utf-8")
UNTRUSTED = (
    "is code of the package mypackage, which runs only where you trust it: add --trust mypackage, "
    "in Python trust=('mypackage',)"
)
# A training in seconds, beside what the page shows.
SIZES = {
    "text": "dim = 16",
    "stage_one": "dim = 16\nnum_heads = 2\nepochs = 1",
    "stage_two": "dim = 16\nnum_heads = 2\nfeedforward_dim = 32\nepochs = 1",
}
EVALUATION = "[evaluation]\nreference = false\nnum_beams = 30\n"


def blocks(fence: str) -> list[str]:
    """The page's blocks of code that begin so."""
    return re.findall(rf"^```{re.escape(fence)}\n(.*?)^```$", PAGE, re.M | re.S)


def commands() -> list[str]:
    """The page's commands, in order."""
    (block,) = blocks("console parts")
    lines: list[str] = re.findall(r"^\$ (.*)$", block, re.M)
    return lines


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command in a folder that holds the package."""
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    return subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def untrusting(words: list[str]) -> list[str]:
    """A command without its --trust."""
    place = words.index("--trust")
    return words[:place] + words[place + 2 :]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the page's commands were run, each refused without --trust before."""
    folder = tmp_path_factory.mktemp("parts")
    package = folder / "mypackage"
    package.mkdir()
    (package / "__init__.py").write_text("open('imported', 'w').close()\n")
    for name in ("lsh", "characters", "recent", "odd"):
        (source,) = blocks(f"python mypackage/{name}.py")
        (package / f"{name}.py").write_text(source, encoding="utf-8")
    (config,) = blocks("toml")
    for table, sizes in SIZES.items():
        config = config.replace(f"[{table}]", f"[{table}]\n{sizes}")
    (folder / "parts.toml").write_text(config + EVALUATION)
    draw = random.Random(0)
    kinds = ("tea", "coffee", "salt", "oil")
    articles = [f"a{row};{kinds[row % 4]} of sort {row // 4}\n" for row in range(60)]
    (folder / "shop.articles").write_text("".join(articles))
    orders = [
        f"{1000 * order + user};a{4 * draw.randrange(15) + user % 4};u{user}\n"
        for user in range(80)
        for order in range(6)
    ]
    (folder / "shop.orders").write_text("".join(orders))
    for command in commands():
        words = shlex.split(command)
        refused = run(untrusting(words), folder)
        assert refused.returncode == 1, command
        assert UNTRUSTED in refused.stderr.splitlines()[-1], command
        assert not (folder / "imported").exists(), command
        printed = run(words, folder)
        assert printed.returncode == 0, f"{command}\n{printed.stdout}{printed.stderr}"
        (folder / "imported").unlink()
        (folder / "printed.txt").write_text(printed.stdout)
        (folder / "refused.txt").write_text(refused.stderr)
    return folder


def test_the_codes_are_those_of_the_quantizer(folder: Path) -> None:
    table = SemanticIds.read(folder / "codes.jsonl")
    assert sorted(table.item_ids) == sorted(f"a{row}" for row in range(60))
    program = (
        "import json\nfrom semtok import load_tokenizer, read_catalog\n"
        "from mypackage.characters import CharacterCounts\nfrom mypackage.lsh import LshQuantizer\n"
        "items = read_catalog('data/items.jsonl.gz')\n"
        "x = CharacterCounts.fit([items], fields=('title',)).embed(items)\n"
        "codes = LshQuantizer.fit(x, num_levels=2, codebook_size=32).encode(x)\n"
        "print(json.dumps(dict(zip(items.item_ids, codes.tolist()))))"
    )
    expected = json.loads(run([sys.executable, "-c", program], folder).stdout)
    first_of_each = {tuple(codes): item for item, codes in reversed(expected.items())}
    for codes, item in first_of_each.items():  # later ones of the same codes were moved
        assert tuple(table.codes[table.row(item)]) == codes


def test_a_run_has_them_and_answers(folder: Path) -> None:
    assert len(re.findall(r"\ba\d+\b.* of sort \d", (folder / "printed.txt").read_text())) == 10
    (shown,) = (block for block in blocks("text") if "add --trust" in block)
    assert (folder / "refused.txt").read_text() == shown
    config = json.loads((folder / "run/run.json").read_text())["config"]
    assert config["codes"]["quantizer"] == "mypackage.lsh:LshQuantizer"
    assert "trust" not in (folder / "run/run.json").read_text()
    (program,) = blocks("python parts")
    printed = run([sys.executable, "-c", program], folder)
    assert printed.returncode == 0, printed.stderr
    assert "LshQuantizer" in printed.stdout


@pytest.mark.parametrize(
    "words",
    [
        "update --run RUN --data DATA --out OUT",
        "extend --run RUN --items ITEMS --out OUT",
        "recommend --run RUN --history a1",
        "export --run RUN --out OUT",
        "serve --run RUN --port 0",
        "study ablation --data DATA --out OUT --config TOML",
    ],
)
def test_every_command_that_opens_a_run_asks(folder: Path, tmp_path: Path, words: str) -> None:
    places = {
        "RUN": folder / "run",
        "DATA": folder / "data",
        "ITEMS": folder / "data/items.jsonl.gz",
        "OUT": tmp_path / "out",
        "TOML": folder / "parts.toml",
    }
    arguments = [str(places.get(word, word)) for word in words.split()]
    result = CliRunner().invoke(command_line(APP), arguments)
    assert isinstance(result.exception, ExperimentError), result.output
    assert UNTRUSTED in str(result.exception)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ExperimentError, match="add --trust mypackage"):
        load_run(folder / "run", trust=("other",))


def test_a_run_makes_room_for_new_items(folder: Path) -> None:
    """All its parts are loaded, and what embedded the old items embeds the new ones."""
    (folder / "new.jsonl").write_text('{"item_id": "n1", "title": "salt of sort 99"}\n')
    words = shlex.split("prorec extend --run run --items new.jsonl --out more --trust mypackage")
    printed = run(words, folder)
    assert printed.returncode == 0, printed.stderr
    assert printed.stdout.startswith("1 new items; drift")


def test_the_three_libraries_have_the_same_words() -> None:
    texts = []
    for name in ("semtok", "genrec", "evalrec"):
        text = (ROOT / f"packages/{name}/src/{name}/plugins.py").read_text(encoding="utf-8")
        texts.append(re.sub(r"^from \w+\.\w+ import \w+ as RefusedError$", "", text, flags=re.M))
    assert texts[0] == texts[1] == texts[2]
    assert "RefusedError(" in texts[0]
