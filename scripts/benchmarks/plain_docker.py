"""
`docker run` with exactly what our sandbox would ask of the engine.

The command line is translated from the options that the sandbox itself builds, and an option
that has no translation here is an error: the two sides of a comparison cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from gpumarket.adapters.container_options import (
    SCRATCH_PATH,
    build_container_options,
    build_host_config,
)
from gpumarket.adapters.execution import RunRequest
from gpumarket.adapters.output_volume import OutputVolume

Translate = Callable[[Any], Iterable[str]]
SECCOMP: Final = "seccomp="


def build_run_command(
    request: RunRequest,
    volume: OutputVolume,
    *,
    image_env: tuple[str, ...],
    seccomp_path: Path,
    owner: str = "bench",
) -> list[str]:
    """Build the argument list of `docker run` for a request; writes the seccomp profile."""
    options = build_container_options(request, volume, image_env=image_env, owner=owner)
    image, command = options.pop("image"), options.pop("command")
    config = build_host_config(request, volume)
    config["security_opt"] = [_write_profile(text, seccomp_path) for text in config["security_opt"]]
    flags: list[str] = []
    for name, value in {**options, **config}.items():
        if value is not None:
            flags += _TRANSLATIONS[name](value)
    return ["docker", "run", "--rm", *flags, image, *command]


def _write_profile(option: str, path: Path) -> str:
    if not option.startswith(SECCOMP):
        return option
    # The API takes the profile's text, the command line its file.
    path.write_text(option.removeprefix(SECCOMP))
    return f"{SECCOMP}{path}"


def _flag(name: str) -> Translate:
    return lambda value: [f"--{name}={value}"]


def _each(name: str) -> Translate:
    return lambda values: [f"--{name}={value}" for value in values]


def _pairs(name: str) -> Translate:
    return lambda values: [f"--{name}={key}={value}" for key, value in values.items()]


def _switch(name: str) -> Translate:
    return lambda value: [f"--{name}={'true' if value else 'false'}"]


def _translate_entrypoint(words: list[str]) -> Iterable[str]:
    (program,) = words
    return [f"--entrypoint={program}"]


def _translate_ulimits(limits: list[Mapping[str, Any]]) -> Iterable[str]:
    return [f"--ulimit={one['name']}={one['soft']}:{one['hard']}" for one in limits]


def _translate_tmpfs(mounts: Mapping[str, str]) -> Iterable[str]:
    assert list(mounts) == [SCRATCH_PATH]
    return [f"--tmpfs={path}:{options}" for path, options in mounts.items()]


def _translate_log(config: Mapping[str, Any]) -> Iterable[str]:
    settings = [f"--log-opt={key}={value}" for key, value in config["config"].items()]
    return [f"--log-driver={config['type']}", *settings]


def _translate_mounts(mounts: list[Mapping[str, Any]]) -> Iterable[str]:
    return [
        f"--mount=type=bind,source={mount['Source']},target={mount['Target']}"
        + (",readonly" if mount["ReadOnly"] else "")
        for mount in mounts
    ]


def _translate_cpus(nano_cpus: int) -> Iterable[str]:
    return [f"--cpus={nano_cpus / 1_000_000_000:.3f}"]


def _translate_healthcheck(check: Mapping[str, list[str]]) -> Iterable[str]:
    assert check == {"test": ["NONE"]}
    return ["--no-healthcheck"]


def _translate_restart(policy: Mapping[str, str]) -> Iterable[str]:
    return [f"--restart={policy['Name']}"]


_TRANSLATIONS: Final[dict[str, Translate]] = {
    "name": _flag("name"),
    "entrypoint": _translate_entrypoint,
    "environment": _each("env"),
    "user": _flag("user"),
    "working_dir": _flag("workdir"),
    "hostname": _flag("hostname"),
    "healthcheck": _translate_healthcheck,
    "stop_signal": _flag("stop-signal"),
    "labels": _pairs("label"),
    "runtime": _flag("runtime"),
    "network_mode": _flag("network"),
    "read_only": _switch("read-only"),
    "cap_drop": _each("cap-drop"),
    "security_opt": _each("security-opt"),
    "pids_limit": _flag("pids-limit"),
    "mem_limit": _flag("memory"),
    "memswap_limit": _flag("memory-swap"),
    "mem_swappiness": _flag("memory-swappiness"),
    "oom_score_adj": _flag("oom-score-adj"),
    "nano_cpus": _translate_cpus,
    "cpu_shares": _flag("cpu-shares"),
    "tmpfs": _translate_tmpfs,
    "shm_size": _flag("shm-size"),
    "ipc_mode": _flag("ipc"),
    "cgroupns": _flag("cgroupns"),
    "init": _switch("init"),
    "ulimits": _translate_ulimits,
    "log_config": _translate_log,
    "restart_policy": _translate_restart,
    "mounts": _translate_mounts,
}
