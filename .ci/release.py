"""One version for the five distributions: set it everywhere, or check that a tag names it.

    python .ci/release.py 0.2.0            # the pyprojects, CITATION.cff and CHANGELOG.md
    python .ci/release.py --check v0.2.0   # what the publishing workflow asks of its tag

It needs the standard library alone.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

VERSION = re.compile(r"\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?")
UNRELEASED = "## [Unreleased]\n"


def projects(root: Path) -> list[Path]:
    """The pyproject.toml of each distribution."""
    return sorted([*root.glob("packages/*/pyproject.toml"), root / "apps" / "pyproject.toml"])


def version_of(project: Path) -> str:
    """The version that a pyproject.toml says."""
    version: str = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"]
    return version


def replaced(path: Path, pattern: str, text: str) -> str:
    """The text of a file with the one match of a pattern replaced.

    Raises:
        SystemExit: If the pattern does not match once.
    """
    changed, count = re.subn(pattern, text, path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if count != 1:
        raise SystemExit(f"{path} must have one line like {pattern}, got {count}")
    return changed


def set_version(root: Path, version: str, date: str) -> None:
    """Writes a version into all files that name it; nothing is written if one of them cannot be.

    Raises:
        SystemExit: If the changelog has nothing to release, or a file lacks its line.
    """
    changelog = root / "CHANGELOG.md"
    _, heading, rest = changelog.read_text(encoding="utf-8").partition(UNRELEASED)
    news = re.split(r"^## ", rest, maxsplit=1, flags=re.MULTILINE)[0]
    if not heading or not news.strip():
        raise SystemExit("CHANGELOG.md must have something under [Unreleased]")
    changes = {
        path: replaced(path, r'^version = ".*"$', f'version = "{version}"')
        for path in projects(root)
    }
    citation = root / "CITATION.cff"
    changes[citation] = replaced(citation, r"^version: .*$", f"version: {version}")
    changes[changelog] = replaced(
        changelog, r"^## \[Unreleased\]$", f"{UNRELEASED}\n## [{version}] - {date}"
    )
    for path, text in changes.items():
        path.write_text(text, encoding="utf-8")


def disagreement(root: Path, tag: str) -> str:
    """Why a tag must not be published; empty if it may."""
    versions = {version_of(path) for path in projects(root)}
    if versions != {tag.removeprefix("v")} or not tag.startswith("v"):
        return f"the tag is {tag}, the distributions are of version {', '.join(sorted(versions))}"
    if f"## [{tag.removeprefix('v')}]" not in (root / "CHANGELOG.md").read_text(encoding="utf-8"):
        return f"CHANGELOG.md has no section [{tag.removeprefix('v')}]"
    return ""


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("version", help="as in 0.2.0, or the tag after --check")
    parser.add_argument("--check", action="store_true", help="compare, and change nothing")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1])
    arguments = parser.parse_args()
    if arguments.check:
        sys.exit(disagreement(arguments.root, arguments.version) or None)
    if not VERSION.fullmatch(arguments.version):
        sys.exit(f"the version must be like 0.2.0 or 0.2.0rc1, got {arguments.version}")
    set_version(arguments.root, arguments.version, f"{datetime.now(UTC):%Y-%m-%d}")


if __name__ == "__main__":
    main()
