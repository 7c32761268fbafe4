"""What tests of all parts use; they check the shapes and types in the libraries' signatures."""

from __future__ import annotations

import base64
import importlib
import importlib.util
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote

import jaxtyping
import pytest


def _import_torchvision() -> None:
    """Import torchvision beside a torch that it was not built for.

    It then cannot register its own operators, which no image embedding needs: their schemas are
    declared in their place.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
        from torch import library

        boxes = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        for name in ("torchvision::nms", "torchvision::qnms"):
            library.define(name, boxes)
        for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[module]
        importlib.import_module("torchvision")


if importlib.util.find_spec("open_clip") is not None:  # the environment of `make image`
    _import_torchvision()

# Not by jaxtyping's own pytest option, which cannot read a checker's name with parentheses.
jaxtyping.install_import_hook(
    ["semtok", "fusion", "genrec", "evalrec"],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Switches the checks off, so that a refusal is met as a user meets it."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def page_module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Makes a module of docs/own_parts.md, such as "mypackage.lsh", importable during a test."""
    page = (Path(__file__).parent / "docs/own_parts.md").read_text(encoding="utf-8")

    def page_module(name: str) -> ModuleType:
        fence = f"```python {name.replace('.', '/')}.py\n"
        source = page.split(fence)[1].split("\n```")[0]
        module = ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        exec(compile(source, name, "exec"), module.__dict__)
        return module

    return page_module


@dataclass(frozen=True, kw_only=True)
class FakeHub:
    """A hub on loopback that takes any repository of models.

    Attributes:
        files: What it holds, by the names in the one repository that a test uses.
        environment: Under which a process takes it for the Hugging Face hub.
    """

    files: dict[str, bytes]
    environment: dict[str, str]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    """As much of the Hugging Face hub as a folder takes on its way there and back."""
    files: dict[str, bytes] = {}
    handler = type("Handler", (_HubHandler,), {"files": files})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        environment = {
            **os.environ,
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(tmp_path / "home-of-the-hub"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_TOKEN": "hf_none",
            "NO_PROXY": "127.0.0.1",
        }
        yield FakeHub(files=files, environment=environment)
        server.shutdown()
        thread.join()


class _HubHandler(BaseHTTPRequestHandler):
    """Requests of huggingface_hub: make a repository, put files there, list them, get them."""

    commit = "0123456789012345678901234567890123456789"
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
        self.send_header("X-Repo-Commit", self.commit)
        if status == 404:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("ETag", f'"{sha1(data).hexdigest()}"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        address = f"http://{self.headers['Host']}"
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            name = "/".join(filter(None, (wanted.get("organization"), wanted["name"])))
            self.answer({"url": f"{address}/{name}", "id": name})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            mode = {"uploadMode": "regular", "shouldIgnore": False}
            self.answer({"files": [{"path": name, **mode} for name in names]})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.files[line["value"]["path"]] = content
            name = "/".join(self.path.split("/")[3:5])
            url = f"{address}/{name}/commit/{self.commit}"
            self.answer({"commitUrl": url, "commitOid": self.commit})
        else:
            self.answer({"error": f"no {self.path}"}, 404)

    def do_GET(self) -> None:
        _, *parts = unquote(self.path.partition("?")[0]).split("/")
        name = "/".join(parts[4:])
        if parts[2:3] == ["resolve"] and name in self.files:  # OWNER/NAME/resolve/REVISION/FILE
            self.send(self.files[name])
        elif parts[:2] == ["api", "models"] and "tree" in parts:
            listed: list[dict[str, Any]] = [
                {"type": "file", "path": name, "size": len(data), "oid": sha1(data).hexdigest()}
                for name, data in self.files.items()
            ]
            self.answer(listed)
        elif parts[:2] == ["api", "models"]:
            siblings = [{"rfilename": name} for name in self.files]
            self.answer({"id": "/".join(parts[2:4]), "sha": self.commit, "siblings": siblings})
        else:
            self.answer({"error": f"no {self.path}"}, 404)

    do_HEAD = do_GET
