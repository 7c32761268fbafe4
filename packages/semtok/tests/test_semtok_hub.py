"""Tokenizers to the hub and back: a local folder, and a faked endpoint on loopback."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from semtok import Catalog, CatalogError, LsaEmbedding, Tokenizer, load_tokenizer

pytest.importorskip("huggingface_hub")

COMMIT = "0123456789012345678901234567890123456789"
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
    with pytest.raises(TypeError, match="colour is no option"):
        HubTokenizer.from_pretrained(folder, colour="red")
    (folder / "codes.parquet").write_bytes(b"damaged")
    with pytest.raises(CatalogError, match="damaged, its digest differs"):
        HubTokenizer.from_pretrained(folder)


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a small folder takes: one repository, kept in memory."""

    protocol_version = "HTTP/1.1"
    files: dict[str, bytes]

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, value: object, status: int = 200) -> None:
        self.send(json.dumps(value).encode(), status)

    def send(self, data: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{sha1(data).hexdigest()}"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        address = f"http://{self.headers['Host']}/me/ids"
        if self.path == "/api/repos/create":
            self.answer({"url": address, "id": "me/ids"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.path == "/api/models/me/ids/preupload/main":
            wanted = json.loads(body)["files"]
            modes = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in wanted
            ]
            self.answer({"files": modes})
        elif self.path.startswith("/api/models/me/ids/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.files[line["value"]["path"]] = content
            self.answer({"commitUrl": f"{address}/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self.answer({"error": f"no {self.path}"}, 404)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/me/ids/tree/"):
            self.answer(
                [
                    {"type": "file", "path": name, "size": len(data), "oid": sha1(data).hexdigest()}
                    for name, data in self.files.items()
                ]
            )
        elif path in ("/api/models/me/ids", "/api/models/me/ids/revision/main"):
            names = [{"rfilename": name} for name in self.files]
            self.answer({"id": "me/ids", "sha": COMMIT, "siblings": names})
        elif path.startswith("/me/ids/resolve/") and path.split("/", 5)[5] in self.files:
            self.send(self.files[path.split("/", 5)[5]])
        else:
            self.answer({"error": f"no {self.path}"}, 404)

    do_HEAD = do_GET


@pytest.fixture
def hub() -> Iterator[tuple[str, dict[str, bytes]]]:
    """The address of a hub on loopback, and the files that it holds."""
    files: dict[str, bytes] = {}
    handler: Any = type("Handler", (Hub,), {"files": files})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", files
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_tokenizer_goes_to_the_hub_and_back(
    tokenizer: Tokenizer, tmp_path: Path, hub: tuple[str, dict[str, bytes]]
) -> None:
    from semtok import save_tokenizer

    address, files = hub
    save_tokenizer(tmp_path / "here", tokenizer)
    script = (
        "from semtok import load_tokenizer\n"
        "from semtok.hf import HubTokenizer\n"
        "HubTokenizer(load_tokenizer('here')).push_to_hub('me/ids', private=True)\n"
        "back = HubTokenizer.from_pretrained('me/ids')\n"
        "back.save_pretrained('back', push_to_hub=True, repo_id='me/ids')\n"
    )
    environment = {
        **os.environ,
        "HF_ENDPOINT": address,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_TOKEN": "hf_none",
        "NO_PROXY": "127.0.0.1",
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert {"README.md", "config.json", "codes.parquet", "quantizer/config.json"} <= files.keys()
    assert b"| Items | 40 |" in files["README.md"]
    assert not any(name.endswith((".pkl", ".bin", ".pt")) for name in files)
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
