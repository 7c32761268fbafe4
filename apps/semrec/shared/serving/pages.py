"""The page for people, `GET /`: one template, one stylesheet, one script, no other hosts.

The page contains nothing of the run and needs no token. It requests its content from the paths that
need the token.
"""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter
from fastapi.requests import Request
from fastapi.responses import Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from semrec.shared.serving.gate import PAGE_FILES

_POLICY = "; ".join(
    (
        "default-src 'none'",
        *(f"{kind}-src 'self'" for kind in ("connect", "img", "script", "style")),
        *(f"{kind} 'none'" for kind in ("base-uri", "form-action", "frame-ancestors")),
    )
)
_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_TEMPLATES = Environment(
    loader=PackageLoader(__package__, "page"), autoescape=True, undefined=StrictUndefined
)

router = APIRouter(include_in_schema=False)


@router.get("/")
async def page(request: Request) -> Response:
    """The page."""
    content = _TEMPLATES.get_template("page.html").render(
        title="Recommendations", needs_token=request.app.state.has_token
    )
    return Response(content, media_type="text/html", headers=_HEADERS)


def _add_file(name: str, media_type: str) -> None:
    content = files(__package__).joinpath("page", name).read_bytes()

    async def file() -> Response:
        return Response(content, media_type=media_type, headers=_HEADERS)

    router.add_api_route(f"/{name}", file)


for _name, _media_type in PAGE_FILES.items():
    _add_file(_name, _media_type)
