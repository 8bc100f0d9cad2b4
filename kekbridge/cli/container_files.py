"""Texts of the container image and of its Compose file. Pure.

The image holds the program only, runs as a fixed user without rights, and needs to write nowhere but in its volume and `/tmp`. What opens
it to others is in the Compose file, beside the ports that it publishes on loopback: the image alone listens on the container's loopback.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: User and group that the container runs as; no user of the host, and none of the base image.
USER_ID: Final = 10_001
DOCKERFILE: Final = "Dockerfile"
COMPOSE: Final = "compose.yaml"
SETTINGS: Final = "kekbridge.toml"
REQUIREMENTS: Final = "requirements.txt"
IGNORE: Final = ".dockerignore"
#: Name of the executable in the image and beside the Dockerfile.
PROGRAM: Final = "kekbridge"
#: The one secret that must be given; what commands add later is sealed under it in the volume.
MASTER_KEY_FILE: Final = "secrets/master-key"
#: Base image with the Python that the requirements were tested with; of the executable, which brings its own.
PYTHON_BASE: Final = "docker.io/library/python:3.11-slim"
PLAIN_BASE: Final = "docker.io/library/debian:stable-slim"

# `pip` is not needed at run time. Only wheels: what has none would be built by downloaded code that no hash covers.
_PACKAGE: Final = """\
ARG BASE={base}

FROM ${{BASE}} AS build
COPY {requirements} {wheel} /build/
WORKDIR /build
# The versions that were tested, by the hashes of their files.
RUN python3 -m venv /opt/kekbridge \\
 && /opt/kekbridge/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --only-binary :all: \\
    --require-hashes --requirement {requirements} \\
 && /opt/kekbridge/bin/pip uninstall --quiet --yes setuptools pip

FROM ${{BASE}}
COPY --from=build /opt/kekbridge /opt/kekbridge
"""
_EXECUTABLE: Final = """\
ARG BASE={base}

FROM ${{BASE}}
COPY --chmod=755 {program} /opt/kekbridge/bin/{program}
"""
_REST: Final = """\
RUN echo "kekbridge:x:{user}:{user}::/data:/usr/sbin/nologin" >>/etc/passwd \\
 && echo "kekbridge:x:{user}:" >>/etc/group \\
 && mkdir -m 0700 /data \\
 && chown {user}:{user} /data
LABEL org.opencontainers.image.title="kekbridge" org.opencontainers.image.version="{version}"
ENV PATH=/opt/kekbridge/bin:$PATH \\
    HOME=/data \\
    container=docker \\
    KEKBRIDGE_DATA_DIR=/data \\
    KEKBRIDGE_VAULT_SECRETS_DIR=/run/secrets
USER {user}:{user}
WORKDIR /data
VOLUME /data
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=20s --start-period=60s --retries=3 CMD ["kekbridge", "health"]
ENTRYPOINT ["kekbridge"]
CMD ["serve"]
"""

# The limits are those of the systemd unit (cli/units.py). The network is the bridge's own, so that its addresses can be believed as those
# of proxies: the host's, from which published ports are reached, and those of containers that are added here.
_COMPOSE: Final = """\
# The bridge, reachable from this machine only: alerts on port 8080, web pages on port 8081. Put a TLS proxy or a tunnel in front of 8080.
# For a second bridge on this machine use another directory, with other ports and another network in its file .env:
# BRIDGE_PORT=9080, BRIDGE_PAGES_PORT=9081, BRIDGE_NETWORK=172.30.81.0/28
services:
  bridge:
    build: .
    restart: unless-stopped
    stop_grace_period: 30s
    user: "{user}:{user}"
    read_only: true
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    pids_limit: 128
    mem_limit: {memory}
    ulimits:
      nofile: 16384
    tmpfs: ["/tmp:{tmpfs},nosuid,nodev,mode=1777"]
    environment:
      KEKBRIDGE_CONFIG: /etc/kekbridge.toml
      # These listen in the container; who reaches them is decided by `ports`.
      KEKBRIDGE_SERVER_HOST: 0.0.0.0
      KEKBRIDGE_SERVER_BEHIND_PROXY: "true"
      KEKBRIDGE_SERVER_TRUSTED_PROXIES: ${{BRIDGE_NETWORK:-{network}}}
      KEKBRIDGE_ADMIN_HOST: 0.0.0.0
      KEKBRIDGE_ADMIN_IN_CONTAINER: "true"
    ports:
      - "127.0.0.1:${{BRIDGE_PORT:-8080}}:8080"
      - "127.0.0.1:${{BRIDGE_PAGES_PORT:-8081}}:8081"
    volumes:
      - data:/data
      - type: bind
        source: ./{settings}
        target: /etc/kekbridge.toml
        read_only: true
        bind:
          create_host_path: false
    secrets: [master-key]
    logging:
      driver: json-file
      options:
        max-size: 10m
        max-file: "5"

secrets:
  master-key:
    file: ./{master_key}

volumes:
  data:

networks:
  default:
    ipam:
      config:
        - subnet: ${{BRIDGE_NETWORK:-{network}}}
"""
_NETWORK: Final = "172.30.80.0/28"

#: What the settings file holds if the trader has none yet.
FIRST_SETTINGS: Final = """\
# Settings of the bridge: `kekbridge docs settings`. After a change: docker compose restart
mode = "paper"
"""


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """What the texts depend on."""

    #: Version of kekbridge in the image.
    version: str
    #: File name of the wheel beside the Dockerfile; None: the one-file executable, under the name PROGRAM.
    wheel: str | None


def container_texts(settings: ImageSettings) -> dict[str, str]:
    """Dockerfile, Compose file and .dockerignore by file name."""
    is_package = settings.wheel is not None
    head = (_PACKAGE if is_package else _EXECUTABLE).format(
        base=PYTHON_BASE if is_package else PLAIN_BASE,
        requirements=REQUIREMENTS,
        wheel=settings.wheel,
        program=PROGRAM,
    )
    needed = (REQUIREMENTS, "*.whl") if is_package else (PROGRAM,)
    return {
        DOCKERFILE: head + _REST.format(user=USER_ID, version=settings.version),
        COMPOSE: _COMPOSE.format(
            user=USER_ID,
            network=_NETWORK,
            settings=SETTINGS,
            master_key=MASTER_KEY_FILE,
            # The executable unpacks itself there at each start, also for each command beside it, and runs what it has unpacked.
            tmpfs="noexec,size=64m" if is_package else "exec,size=512m",
            memory="512m" if is_package else "1g",
        ),
        # Secrets and settings must not get into the image, nor into what is sent to a remote builder.
        IGNORE: "".join(f"{line}\n" for line in ("*", *(f"!{name}" for name in needed))),
    }
