"""Exchanges: the protocol in `base.py`, its implementation for Orderly Network in `orderly/` (live, testnet and paper)."""
