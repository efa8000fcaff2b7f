"""Packages of Debian and PyPI, fetched by name and laid out without being installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

PYTHON = "python3.11"
ROOT = Path(__file__).resolve().parents[2]
UNWANTED = (
    *("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian"),
    *("usr/share/bash-completion", "usr/share/apps", "usr/share/binfmts", "usr/share/gdb"),
    *("usr/lib/x86_64-linux-gnu/gconv", "usr/lib/aarch64-linux-gnu/gconv"),
    *(f"usr/lib/{PYTHON}/{name}" for name in ("test", "idlelib", "lib2to3", "ensurepip")),
)


def run(*command: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a program, and stop with its own words when it fails."""
    done = subprocess.run(
        command, check=False, cwd=cwd, env=env, capture_output=True, text=True, timeout=600
    )
    if done.returncode != 0:
        words = done.stderr or done.stdout
        sys.exit(f"build-image: {' '.join(command[:3])} failed:\n{words[-2000:]}")
    return done.stdout


def find_debian_versions(names: Sequence[str]) -> dict[str, str]:
    """Ask the package index which version of each package would be taken now."""
    text = run("apt-cache", "policy", *names)
    found = dict(re.findall(r"^(\S+):\n.*\n  Candidate: (\S+)$", text, re.MULTILINE))
    return {name: found.get(name, "(none)") for name in names}


def read_debian_versions(names: Sequence[str]) -> dict[str, str]:
    """Return the version of each Debian package, fetching the package index where it is empty."""
    versions = find_debian_versions(names)
    if "(none)" in versions.values():
        run("apt-get", "update", "--quiet")
        versions = find_debian_versions(names)
    if missing := [name for name, version in versions.items() if version == "(none)"]:
        sys.exit(f"build-image: not in the package index (Debian 12): {' '.join(missing)}")
    return versions


def read_pypi_pins(names: Collection[str]) -> dict[str, str]:
    """Take each package's pin with its hashes out of requirements.lock."""
    lock = (ROOT / "requirements.lock").read_text()
    pins = {}
    for name in names:
        found = re.search(rf"^{name}==[^\\\n]*(?:\\\n[^\\\n]*)*", lock, re.MULTILINE)
        if found is None:
            sys.exit(f"build-image: {name} is not pinned in requirements.lock")
        pins[name] = found.group(0)
    return pins


def unpack_debian(root: Path, downloads: Path, versions: Mapping[str, str]) -> None:
    """Unpack Debian packages into `root` and drop what no job reads."""
    downloads.mkdir()
    wanted = [f"{name}={version}" for name, version in versions.items()]
    run("apt-get", "download", "--quiet", *wanted, cwd=downloads)
    root.mkdir()
    for package in sorted(downloads.glob("*.deb")):
        run("dpkg-deb", "-x", str(package), str(root))
    for name in UNWANTED:
        shutil.rmtree(root / name, ignore_errors=True)


def install_pypi(site: Path, pinned: Path, pins: Mapping[str, str]) -> None:
    """Install PyPI packages into `site` without tests and caches; `pinned` is a file to write."""
    site.mkdir(parents=True)
    pinned.write_text("\n".join(pins.values()) + "\n")
    run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"),
        *("--only-binary", ":all:", "--implementation", "cp", "--python-version", "3.11"),
        *("--require-hashes", "--target", str(site), "--requirement", str(pinned)),
    )
    for pattern in ("**/tests", "**/__pycache__", "bin"):
        for folder in list(site.glob(pattern)):
            shutil.rmtree(folder)
    for pattern in ("*.dist-info/RECORD", "*.dist-info/direct_url.json", "**/*.a", "**/*.pyi"):
        for path in list(site.glob(pattern)):
            path.unlink()


def run_in_layers(roots: Sequence[Path], *command: str, modules: Path | None = None) -> None:
    """
    Run a program of the image; `roots` are its layers, the one with Python first.

    It is started through the image's own loader, so neither root nor matching libraries on this
    machine are needed. `modules` is where Python finds more modules than its own.
    """
    system = roots[0]
    # Where a loader looks that no configuration tells otherwise.
    folders = [root / name for root in roots for name in ("lib", "usr/lib")]
    libraries = [path for folder in folders for path in (folder, *folder.glob("*-linux-gnu"))]
    program = next(root / command[0] for root in roots if (root / command[0]).exists())
    run(
        *(str(next(system.glob("lib*/**/ld-linux-*.so.*"))), "--library-path"),
        *(":".join(map(str, libraries)), str(program), *command[1:]),
        env={
            "PYTHONHOME": str(system / "usr"),
            "PYTHONPATH": str(modules or ""),
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",  # else importing compileall leaves dated caches
        },
    )


def compile_modules(system: Path, layer: Path, modules: str) -> None:
    """
    Compile a layer's modules beforehand; a job's root is read-only, it never could.

    Unchecked hashes instead of times keep the bytes equal.
    """
    folder = layer / modules
    run_in_layers(
        [system],
        *(
            f"usr/bin/{PYTHON}",
            "-S",
            "-m",
            "compileall",
            "-q",
            "--invalidation-mode",
            "unchecked-hash",
        ),
        *("-s", str(layer), "-p", "/", str(folder)),
    )
