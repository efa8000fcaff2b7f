"""The pages say what is: their links, commands, programs, settings, metrics and tables."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import subprocess
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest

from gpumarket import config
from gpumarket.cli.main import cli
from gpumarket.client.connection import KEYS
from gpumarket.protocol.catalog import CATALOG

ROOT = Path(__file__).resolve().parents[2]
GUIDES = sorted((ROOT / "docs/guides").glob("*.md"))
PAGES = [*GUIDES, ROOT / "docs/operations.md"]
COMMAND_PAGES = [
    *PAGES,
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "docs/threat-model.md",
]
ALL_PAGES = sorted(ROOT.glob("*.md")) + sorted(
    page
    for folder in ("docs", "examples", "tests")
    for page in (ROOT / folder).rglob("*.md")
    if "node_modules" not in page.parts
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(gpumarket [^`]+)`")
TABLES = "role|coordinator|provider|verifier|client"
CODE = re.compile(r"\bGM-\d{4}\b")
ROLE_METRICS = {
    "coordinator": "coordinator/service.py",
    "provider": "provider_node/api.py",
    "verifier": "verifier/service.py",
}


def read_page(name: str) -> str:
    return (ROOT / name).read_text()


def name_page(page: Path) -> str:
    return str(page.relative_to(ROOT))


# ---- links ---------------------------------------------------------------------------------


def make_anchor(heading: str) -> str:
    """Name a heading as GitHub does."""
    text = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return text.replace(" ", "-")


def list_anchors(page: Path) -> set[str]:
    without_code = FENCE.sub("", page.read_text())
    return {make_anchor(line) for line in re.findall(r"^#+ (.+)$", without_code, re.MULTILINE)}


@pytest.mark.parametrize("page", ALL_PAGES, ids=name_page)
def test_every_link_leads_to_a_file_and_its_heading(page: Path) -> None:
    faults = []
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path) if path else page
        if not found.exists() or (anchor and anchor not in list_anchors(found)):
            faults.append(target)
    assert not faults


# ---- commands and programs -----------------------------------------------------------------


def list_commands(page: Path) -> Iterator[str]:
    """Give each `gpumarket ...` line of the code blocks, and each between backticks."""
    text = page.read_text()
    for language, body in FENCE.findall(text):
        if language in ("", "sh", "bash", "console"):
            for line in body.splitlines():
                if re.match(r"\s*(\$ )?gpumarket ", line):
                    yield line.strip().removeprefix("$ ")
    yield from INLINE.findall(FENCE.sub("", text))


def check_command(line: str) -> None:
    """Parse a command line as click would, without running it; raises click's errors."""
    words = shlex.split(line, comments=True)[1:]
    found: click.Command = cli
    context = click.Context(cli, info_name="gpumarket")
    while isinstance(found, click.Group) and words:
        name, *words = words
        inner = found.get_command(context, name)
        if inner is None:
            raise click.UsageError(f"no command {name!r}")
        found, context = inner, click.Context(inner, info_name=name, parent=context)
    if not isinstance(found, click.Group) and words:
        found.make_context(str(found.name), list(words))
    for option in find_options(line):
        known = {name for parameter in found.params for name in parameter.opts}
        if option not in known:
            raise click.NoSuchOption(option)


def find_options(line: str) -> list[str]:
    return re.findall(r"(?<=\s)--[a-z][a-z-]*", line.partition(" #")[0])


@pytest.mark.parametrize("page", COMMAND_PAGES, ids=name_page)
def test_every_command_shown_exists_with_these_options(page: Path) -> None:
    faults = []
    for line in list_commands(page):
        try:
            check_command(line)
        except click.ClickException as error:
            faults.append(f"{line}: {error.format_message()}")
    assert not faults


@pytest.mark.parametrize("page", GUIDES, ids=name_page)
def test_every_guide_shows_commands(page: Path) -> None:
    assert list(list_commands(page))


def test_a_wrong_command_is_noticed() -> None:
    for line in ("gpumarket jobs", "gpumarket job list --bogus", "gpumarket job cancel"):
        with pytest.raises(click.ClickException):
            check_command(line + (" --yes" if line.endswith("cancel") else ""))


@pytest.mark.parametrize("page", [*COMMAND_PAGES], ids=name_page)
def test_every_program_shown_compiles_and_imports_what_exists(page: Path) -> None:
    for language, body in FENCE.findall(page.read_text()):
        if language != "python":
            continue
        for node in ast.walk(ast.parse(body)):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"


