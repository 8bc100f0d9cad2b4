"""Where orders go: the Exchange protocol and the one Orderly client behind it (live, testnet and paper alike)."""
