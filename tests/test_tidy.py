"""
The house style in numbers. Each test names one rule and lists every place that breaks it.

What ruff, mypy and import-linter can say themselves is not said again here. To bend a rule for one
file, add it to the rule's allow-list with the reason; there is no other way.
"""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PRODUCTION = ("gpumarket", "coordinator", "provider_node", "verifier")

FILE_LINES_MAX = 500
TEST_FILE_LINES_MAX = 800
FUNCTION_LINES_MAX = 60
FUNCTION_LINES_MEDIAN_MAX = 10
POSITIONAL_MAX = 3
BANNED_NAMES = frozenset(
    """
    utils util helpers helper common misc base models manager managers services types constants
    """.split()
)
ROOT_ENTRIES = frozenset(
    """
    .ci .gitattributes .gitignore .pre-commit-config.yaml ARCHITECTURE.md CHANGELOG.md
    CONTRIBUTING.md LICENSE README.md SECURITY.md contracts coordinator deploy docs examples
    gpumarket provider_node pyproject.toml requirements.lock scripts tests verifier
    """.split()
)
BROAD_EXCEPT_ALLOWED = {
    "gpumarket/adapters/p2p.py": "the guard: no frame from a peer may end the host",
    "gpumarket/adapters/network.py": "the supervisor: whatever kills a host, the node comes back",
    "gpumarket/cli/main.py": "the last line: an unknown error becomes a report and exit 1",
}
FLOAT_ALLOWED = {
    "gpumarket/protocol/codec.py": "names the type in order to refuse it",
}
BRITISH = re.compile(
    r"\b(behaviour|colour|honour|favour|neighbour|licence|centre|defence|cheque"
    r"|(serial|initial|normal|optim|recogn|organ|author|summar|minim|maxim|final|util)"
    r"is(e|es|ed|ing|ation))\w*",
    re.IGNORECASE,
)
# Absolute homes and work folders, and package sources by host: a tool's own settings name those.
MACHINE = re.compile(
    r"(^|[\s\"'=(])/(work|root|home)/|\.\./shared\b"
    r"|\b[\w.-]*(pypi|pythonhosted|npmjs|debian)[\w-]*\.(org|com|io)\b"
)
UNFINISHED = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")
SILENCED = re.compile(r"#\s*(?:noqa|type:\s*ignore|pragma)\b.*")
SILENCED_WELL = re.compile(
    r"#\s*(?:noqa:\s*[A-Z]+\d+(?:,\s*[A-Z]+\d+)*|type:\s*ignore\[[\w,\- ]+\]|pragma: no cover)"
    r"\s+#?\s*\(?\w"
)


