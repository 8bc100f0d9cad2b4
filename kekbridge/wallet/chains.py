"""The chain that a wallet signs for at each venue, with what a wallet needs in order to add it (EIP-3085).

Nothing is sent to a chain: its id is only part of the signed messages. Ids: docs/internals/orderly.md section 3; addresses: Arbitrum's
documentation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Chain:
    """An EVM chain."""

    #: Chain id, as in EIP-155.
    chain_id: int
    name: str
    #: Public JSON-RPC endpoint.
    rpc_url: str
    explorer_url: str

    @property
    def hex_id(self) -> str:
        """The id as wallets write it, such as 0xa4b1."""
        return hex(self.chain_id)

    def to_add(self) -> dict[str, Any]:
        """The parameter of `wallet_addEthereumChain`."""
        return {
            "chainId": self.hex_id,
            "chainName": self.name,
            "nativeCurrency": {"name": "Ether", "symbol": "ETH", "decimals": 18},
            "rpcUrls": [self.rpc_url],
            "blockExplorerUrls": [self.explorer_url],
        }


ARBITRUM: Final = Chain(42161, "Arbitrum One", "https://arb1.arbitrum.io/rpc", "https://arbiscan.io")
ARBITRUM_SEPOLIA: Final = Chain(
    421614, "Arbitrum Sepolia", "https://sepolia-rollup.arbitrum.io/rpc", "https://sepolia.arbiscan.io"
)
#: By mode; any chain of the broker would do. Paper signs for the test network: a message for the main one is valid at the live exchange.
CHAINS: Final = {"paper": ARBITRUM_SEPOLIA, "testnet": ARBITRUM_SEPOLIA, "live": ARBITRUM}
