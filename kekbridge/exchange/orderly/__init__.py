"""Orderly Network: REST client, private stream and account state behind `exchange.base.Exchange`."""