@cache
def list_files() -> tuple[str, ...]:
    """Name every file that is in git or would be added to it."""
    listing = subprocess.run(
        [
            "git",
            "-c",
            "safe.directory=*",
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return tuple(sorted({name for name in listing.stdout.split("\0") if (ROOT / name).is_file()}))


def list_python(*, production_only: bool = False) -> list[str]:
    """Name the Python files, programs without a suffix included."""
    return [
        name
        for name in list_files()
        if (name.endswith(".py") or is_python_program(name))
        and (not production_only or name.startswith(tuple(f"{room}/" for room in PRODUCTION)))
    ]


def is_python_program(name: str) -> bool:
    """Tell from the first line whether a file in scripts/ is Python."""
    return name.startswith("scripts/") and b"python" in read_bytes(name).partition(b"\n")[0]


@cache
def read_bytes(name: str) -> bytes:
    return (ROOT / name).read_bytes()


def read_lines(name: str) -> list[str]:
    return read_bytes(name).decode().splitlines()


@cache
def parse(name: str) -> ast.Module:
    return ast.parse(read_bytes(name), filename=name)


def read_texts() -> Iterator[tuple[str, int, str]]:
    """Give each line of each text file; locks and this file are left out."""
    for name in list_files():
        data = read_bytes(name)
        if b"\0" in data or name.endswith((".lock", "-lock.json", "LICENSE")):
            continue
        if name == "tests/test_tidy.py" or name.startswith(
            ("contracts/abi/", "contracts/snapshots/")
        ):
            continue
        for number, line in enumerate(data.decode().splitlines(), start=1):
            yield name, number, line


type_of_function = ast.FunctionDef | ast.AsyncFunctionDef


def list_functions(name: str) -> list[type_of_function]:
    return [node for node in ast.walk(parse(name)) if isinstance(node, type_of_function)]


def count_lines(function: type_of_function) -> int:
    """Count the lines of a function without its docstring."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def fail_with(faults: list[str], rule: str) -> None:
    """Fail with every place at once."""
    if faults:
        pytest.fail(f"{rule}:\n  " + "\n  ".join(faults), pytrace=False)


def test_files_are_short() -> None:
    faults = []
    for name in list_files():
        if not name.endswith((".py", ".sol")) and not name.startswith("scripts/"):
            continue
        is_test = name.startswith(("tests/", "contracts/test/"))
        limit = TEST_FILE_LINES_MAX if is_test else FILE_LINES_MAX
        if (lines := len(read_lines(name))) > limit:
            faults.append(f"{name}: {lines} lines, at most {limit}")
    fail_with(faults, "a file is one thought")


def test_functions_are_short() -> None:
    faults = [
        f"{name}:{function.lineno}: {function.name} has {count_lines(function)} lines"
        for name in list_python()
        for function in list_functions(name)
        if count_lines(function) > FUNCTION_LINES_MAX
    ]
    fail_with(faults, f"a function has at most {FUNCTION_LINES_MAX} lines")


def test_the_middle_function_has_ten_lines_or_less() -> None:
    lengths = [
        count_lines(function)
        for name in list_python(production_only=True)
        for function in list_functions(name)
    ]
    assert statistics.median(lengths or [0]) <= FUNCTION_LINES_MEDIAN_MAX


def test_more_than_three_parameters_are_named_by_the_caller() -> None:
    faults = []
    for name in list_python(production_only=True):
        for function in list_functions(name):
            own = function.args.posonlyargs + function.args.args
            own = [arg for arg in own if arg.arg not in ("self", "cls")]
            is_private = function.name.startswith("_")
            if len(own) > POSITIONAL_MAX and not is_private and not function.decorator_list:
                faults.append(f"{name}:{function.lineno}: {function.name} takes {len(own)}")
    fail_with(faults, f"at most {POSITIONAL_MAX} parameters by position, the others by keyword")


def test_files_are_named_after_the_domain() -> None:
    faults = [
        name
        for name in list_files()
        if name.endswith((".py", ".sol"))
        and any(part.lower() in BANNED_NAMES for part in Path(name).with_suffix("").parts)
    ]
    fail_with(faults, "a name that says nothing gathers everything")


def test_public_methods_are_described_here_or_in_their_protocol() -> None:
    in_a_protocol: set[str] = set()
    bare: list[tuple[str, str, int]] = []
    for name in list_python(production_only=True):
        for owner in (node for node in ast.walk(parse(name)) if isinstance(node, ast.ClassDef)):
            is_protocol = any("Protocol" in ast.unparse(parent) for parent in owner.bases)
            for method in owner.body:
                if not isinstance(method, type_of_function) or method.name.startswith("_"):
                    continue
                if ast.get_docstring(method) is None and not owner.name.startswith("_"):
                    bare.append((name, f"{owner.name}.{method.name}", method.lineno))
                elif is_protocol:
                    in_a_protocol.add(method.name)
    faults = [
        f"{name}:{line}: {method}"
        for name, method, line in bare
        if method.partition(".")[2] not in in_a_protocol
    ]
    fail_with(faults, "a public method has a docstring, or implements a Protocol that has")


def test_nothing_is_caught_blindly() -> None:
    faults = []
    for name in list_python(production_only=True):
        for node in ast.walk(parse(name)):
            if not isinstance(node, ast.ExceptHandler) or not is_broad(node):
                continue
            last = node.body[-1]
            is_passed_on = isinstance(last, ast.Raise)
            if not is_passed_on and name not in BROAD_EXCEPT_ALLOWED:
                faults.append(f"{name}:{node.lineno}")
    fail_with(faults, "catch what you can name; supervisors are in BROAD_EXCEPT_ALLOWED")


def is_broad(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(
        isinstance(one, ast.Name) and one.id in ("Exception", "BaseException") for one in caught
    )


def test_each_broad_except_says_why() -> None:
    faults = []
    for name in BROAD_EXCEPT_ALLOWED.keys() & set(list_files()):
        lines = read_lines(name)
        for node in ast.walk(parse(name)):
            if isinstance(node, ast.ExceptHandler) and is_broad(node):
                around = lines[node.lineno - 2 : node.lineno + 1]
                if not any("#" in line for line in around):
                    faults.append(f"{name}:{node.lineno}")
    fail_with(faults, "a broad except has a comment on, above or below its line")


def test_money_and_meaning_are_never_floats() -> None:
    faults = []
    for name in list_python(production_only=True):
        if not name.startswith("gpumarket/protocol/") and "/core/" not in name:
            continue
        if name in FLOAT_ALLOWED:
            continue
        for node in ast.walk(parse(name)):
            is_literal = isinstance(node, ast.Constant) and isinstance(node.value, float)
            if is_literal or (isinstance(node, ast.Name) and node.id == "float"):
                faults.append(f"{name}:{node.lineno}")  # type: ignore[attr-defined]  # both have one
    fail_with(faults, "protocol/ and core/ count in integers; see FLOAT_ALLOWED")


def test_no_module_keeps_changing_state() -> None:
    faults = []
    for name in list_python(production_only=True):
        for node in parse(name).body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
            for target in targets:
                value = getattr(node, "value", None)
                is_mutable = isinstance(value, ast.List | ast.Dict | ast.Set)
                if is_mutable and isinstance(target, ast.Name) and not target.id.isupper():
                    if target.id != "__all__" and not target.id.lstrip("_").isupper():
                        faults.append(f"{name}:{node.lineno}: {target.id}")
    fail_with(faults, "module-level tables are constants, in capitals")


def test_a_silenced_check_names_itself_and_its_reason() -> None:
    faults = []
    for name in list_python():
        if name == "tests/test_tidy.py":
            continue
        for number, line in enumerate(read_lines(name), start=1):
            faults += [
                f"{name}:{number}: {silenced}"
                for silenced in SILENCED.findall(line)
                if not SILENCED_WELL.match(silenced)
            ]
    fail_with(faults, "write  # noqa: CODE  reason   or   # type: ignore[code]  # reason")


def test_nothing_unfinished_is_left_in_the_text() -> None:
    faults = [f"{name}:{number}" for name, number, line in read_texts() if UNFINISHED.search(line)]
    fail_with(faults, "open ends belong in the tracker")


def test_no_machine_and_no_registry_is_named() -> None:
    faults = [
        f"{name}:{number}: {line.strip()[:80]}"
        for name, number, line in read_texts()
        if MACHINE.search(line)
    ]
    fail_with(faults, "the tree works on any machine, with its own package sources")


def test_spelling_is_american() -> None:
    faults = [
        f"{name}:{number}: {found.group()}"
        for name, number, line in read_texts()
        if (found := BRITISH.search(line))
    ]
    fail_with(faults, "American spelling, except CANCELLED")


def test_the_root_holds_only_what_it_should() -> None:
    entries = {name.partition("/")[0] for name in list_files()}
    fail_with(sorted(entries - ROOT_ENTRIES), "the root of the repository is a fixed list")


def test_programs_can_be_started() -> None:
    faults = [
        name
        for name in list_files()
        if name.startswith(("scripts/", ".ci/")) and "." not in Path(name).name
        if not (ROOT / name).stat().st_mode & 0o100 or not read_bytes(name).startswith(b"#!")
    ]
    fail_with(faults, "a program has a first line that names its interpreter, and may be executed")


def test_the_changelog_knows_this_version() -> None:
    version = tomllib.loads(read_bytes("pyproject.toml").decode())["project"]["version"]
    assert f"## [{version}]" in read_bytes("CHANGELOG.md").decode()


def test_links_between_pages_lead_somewhere() -> None:
    faults = []
    for name in list_files():
        if not name.endswith(".md"):
            continue
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", read_bytes(name).decode()):
            if "://" in target or target.startswith("mailto:"):
                continue
            if not ((ROOT / name).parent / target).exists():
                faults.append(f"{name}: {target}")
    fail_with(faults, "a link between pages points at a file")


def test_the_architecture_page_names_every_room() -> None:
    page = read_bytes("ARCHITECTURE.md").decode()
    rooms = {str(Path(name).parent) for name in list_python(production_only=True)}
    rooms |= {name.partition("/")[0] for name in list_files() if "/" in name}
    faults = [room for room in sorted(rooms) if Path(room).name not in page]
    fail_with(faults, "a folder without a sentence in ARCHITECTURE.md")


def test_the_architecture_page_names_no_file_that_is_gone() -> None:
    page = read_bytes("ARCHITECTURE.md").decode()
    named = re.findall(r"`([\w./-]+/[\w.-]+\.(?:py|sol|md|toml))`", page)
    rooted = [name for name in named if name.partition("/")[0] in ROOT_ENTRIES]
    fail_with([name for name in rooted if not (ROOT / name).exists()], "no such file")
