"""Tokenizers to the hub and back: a local folder, and a faked endpoint on loopback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from semtok import Catalog, CatalogError, LsaEmbedding, Tokenizer, load_tokenizer

pytest.importorskip("huggingface_hub")

ITEMS = Catalog(
    item_ids=[f"i{row}" for row in range(40)],
    fields={"title": [f"{('red', 'blue')[row % 2]} soap no. {row // 2}" for row in range(40)]},
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    source = LsaEmbedding.fit(ITEMS, fields=("title",), dim=8)
    return Tokenizer.fit(ITEMS, source=source, info={"quantizer": "a|b"})


def assert_same(first: Tokenizer, second: Tokenizer) -> None:
    np.testing.assert_array_equal(first.semantic_ids.codes, second.semantic_ids.codes)
    new = Catalog(item_ids=["new"], fields={"title": ["red soap no. 77"]})
    np.testing.assert_array_equal(
        first.encode(new).semantic_ids.codes, second.encode(new).semantic_ids.codes
    )


def test_a_folder_is_ours_with_a_card(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from semtok.hf import HubTokenizer

    folder = tmp_path / "saved"
    assert HubTokenizer(tokenizer).save_pretrained(folder) is None
    assert_same(HubTokenizer.from_pretrained(folder).tokenizer, tokenizer)
    assert_same(load_tokenizer(folder), tokenizer)
    card = (folder / "README.md").read_text(encoding="utf-8")
    levels = len(tokenizer.semantic_ids.codebook_sizes)
    for words in (
        "library_name: semtok",
        "- semantic-ids",
        "| Items | 40 |",
        "`HierarchicalKMeans`",
        "`embedding` (LsaEmbedding)",
        "| Collisions before they were resolved | 0.00% of items |",
        "policy `reassign`",
        "| `quantizer` | `a\\|b` |",
    ):
        assert words in card
    assert sum(line.startswith(("| 1 |", "| 2 |", "| 3 |")) for line in card.splitlines()) == levels
    with pytest.raises(FileExistsError, match="exists already"):
        HubTokenizer(tokenizer).save_pretrained(folder)
    assert_same(load_tokenizer(folder), tokenizer)


def test_what_is_no_tokenizer_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from semtok.hf import HubTokenizer

    with pytest.raises(CatalogError, match=r"no config\.json"):
        HubTokenizer.from_pretrained(tmp_path)
    with pytest.raises(TypeError, match="config has no effect"):
        HubTokenizer(tokenizer).save_pretrained(tmp_path / "x", config={"a": 1})
    folder = tmp_path / "saved"
    HubTokenizer(tokenizer).save_pretrained(folder)
    with pytest.raises(TypeError, match="colour is not an option"):
        HubTokenizer.from_pretrained(folder, colour="red")
    (folder / "codes.parquet").write_bytes(b"damaged")
    with pytest.raises(CatalogError, match="damaged, its digest differs"):
        HubTokenizer.from_pretrained(folder)


def test_a_tokenizer_goes_to_the_hub_and_back(
    tokenizer: Tokenizer, tmp_path: Path, hub: Any
) -> None:
    from semtok import save_tokenizer

    save_tokenizer(tmp_path / "here", tokenizer)
    script = (
        "from semtok import load_tokenizer\n"
        "from semtok.hf import HubTokenizer\n"
        "HubTokenizer(load_tokenizer('here')).push_to_hub('me/ids', private=True)\n"
        "back = HubTokenizer.from_pretrained('me/ids')\n"
        "back.save_pretrained('back', push_to_hub=True, repo_id='me/ids')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=hub.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert {
        "README.md",
        "config.json",
        "codes.parquet",
        "quantizer/config.json",
    } <= hub.files.keys()
    assert b"| Items | 40 |" in hub.files["README.md"]
    assert not any(name.endswith((".pkl", ".bin", ".pt")) for name in hub.files)
    assert_same(load_tokenizer(tmp_path / "back"), tokenizer)


def test_one_line_names_the_extra() -> None:
    script = (
        "import sys; sys.modules['huggingface_hub'] = None\nfrom semtok.hf import HubTokenizer\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stderr.splitlines()[-1] == (
        "ImportError: tokenizers on the hub need an extra (no module huggingface_hub): "
        "pip install 'semtok[hf]'"
    )
