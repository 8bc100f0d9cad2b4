"""Paper exchange: an Orderly-compatible exchange with play money, with the same paths, signatures, rules and streams.

Start it with `server.PaperExchange`. It imports nothing from the client that is tested against it.
"""
