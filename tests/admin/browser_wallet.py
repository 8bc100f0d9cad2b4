"""A wallet for a page in Chromium: an EIP-1193 provider, announced by EIP-6963, that asks the test, and signs with eth-account.

It refuses what wallets refuse: a chain that it does not know (4902), typed data of another chain than its own, and what the test rejects.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from kekbridge.wallet import signing
from tests.admin.browser import Page

_PROVIDER = """
(() => {
  const waiting = new Map();
  let last = 0;
  window.answerWallet = (id, error, result) => {
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    error ? reject(Object.assign(new Error(error.message), { code: error.code })) : resolve(result);
  };
  const provider = {
    request: ({ method, params }) => new Promise((resolve, reject) => {
      waiting.set(++last, { resolve, reject });
      window.askWallet(JSON.stringify({ id: last, method, params: params ?? [] }));
    }),
  };
  const info = { uuid: "350670db-19fa-4704-a166-e52e178b59d2", name: "Test Wallet", icon: "data:,", rdns: "test.wallet" };
  const announce = () => dispatchEvent(
    new CustomEvent("eip6963:announceProvider", { detail: Object.freeze({ info, provider }) }));
  if (%s) { addEventListener("eip6963:requestProvider", announce); announce(); } else window.ethereum = provider;
})();
"""


class _Refused(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class BrowserWallet:
    """Its state, which tests change."""

    #: Private key, 64 hex digits. It never reaches the page.
    private_key: str
    #: The chain that it is on.
    chain_id: int = 1
    known_chains: set[int] = field(default_factory=lambda: {1})
    #: Methods that its owner rejects.
    rejects: set[str] = field(default_factory=set)
    #: Methods that the page called, oldest first.
    calls: list[str] = field(default_factory=list)
    #: Typed data that it signed.
    signed: list[dict[str, Any]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return signing.address_of(self.private_key).lower()  # as MetaMask returns it

    async def join(self, page: Page, *, announces: bool = True) -> None:
        """Be in every document that the page loads from now on: announced, or else as `window.ethereum`."""

        async def answer(payload: str) -> None:
            request = json.loads(payload)
            try:
                error, result = None, self._answer(request["method"], request["params"])
            except _Refused as refused:
                error, result = {"code": refused.code, "message": str(refused)}, None
            arguments = ", ".join(json.dumps(each) for each in (request["id"], error, result))
            await page.evaluate(f"answerWallet({arguments})")

        await page.expose("askWallet", answer)
        await page.call("Page.addScriptToEvaluateOnNewDocument", source=_PROVIDER % json.dumps(announces))

    def _answer(self, method: str, params: list[Any]) -> Any:
        self.calls.append(method)
        if method in self.rejects:
            raise _Refused(4001, "User rejected the request.")
        match method:
            case "eth_requestAccounts" | "eth_accounts":
                return [self.address]
            case "eth_chainId":
                return hex(self.chain_id)
            case "wallet_switchEthereumChain":
                wanted = int(params[0]["chainId"], 16)
                if wanted not in self.known_chains:
                    raise _Refused(4902, f"Unrecognized chain ID {params[0]['chainId']}.")
                self.chain_id = wanted
                return None
            case "wallet_addEthereumChain":
                assert params[0]["rpcUrls"][0].startswith("https://")
                self.known_chains.add(int(params[0]["chainId"], 16))
                return None
            case "eth_signTypedData_v4":
                address, typed = params[0], json.loads(params[1])
                assert address.lower() == self.address
                if typed["domain"]["chainId"] != self.chain_id:
                    raise _Refused(-32603, "Provided chainId must match the active chainId.")
                self.signed.append(typed)
                return signing.sign(typed, self.private_key)
            case _:
                raise _Refused(4200, f"The method {method} is not supported.")
