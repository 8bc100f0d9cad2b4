"""Public endpoints: trading rules, prices, funding, keys and accounts.

See docs/internals/orderly.md, sections 3 and 4. Signatures are ignored here: clients send stale ones to public paths.
"""

from __future__ import annotations

from kekbridge.paper import responses
from kekbridge.paper.api import ApiRoute, Call
from kekbridge.paper.codec import ApiError, encode
from kekbridge.paper.instruments import UNLISTED
from kekbridge.paper.market_data import depth, funding_history, klines, udf_history
from kekbridge.paper.models import PaperMark
from kekbridge.paper.rate_limits import FIVE_PER_TEN_SECONDS, ONE_PER_SECOND, TEN_PER_SECOND, THIRTY_PER_SECOND
from kekbridge.paper.settings import PAPER_BROKER_ID, PAPER_BROKER_NAME, PAPER_USER_ID

_VAULT = "0x816f722424B49Cf1275cc86DA9840Fbd5a6167e9"
_CHAINS = (("Arbitrum", "42161", "ETH"), ("Arbitrum Sepolia", "421614", "ETH"))


def system_info(call: Call) -> object:
    if call.exchange.in_maintenance():
        return {"status": 2, "msg": "System is under maintenance."}
    return {"status": 0, "msg": "System is functioning properly."}


def info(call: Call) -> object:
    listed = call.exchange.state.instruments.values()
    return {"rows": [one.info() for one in listed if one.status != UNLISTED]}


def info_one(call: Call) -> object:
    return call.exchange.state.instrument(call.path["symbol"]).info()


def _mark(call: Call, symbol: str) -> PaperMark:
    call.exchange.state.instrument(symbol)
    return call.exchange.state.marks[symbol]


def _marks(call: Call) -> list[PaperMark]:
    state = call.exchange.state
    return [state.marks[symbol] for symbol in state.instruments]


def futures(call: Call) -> object:
    state = call.exchange.state
    traded = responses.traded_24h(state)
    return {"rows": [responses.futures_json(state, mark, traded) for mark in _marks(call)]}


def futures_one(call: Call) -> object:
    state = call.exchange.state
    return responses.futures_json(state, _mark(call, call.path["symbol"]), responses.traded_24h(state))


def market_trades(call: Call) -> object:
    """List the trades of a market: the account's own, there are no others."""
    symbol = _mark(call, call.query.get("symbol", "")).symbol
    limit = call.query_int("limit") or 10
    found = [t for t in reversed(call.exchange.state.trades.values()) if t.symbol == symbol][:limit]
    return {
        "rows": [
            {
                "symbol": symbol,
                "side": trade.side,
                "executed_price": trade.price,
                "executed_quantity": trade.quantity,
                "executed_timestamp": trade.at,
            }
            for trade in found
        ]
    }


def rwa_info(call: Call) -> object:
    """Markets of real-world assets; here they are always open."""
    listed = call.exchange.state.instruments.values()
    return {"rows": [{"symbol": each.symbol, "status": "open"} for each in listed if each.is_rwa]}


def funding_rates(call: Call) -> object:
    return {"rows": [responses.funding_json(call.exchange.state, mark) for mark in _marks(call)]}


def funding_rate(call: Call) -> object:
    return responses.funding_json(call.exchange.state, _mark(call, call.path["symbol"]))


def funding_rate_history(call: Call) -> object:
    rows = funding_history(call.exchange.state, _mark(call, call.query.get("symbol", "")))
    start, end = call.query_int("start_t"), call.query_int("end_t")
    kept = [
        row
        for row in rows
        if (start is None or row["funding_rate_timestamp"] >= start)
        and (end is None or row["funding_rate_timestamp"] <= end)
    ]
    return responses.page(kept, *call.paging(default=60))


def token(_: Call) -> object:
    details = [
        {
            "chain_id": chain_id,
            "contract_address": "0xaf88d065e77c8cC2239327C5EDb3A432268e5831",
            "decimals": 6,
            "withdraw_fee": 1,
            "cross_chain_withdrawal_fee": 2,
            "display_name": "USDC",
        }
        for _, chain_id, _ in _CHAINS
    ]
    return {
        "rows": [
            {
                "token": "USDC",
                "token_hash": "0xd6aca1be9729c13d677335161321649cccae6a591554772516700f986f942eaa",
                "decimals": 6,
                "minimum_withdraw_amount": 1,
                "base_weight": 1,
                "discount_factor": None,
                "haircut": 0,
                "user_max_qty": -1,
                "is_collateral": True,
                "on_chain_swap": False,
                "chain_details": details,
            }
        ]
    }


def chain_info(_: Call) -> object:
    rows = [
        {
            "name": name,
            "public_rpc_url": "",
            "chain_id": chain_id,
            "currency_symbol": currency,
            "currency_decimal": 18,
            "explorer_base_url": "",
            "vault_address": _VAULT,
            "broker_ids": [PAPER_BROKER_ID],
        }
        for name, chain_id, currency in _CHAINS
    ]
    return {"rows": rows}


def config(_: Call) -> object:
    return {"available_futures_leverage": "1,2,3,4,5,10,15,20,50,100"}


