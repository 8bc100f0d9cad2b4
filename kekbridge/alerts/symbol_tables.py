"""Tables of tickers and exchanges for symbols.py. Sources: docs/internals/tradingview.md section 6, general knowledge."""

from __future__ import annotations

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


QUOTES = ("USDT", "USDC", "USD")

# Suffixes of perpetuals. Longest first, because -PERP ends in PERP.
PERPETUAL_MARKERS = ("-PERPETUAL", "-SWAP", "-PERP", "_PERP", ".PERP", ".PM", ".P", "PERP")
# With a USD quote these are coin-margined on most exchanges: a quantity then counts USD, not coins.
INVERSE_MARKERS = frozenset({".P", "PERP", "_PERP", ".PERP", "-SWAP", "-PERPETUAL"})

BASE_ALIASES = {"XBT": "BTC"}
# Hyperliquid writes a thousand units as k: kPEPE. Only these, because KAS and KNC are coins.
K_UNIT_BASES = frozenset({"BONK", "DOGS", "FLOKI", "LUNC", "NEIRO", "PEPE", "SHIB"})
MULTIPLIERS = (1, 1_000, 10_000, 1_000_000)

CRYPTO_VENUES = _words(
    "ASCENDEX BINANCE BINANCEUS BINGX BITFINEX BITGET BITHUMB BITMART BITMEX BITRUE BITSTAMP BITVAVO BLOFIN BTSE BYBIT COINBASE COINEX "
    "COINW CRYPTO CRYPTOCOM DELTA DERIBIT DYDX GATE GATEIO GEMINI HITBTC HTX HUOBI HYPERLIQUID KCEX KRAKEN KUCOIN LBANK MEXC "
    "OKCOIN OKX ORDERLY PARADEX PHEMEX PIONEX POLONIEX TOOBIT UPBIT WEEX WHITEBIT WOONETWORK WOO WOOX XT"
)
# Their tickers do not name the crypto market of the same name, or no market at all.
FOREIGN_VENUES = _words(
    "ACTIVTRADES AMEX ARCA ASX BATS BLACKBULL BMFBOVESPA BSE CAPITALCOM CBOE CBOT CBOT_MINI CME CME_MINI COMEX COMEX_MINI CRYPTOCAP "
    "CURRENCYCOM DJ EASYMARKETS EIGHTCAP EUREX EURONEXT FOREXCOM FTSE FUSIONMARKETS FX FXCM FXOPEN FX_IDC GLOBALPRIME HKEX HSI ICE "
    "ICEEUR ICEUS ICMARKETS IDC IG INDEX KRX LSE MARKETSCOM MCX MOEX MIL NASDAQ NSE NYMEX NYMEX_MINI NYSE NYSEARCA NYSE_ARCA OANDA "
    "OSE OTC PEPPERSTONE PYTH SAXO SGX SKILLING SP SPREADEX SSE SWB SZSE THINKMARKETS TSE TSX TSXV TVC TWSE USI VANTAGE VELOCITY "
    "XETR"
)
# Bases that exist outside crypto under the same letters. `SPX` is a meme token on Orderly and the S&P 500 everywhere else.
TRADFI_BASES = _words(
    "AAPL AMZN BZ CL COIN COPPER DAX GOLD GOOG GOOGL HG HOOD INTC JP225 META MSFT MSTR NAS100 NDX NFLX NG NVDA OIL PLTR QQQ SILVER "
    "SPX SPX500 SPY TSLA UK100 UKOIL US30 US500 USOIL WTI XAG XAU XCU XPD XPT"
)
INDEX_TICKERS = frozenset({"TOTAL", "TOTAL2", "TOTAL3", "TOTAL3ES", "TOTALDEFI", "OTHERS"})

_CURRENCIES = "AUD|CAD|CHF|CNH|CNY|CZK|DKK|EUR|GBP|HKD|HUF|INR|JPY|KRW|MXN|NOK|NZD|PLN|SEK|SGD|THB|TRY|USD|ZAR|BRL"
FOREX_PAIR = re.compile(rf"(?:{_CURRENCIES})(?:{_CURRENCIES})")

_MONTHS = "JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC"

# Patterns of tickers that are not perpetuals, and what they are. Searched in the upper-case ticker without its venue.
NOT_TRADABLE = (
    (re.compile(r"!"), "a continuous future of another exchange"),
    (re.compile(r"\.D$|^(?:" + "|".join(sorted(INDEX_TICKERS)) + r")(?:\.\w+)?$"), "an index"),
    (re.compile(r"_(?:OI|FR|PREMIUM|LSR|LIQ\w*|FUNDING\w*)$"), "a data series (open interest, funding, premium)"),
    (re.compile(r"(?:LONGS|SHORTS)$"), "a statistic of margin positions"),
    (re.compile(r"-\d+(?:\.\d+)?-[CP]$|\d{6}[CP]\d+$"), "an option"),
    (re.compile(rf"[_-](?:\d{{6}}|\d{{8}})$|\d{{1,2}}(?:{_MONTHS})\d{{2}}"), "a dated future"),
    (re.compile(r"^[A-Z]{2,5}[FGHJKMNQUVXZ](?:20)?\d{2}$"), "a dated future"),
    (
        re.compile(r"[+*^]|/.*/|^\d+(?:\.\d+)?[/-]|^[A-Z0-9.]+/(?!(?:USDT|USDC|USD)(?::|$))"),
        "a spread or ratio of two symbols",
    ),
)
