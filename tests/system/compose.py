"""`docker compose` for tests, on Podman and Buildah: runs a compose.yaml where there is no Docker, and refuses keys that it does not know.

`python -m tests.system.compose compose COMMAND …` in the directory of the file. COMPOSE_BASE names the base image.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

_WITHIN_S = 120.0
_IGNORED = {
    "build",  # of the current directory, the only one that is written
    "restart",  # needs a service that looks after it
    "stop_grace_period",  # of `stop`
    "logging",  # Podman has another driver
    "networks",
}


class Project:
    """The bridge's service of one directory: container, volume and network are named after it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._name = f"kbtest-{directory.name}"
        text = re.sub(r"\$\{(\w+):-([^}]*)\}", self._variable, (directory / "compose.yaml").read_text())
        self._file: dict[str, Any] = yaml.safe_load(text)
        self._service: dict[str, Any] = self._file["services"]["bridge"]

    @staticmethod
    def _variable(match: re.Match[str]) -> str:
        return os.environ.get(match[1], match[2])

    def up(self, *, build: bool, wait: bool) -> None:
        """Build if asked for, then start a container, a new one if its image is new."""
        if build or not _quietly("podman", "image", "exists", self._name):
            _run(
                *("buildah", "bud", "--format", "docker", "--isolation", "chroot", "--network", "host", "--layers"),
                *("--build-arg", f"BASE={os.environ['COMPOSE_BASE']}", "--tag", self._name, str(self._directory)),
            )
        for configured in self._file["networks"]["default"]["ipam"]["config"]:
            if not _quietly("podman", "network", "exists", self._name):
                _run("podman", "network", "create", "--subnet", configured["subnet"], self._name)
        self.down(volumes=False)
        _podman("run", "--detach", "--name", self._name, *self._limits(), *self._ports(), self._name)
        deadline = time.monotonic() + _WITHIN_S
        while wait and not _quietly("podman", "healthcheck", "run", self._name):
            if time.monotonic() > deadline:
                self.logs()
                sys.exit(f"{self._name} is not healthy after {_WITHIN_S:.0f} s")
            time.sleep(0.5)

    def run(self, arguments: list[str], volumes: list[str]) -> None:
        """Run one command in a container of its own, without ports."""
        mounted = [word for each in volumes for word in ("--volume", each)]
        _podman("run", "--rm", *self._limits(), *mounted, self._name, *arguments)

    def exec(self, arguments: list[str]) -> None:
        """Run one command in the running container."""
        _run("podman", "exec", self._name, *arguments)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL after the time that the file gives."""
        _run("podman", "stop", "--time", self._service["stop_grace_period"].removesuffix("s"), self._name)

    def copy(self, source: str, target: str) -> None:
        """From the container, or into it."""
        places = (re.sub(r"^bridge:", f"{self._name}:", place) for place in (source, target))
        _run("podman", "cp", *places)

    def logs(self) -> None:
        """All that it has printed."""
        _run("podman", "logs", self._name)

    def inspect(self, template: str) -> None:
        """A value of the container, as Podman names it."""
        _run("podman", "inspect", "--format", template, self._name)

    def down(self, *, volumes: bool) -> None:
        """Remove the container, and if asked for what it has stored. The network stays."""
        _quietly("podman", "rm", "--force", "--time", "0", "--ignore", self._name)
        if volumes:
            for volume in self._file["volumes"]:
                _quietly("podman", "volume", "rm", "--force", f"{self._name}-{volume}")

    def _ports(self) -> list[str]:
        return [word for port in self._service["ports"] for word in ("--publish", port)]

    def _limits(self) -> list[str]:
        words = ["--network", self._name, "--read-only-tmpfs=false", "--ulimit", "nproc=4096:4096"]
        for key, value in self._service.items():
            words += [] if key in _IGNORED | {"ports"} else list(self._words(key, value))
        return words

    def _words(self, key: str, value: Any) -> Iterator[str]:
        """Podman's options for one key of the service."""
        match key:
            case "read_only":
                yield f"--read-only={str(value).lower()}"
            case "user":
                yield from ("--user", value)
            case "mem_limit":
                yield from ("--memory", value)
            case "pids_limit":
                yield from ("--pids-limit", str(value))
            case "cap_drop":
                yield from (word for each in value for word in ("--cap-drop", each))
            case "security_opt":  # Podman's spelling has no value
                yield from (word for each in value for word in ("--security-opt", each.partition(":")[0]))
            case "ulimits":
                yield from (word for name, most in value.items() for word in ("--ulimit", f"{name}={most}:{most}"))
            case "tmpfs":
                yield from (word for each in value for word in ("--tmpfs", each))
            case "environment":
                yield from (word for name, text in value.items() for word in ("--env", f"{name}={text}"))
            case "secrets":
                for name in value:
                    file = self._directory / self._file["secrets"][name]["file"]
                    yield from ("--volume", f"{file}:/run/secrets/{name}:ro")
            case "volumes":
                yield from (word for each in value for word in ("--volume", self._mount(each)))
            case _:
                sys.exit(f"compose.yaml: {key} is not known here; translate it in {__name__}")

    def _mount(self, volume: str | Mapping[str, Any]) -> str:
        if isinstance(volume, str):
            return f"{self._name}-{volume}"
        return f"{self._directory / volume['source']}:{volume['target']}:{'ro' if volume['read_only'] else 'rw'}"


def _podman(*arguments: str) -> None:
    # crun, Debian's default, does not run where both versions of cgroups are mounted.
    runtime = ["--runtime", "runc"] if Path("/sys/fs/cgroup/unified").exists() else []
    _run("podman", *runtime, *arguments)


def _run(*command: str) -> None:
    """Run it, with its output; its exit code ends this program."""
    code = subprocess.run(
        ["nice", "-n", "10", *command] if command[0] == "buildah" else command, check=False
    ).returncode
    if code:
        sys.exit(code)


def _quietly(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def main() -> None:
    """Read the command line as Docker Compose does."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="compose", required=True).add_parser("compose").add_subparsers(dest="command")
    up = commands.add_parser("up")
    up.add_argument("--build", action="store_true")
    up.add_argument("--wait", action="store_true")
    run = commands.add_parser("run")
    run.add_argument("--rm", action="store_true", required=True)
    run.add_argument("-v", dest="volumes", action="append", default=[])
    executing, copying = commands.add_parser("exec"), commands.add_parser("cp")
    for each in (run, executing):
        each.add_argument("service", choices=["bridge"])
        each.add_argument("arguments", nargs=argparse.REMAINDER)
    copying.add_argument("source")
    copying.add_argument("target")
    for name in ("stop", "logs"):
        commands.add_parser(name)
    commands.add_parser("down").add_argument("--volumes", action="store_true")
    commands.add_parser("inspect").add_argument("template")
    given = parser.parse_args()
    project = Project(Path.cwd())
    match given.command:
        case "up":
            project.up(build=given.build, wait=given.wait)
        case "run":
            project.run(given.arguments, given.volumes)
        case "exec":
            project.exec(given.arguments)
        case "cp":
            project.copy(given.source, given.target)
        case "inspect":
            project.inspect(given.template)
        case "down":
            project.down(volumes=given.volumes)
        case _:
            getattr(project, given.command)()


if __name__ == "__main__":
    main()
