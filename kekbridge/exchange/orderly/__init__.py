"""Orderly Network (live, testnet, paper): the implementation of `exchange.base.Exchange`."""
