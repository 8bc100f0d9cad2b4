"""kekbridge: a self-hosted bridge from TradingView alerts to KEK DEX (Orderly Network perpetual futures)."""

__version__ = "0.2.0"