def test_every_code_named_in_a_page_is_in_the_catalog() -> None:
    faults = {
        f"{name_page(page)}: {code}"
        for page in ALL_PAGES
        for code in CODE.findall(page.read_text())
        if code not in CATALOG
    }
    assert not faults


# ---- settings ------------------------------------------------------------------------------


def list_keys(struct: type, prefix: str) -> Iterator[str]:
    """Name every key of a table; tables inside it by their own keys too."""
    for field in msgspec.structs.fields(struct):
        yield f"{prefix}.{field.name}"
        for inner in find_structs(field.type):
            yield from list_keys(inner, f"{prefix}.{field.name}")


def find_structs(annotation: object) -> Iterator[type]:
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        yield annotation
    elif isinstance(annotation, types.UnionType) or typing.get_origin(annotation):
        for argument in typing.get_args(annotation):
            yield from find_structs(argument)


def test_operations_explains_every_setting_and_no_other() -> None:
    page = read_page("docs/operations.md")
    documented = set(re.findall(rf"^\| `((?:{TABLES})\.[\w.]+)` \|", page, re.MULTILINE))
    existing = {
        *list_keys(config.RoleSettings, "role"),
        *list_keys(config.CoordinatorSettings, "coordinator"),
        *list_keys(config.ProviderSettings, "provider"),
        *list_keys(config.VerifierSettings, "verifier"),
        *(f"client.{key}" for key in KEYS),
    }
    assert documented == existing


def test_operations_gives_the_defaults_of_numbers() -> None:
    page = read_page("docs/operations.md")
    for struct, table in (
        (config.RoleSettings, "role"),
        (config.CoordinatorSettings, "coordinator"),
        (config.ProviderSettings, "provider"),
        (config.VerifierSettings, "verifier"),
    ):
        for field in msgspec.structs.fields(struct):
            if isinstance(field.default, int) and field.default < 10**6:
                assert f"| `{table}.{field.name}` | {field.default} |" in page


def test_operations_lists_every_metric_and_no_other() -> None:
    page = read_page("docs/operations.md")
    rows = re.findall(r"^\| `(gpumarket_\w+)` \| (\w+) \|", page, re.MULTILINE)
    existing = {
        (name, role)
        for role, place in ROLE_METRICS.items()
        for name in re.findall(r'"(gpumarket_\w+)"', read_page(place))
    }
    in_all = {name for name, _ in existing if (name, "coordinator") in existing}
    in_all &= {name for name, role in existing if role == "provider"}
    # What every role's watchtower counts.
    watched = re.findall(r'"(gpumarket_\w+)"', read_page("gpumarket/adapters/watch_service.py"))
    expected = {(name, "all" if name in in_all else role) for name, role in existing}
    expected |= {(name, "all") for name in watched}
    assert set(rows) == expected | {("gpumarket_build_info", "all")}


# ---- the house -----------------------------------------------------------------------------


def test_architecture_names_only_what_exists() -> None:
    """Paths with a slash are seen from the root, or from the folder that the sentence is about."""
    page = read_page("ARCHITECTURE.md")
    rooms = re.findall(r"^\| `([\w./]+)` \|", page, re.MULTILINE)
    paths = [name for name in re.findall(r"`([\w.-]+/[\w./-]*)`", page) if "..." not in name]
    places = ["", "gpumarket/", "tests/", "coordinator/", "docs/"]
    faults = [
        name
        for name in {*rooms, *paths}
        if not any((ROOT / place / name).exists() for place in places)
    ]
    assert rooms
    assert not faults


@pytest.mark.parametrize("page", ALL_PAGES, ids=name_page)
def test_every_file_named_in_a_page_exists(page: Path) -> None:
    rooms = "gpumarket|coordinator|provider_node|verifier|contracts|tests|scripts|examples|docs"
    named = re.findall(rf"(?<![\w./-])((?:{rooms})/[\w./-]*\w)", page.read_text())
    built = {"contracts/out", "contracts/cache", "contracts/node_modules"}
    faults = {
        name
        for name in named
        if name not in built and not (ROOT / name).exists() and not (page.parent / name).exists()
    }
    assert not faults


def test_architecture_names_no_python_file_that_is_gone() -> None:
    page = read_page("ARCHITECTURE.md")
    have = {path.name for room in ("gpumarket", "coordinator", "provider_node", "verifier", "tests")
            for path in (ROOT / room).rglob("*.py")}  # fmt: skip
    named = {Path(name).name for name in re.findall(r"`([\w./]+\.py)`", page)}
    assert named <= have


def test_the_state_tables_are_as_the_code_has_them() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/draw-states", "--check"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
