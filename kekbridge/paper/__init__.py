"""An Orderly-compatible exchange to practise on: same paths, signatures, rules and streams, over loopback.

It imports nothing from the client that is tested against it; `server.PaperExchange` is the way in.
"""
