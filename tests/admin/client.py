"""A client of the JSON API of a running bridge, and the description that its answers are checked against."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import aiohttp
import yaml
from jsonschema import Draft202012Validator

from kekbridge.ops.web_token import read_token
from kekbridge.store.daemon_addresses import admin_address
from tests.bridge import Bridge
from tests.paths import ROOT


@cache
def description() -> dict[str, Any]:
    """The OpenAPI document."""
    text = (ROOT / "kekbridge" / "docs" / "api.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


@dataclass
class ApiClient:
    """Sends requests with the bearer token; every answer is checked against the OpenAPI document."""

    bridge: Bridge
    url: str
    token: str
    #: Without cookies: a session of its own has them.
    session: aiohttp.ClientSession

    @classmethod
    def of(cls, bridge: Bridge) -> ApiClient:
        with bridge.daemon.database.snapshot() as connection:
            url = admin_address(connection)
        token = read_token(bridge.data_dir)
        assert url is not None
        assert token is not None
        return cls(bridge, url, token, bridge.session)

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        raw: bytes | None = None,
    ) -> tuple[int, Any]:
        """Status and JSON of one request; `raw`: a body that is not JSON or not written by a serializer."""
        sent = {"Authorization": f"Bearer {self.token}", **(headers or {})}
        options: dict[str, Any] = {"json": body} if body is not None else {}
        if raw is not None:
            options = {"data": raw}
            sent.setdefault("Content-Type", "application/json")
        async with self.session.request(method, self.url + path, headers=sent, **options) as answer:
            data = await answer.json()
            check(method, path, answer.status, data)
            return answer.status, data

    async def get(self, path: str, status: int = 200) -> Any:
        found, data = await self.call("GET", path)
        assert found == status, data
        return data


def check(method: str, path: str, status: int, data: Any) -> None:
    """Assert that an answer is described: its path, its status, and a body that fits the schema."""
    place = path_of(path)
    if place is None:
        assert status in (401, 403, 404), f"{path} is not described"
        pointer = "#/components/schemas/Error"
    elif method.lower() not in description()["paths"][place]:
        assert status == 405, f"{method} {place} is not described"
        pointer = "#/components/schemas/Error"
    else:
        responses = description()["paths"][place][method.lower()]["responses"]
        assert str(status) in responses or "4XX" in responses, f"{method} {place}: {status} is not described"
        pointer = f"#/paths/{escape(place)}/{method.lower()}/responses/{status}/content/application~1json/schema"
        if str(status) not in responses or "$ref" in responses[str(status)]:
            pointer = "#/components/schemas/Error"
    schema = {"$ref": pointer, "paths": description()["paths"], "components": description()["components"]}
    Draft202012Validator(schema).validate(data)


def path_of(path: str) -> str | None:
    """The described path that a request's path belongs to; one without parameters comes first."""
    plain = path.partition("?")[0]
    for place in sorted(description()["paths"], key=lambda one: one.count("{")):
        if re.fullmatch(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(place)), plain):
            return str(place)
    return None


def escape(pointer: str) -> str:
    """A name as a part of a JSON pointer in a URI's fragment."""
    return pointer.replace("~", "~0").replace("/", "~1").replace("{", "%7B").replace("}", "%7D")