def leverage(call: Call) -> object:
    return {"max_futures_leverage": str(call.exchange.settings.max_leverage)}


def announcement(_: Call) -> object:
    return {"rows": []}


def account(call: Call) -> object:
    found = call.exchange.state.wallets.get(call.query.get("account_id", "").lower())
    if found is None:
        raise ApiError(-1006, "The account does not exist.")
    return {"address": found.address, "broker_id": PAPER_BROKER_ID}


def get_account(call: Call) -> object:
    found = call.exchange.state.wallet(call.query.get("address", ""))
    if found is None or call.query.get("broker_id") != PAPER_BROKER_ID:
        raise ApiError(-1006, "The account is not registered.")
    return {"user_id": PAPER_USER_ID, "account_id": found.account_id}


def get_broker(call: Call) -> object:
    is_known = call.exchange.state.wallet(call.query.get("address", "")) is not None
    return {"broker_id": [PAPER_BROKER_ID] if is_known else []}


def get_orderly_key(call: Call) -> object:
    key = call.exchange.state.keys.get(call.query.get("orderly_key", ""))
    account_id = call.query.get("account_id", "").lower()
    if key is None or key.account_id != account_id or key.status != "ACTIVE":
        raise ApiError(-1006, "The key does not exist.")
    return {
        "orderly_key": key.orderly_key,
        "scope": key.scope,
        "expiration": key.expiration,
        "tag": key.tag,
    }


def broker_name(call: Call) -> object:
    wanted = call.query.get("broker_id")
    rows = [{"broker_id": PAPER_BROKER_ID, "broker_name": PAPER_BROKER_NAME}]
    return {"rows": rows if wanted in (None, "", PAPER_BROKER_ID) else []}


def ip_info(call: Call) -> object:
    return {"ip": call.peer, "city": "", "region": "", "checked": False}


def orderbook(call: Call) -> object:
    symbol = _mark(call, call.path["symbol"]).symbol
    asks, bids = depth(call.exchange.matching, symbol, call.query_int("max_level") or 100)
    rows = [[{"price": price, "quantity": quantity} for price, quantity in side] for side in (asks, bids)]
    return {"asks": rows[0], "bids": rows[1], "timestamp": call.now}


def kline(call: Call) -> object:
    symbol = _mark(call, call.query.get("symbol", "")).symbol
    limit = min(call.query_int("limit") or 100, 1000)
    return {"rows": klines(call.exchange.state, symbol, call.query.get("type", ""), limit)}


def kline_history(call: Call) -> object:
    return encode(udf_history(call.exchange.state, call.query, amounts=True))


def history(call: Call) -> object:
    return encode(udf_history(call.exchange.state, call.query, amounts=False))


def tv_config(_: Call) -> object:
    return encode(
        {
            "supported_resolutions": ["1", "5", "15", "30", "60", "240", "720", "1D", "1W", "1M"],
            "supports_group_request": False,
            "supports_marks": False,
            "supports_search": False,
            "supports_timescale_marks": False,
        }
    )


ROUTES = (
    ApiRoute("GET", "/v1/public/system_info", system_info, limit=ONE_PER_SECOND),
    ApiRoute("GET", "/v1/public/info", info),
    ApiRoute("GET", "/v1/public/info/{symbol}", info_one),
    ApiRoute("GET", "/v1/public/rwa/info", rwa_info),
    ApiRoute("GET", "/v1/public/futures", futures),
    ApiRoute("GET", "/v1/public/futures/{symbol}", futures_one),
    ApiRoute("GET", "/v1/public/market_trades", market_trades),
    ApiRoute("GET", "/v1/public/funding_rates", funding_rates),
    ApiRoute("GET", "/v1/public/funding_rate/{symbol}", funding_rate, limit=THIRTY_PER_SECOND),
    ApiRoute("GET", "/v1/public/funding_rate_history", funding_rate_history),
    ApiRoute("GET", "/v1/public/token", token),
    ApiRoute("GET", "/v1/public/chain_info", chain_info),
    ApiRoute("GET", "/v1/public/config", config),
    ApiRoute("GET", "/v1/public/leverage", leverage),
    ApiRoute("GET", "/v1/public/announcement", announcement),
    ApiRoute("GET", "/v1/public/account", account),
    ApiRoute("GET", "/v1/public/broker/name", broker_name),
    ApiRoute("GET", "/v1/get_account", get_account),
    ApiRoute("GET", "/v1/get_broker", get_broker),
    ApiRoute("GET", "/v1/get_orderly_key", get_orderly_key),
    ApiRoute("GET", "/v1/ip_info", ip_info),
    ApiRoute("GET", "/v1/orderbook/{symbol}", orderbook, "read", TEN_PER_SECOND),
    ApiRoute("GET", "/v1/kline", kline, "read", TEN_PER_SECOND),
    ApiRoute("GET", "/v1/tv/kline_history", kline_history, limit=FIVE_PER_TEN_SECONDS, raw=True),
    ApiRoute("GET", "/v1/tv/history", history, raw=True),
    ApiRoute("GET", "/v1/tv/config", tv_config, raw=True),
)
