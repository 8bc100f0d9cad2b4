"""Judge the name of a field that nobody reads: harmless, or one that stands for a field that decides the trade.

A stop loss under another service's name must not be dropped without a word, so such a name is refused with the right one. Names that
decide nothing (strategy, interval, chat_id) are passed over. The judgement is by the words of the name: `slPrice`, `sl_price` and
`SLPRICE` are the words sl and price.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from kekbridge.alerts.field_names import CANONICAL_FIELDS, IDENTITY_FIELDS, STEPS_FIELD, squeeze
from kekbridge.alerts.numbers import NumberText
from kekbridge.alerts.redaction import clip
from kekbridge.errors import Refused
from kekbridge.formatting import escape_unprintable, redact_credentials


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


@dataclass(frozen=True, slots=True)
class Lookalike:
    """What a name that nobody reads stands for."""

    #: The canonical field, or "test" for a flag that asks for no real order.
    target: str
    #: What to write instead, one sentence without a full stop.
    advice: str


@dataclass(frozen=True, slots=True)
class UnreadField:
    """A field of a message that nobody reads."""

    #: Name, with the objects around it: `strategy.sl`.
    path: str
    #: Value as written.
    value: Any
    #: What the name stands for; None if it is harmless.
    lookalike: Lookalike | None


# Protection: one of these words is enough, whatever is around it.
_STOP_WORDS = _words("sl stop stops stoploss stoplosses stopp bracket oco breakeven")
_PROFIT_WORDS = _words("tp tps takeprofit takeprofits target targets tgt tgts")
_TRAIL_WORDS = _words("trail trails trailing trailed tsl trailingstop callback activation")
_UNMISTAKABLE = ("stoploss", "takeprofit", "trailing")
# Words of names that describe something and set nothing: `stop_loss_comment`, `tp_hit`, `order_type_name`.
_DESCRIBING = _words(
    "alert bot chart color colour comment comments count counter desc description event exchange group hint hit id ids indicator info "
    "interval key label message msg name note notes provider reached reason result source status tag tags text time timeframe "
    "timestamp title token url uuid version"
)

# Names that consist of words of both sets, at least one of them from the first, stand for the field.
_GROUPS: tuple[tuple[str, frozenset[str], frozenset[str]], ...] = (
    (
        "takeProfit",
        _words("profit rr reward"),
        _words("ratio percent percents pct perc points ticks pips price prices level levels in risk order"),
    ),
    ("stopLoss", _words("loss"), _words("percent pct perc points ticks pips price level in order cut limit")),
    ("marketPosition", _words("position pos"), _words("market strategy net new current is")),
    ("positionSize", _words("position pos"), _words("size qty quantity amount contracts market strategy target net new signed")),
    (
        "quantity",
        _words(
            "qty quantity quantities size sizes sz amount amt contract contracts lot lots share shares unit units notional invest "
            "investment stake allocation alloc risk percent pct perc percentage usd usdt usdc dollar dollars"
        ),
        _words(
            "order orders ord trade position pos entry exit close buy sell long short base quote of per in value total max fixed coin "
            "coins currency equity balance account capital wallet portfolio cash asset type unit mode initial first default margin "
            "money my the x"
        ),
    ),
    ("orderType", _words("type kind"), _words("order ord orders trade entry exit exec execution")),
    ("orderType", _words("tif ioc fok maker"), _words("only order")),
    ("action", _words("side direction dir"), _words("order ord trade position pos entry exit close open buy sell signal")),
    ("action", _words("action actions"), _words("order ord trade strategy position pos signal entry exit")),
    (
        "leverage",
        _words("lev lever leverage"),
        _words("x value factor max use set position account ratio multiplier amount level long short"),
    ),
    ("reduceOnly", _words("reduce reduceonly"), _words("only position order flag close is")),
    ("limitPrice", _words("limit limits"), _words("price px order entry value level is")),
    ("triggerPrice", _words("trigger triggers"), _words("price px order entry value level type")),
    ("slippage", _words("slippage slip"), _words("max price percent pct perc points bps value allowed")),
    ("symbol", _words("symbol ticker pair instrument coin"), _words("trading trade currency tv market base perp")),
    (
        "test",
        _words("test testing dryrun dry simulate simulated simulation demo sandbox testnet paper"),
        _words("run mode is order trade trading only flag account net"),
    ),
)  # fmt: skip

# Names that the groups cannot know, squeezed: target by name.
_TABLE: Mapping[str, str] = MappingProxyType(
    {
        "closeposition": "reduceOnly",
        "closepositiononly": "reduceOnly",
        "exitonly": "reduceOnly",
        "isexit": "reduceOnly",
        "isclose": "reduceOnly",
        "closeonly": "reduceOnly",
        "closeall": "reduceOnly",
        "flat": "reduceOnly",
        "squareoff": "takeProfit",
        "exit": "reduceOnly",
        "flatten": "reduceOnly",
        "positioneffect": "reduceOnly",
        "openclose": "reduceOnly",
        "reducing": "reduceOnly",
        "sentiment": "marketPosition",
        "islong": "action",
        "isshort": "action",
        "isbuy": "action",
        "issell": "action",
        "buysell": "action",
        "longshort": "action",
        "ordervolume": "quantity",
        "tradevolume": "quantity",
        "orders": STEPS_FIELD,
        "legs": STEPS_FIELD,
        "ordermode": "orderType",
        "pricetype": "orderType",
        "timeinforce": "orderType",
        "postonly": "orderType",
        "ispostonly": "orderType",
    }
)

_ADVICE: Mapping[str, str] = MappingProxyType(
    {
        "stopLoss": 'did you mean stopLoss? Write a price, or a percent of the entry such as "2%"',
        "takeProfit": 'did you mean takeProfit? Write a price, a percent of the entry such as "4%", or a list of them',
        "trailingStop": 'did you mean trailingStop? Write a distance in price, or in percent such as "1.5%"',
        "quantity": "did you mean quantity, or quantityType? Write one quantity with its unit",
        "orderType": "did you mean orderType (market, limit, stop, stop_limit, ioc, fok or post_only)?",
        "action": "did you mean action? Write buy, sell, or close_long and close_short to close one side only",
        "reduceOnly": 'did you mean reduceOnly? Write "reduceOnly":true, or the action close',
        "marketPosition": "did you mean marketPosition with marketPositionSize?",
        "test": "it would be a real order; to try a message use `kekbridge webhook test NAME --dry-run`",
    }
)

# A name of the market only says the same once more if the message has the field itself. Prices are not here at all: without one of our
# names a price changes no order but its bound on slippage, and an order that needs one is refused without.
_ONLY_IF_ABSENT = frozenset({"symbol"})
# Fields whose own names in other spellings are refused, but not those that only resemble them.
_DECIDING_NOTHING = IDENTITY_FIELDS | {"comment", "exchange"}
# A flag that says false asks for nothing.
_FLAGS = frozenset({"reduceOnly", "test"})
#: Fields that only an entry uses: an exit is not refused for a name that stands for one of them.
ENTRY_ONLY = frozenset({"stopLoss", "takeProfit", "trailingStop", "leverage"})

# Words of camelCase, digits apart: slPrice2 -> sl, price, 2.
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_SHORT, _LONG = 6, 9  # letters of a name below which only itself, from which two slips of the pen are recognised
_VOCABULARY = sorted(
    frozenset().union(
        _STOP_WORDS, _PROFIT_WORDS, _TRAIL_WORDS, *(deciding | around for _, deciding, around in _GROUPS), _words("price take")
    ),
    key=len,
    reverse=True,
)  # fmt: skip


def passed_over(unread: Iterable[UnreadField], present: Mapping[str, Any], *, is_exit: bool) -> list[str]:
    """The names of unread fields that decide nothing. `present`: the canonical fields that the message has.

    On an exit, names that stand for a stop and the like are among them: an exit uses none. Raises Refused(field_unknown) for a name
    that stands for a field that decides the trade.
    """
    names: list[str] = []
    for each in unread:
        found = each.lookalike
        if found is not None and _asks_for(found, each, present) and not (is_exit and found.target in ENTRY_ONLY):
            shown = clip(escape_unprintable(redact_credentials(each.path)), 60)
            raise Refused("field_unknown", f"{shown}: unknown field, {found.advice}", field=shown)
        names.append(each.path)
    return names


def _asks_for(found: Lookalike, unread: UnreadField, present: Mapping[str, Any]) -> bool:
    """Whether the field asks for what its name stands for."""
    if found.target in _ONLY_IF_ABSENT:
        return present.get(found.target) is None
    if found is CLOSE_FLAG:
        return _says(unread.value, "true")
    return found.target not in _FLAGS or not _says(unread.value, "false", "")


@lru_cache(maxsize=512)  # names come from the trader's own templates and repeat
def look_alike(name: str) -> Lookalike | None:
    """What a name stands for, by its words alone; None if it is harmless."""
    # Full-width letters and the like look the same on the screen; an invisible character does not show at all.
    plain = "".join(c for c in unicodedata.normalize("NFKC", name) if c.isascii())
    squeezed = squeeze(plain)
    if not squeezed or len(squeezed) > 64:
        return None
    if squeezed == "close":
        return CLOSE_FLAG
    own = _OWN.get(squeezed)
    if own is not None:
        return Lookalike(own, _advice(own))
    target = _TABLE.get(squeezed.rstrip("0123456789"))
    if target is None:
        parts = [part.lower() for part in _PARTS.findall(plain)]
        target = _by_words(parts) or _by_spelling(squeezed, is_ascii=name.isascii())
    return None if target is None else Lookalike(target, _advice(target))


def _by_words(parts: list[str]) -> str | None:
    words: list[str] = []
    is_known = True
    for part in parts:
        if part.isdigit():
            continue
        pieces = _segment(part) or _protection_in(part)
        is_known = is_known and pieces is not None
        words += pieces or [part]
    found = set(words)
    if found & _DESCRIBING:
        return None
    if {"take", "profit"} <= found:
        return "takeProfit"
    for target, deciding in (("trailingStop", _TRAIL_WORDS), ("takeProfit", _PROFIT_WORDS), ("stopLoss", _STOP_WORDS)):
        if found & deciding:
            is_position = target == "takeProfit" and found & {"position", "pos"}
            return "positionSize" if is_position else target
    if not is_known:
        return None
    return next(
        (target for target, deciding, around in _GROUPS if found & deciding and found <= deciding | around), None
    )


def _segment(text: str) -> list[str] | None:
    """Split letters written together into known words, longest first: `stoplossprice` -> stop, loss, price; None if they are not known."""
    if text in _VOCABULARY or text in _DESCRIBING:
        return [text]
    for word in _VOCABULARY:
        if len(word) > 1 and text.startswith(word):
            rest = _segment(text[len(word) :])
            if rest is not None:
                return [word, *rest]
    return None


def _protection_in(text: str) -> list[str] | None:
    """The protection that letters written together contain beside words that are not known: `hardstop`, `mytakeprofit`."""
    found = next((word for word in _UNMISTAKABLE if word in text), None)
    return [found] if found else ["stop"] if text.endswith("stop") else None


def _by_spelling(squeezed: str, *, is_ascii: bool) -> str | None:
    """The field whose name differs by one or two slips of the pen, or None."""
    for known, own in _OWN.items():
        if own in _DECIDING_NOTHING:
            continue
        longest = 0 if len(known) < _SHORT else 1 if len(known) < _LONG else 2
        if not is_ascii:
            longest = max(longest, 1)  # a letter of another alphabet in place of ours
        if abs(len(known) - len(squeezed)) <= longest and _distance(known, squeezed, longest) <= longest:
            return own
    return None


def _distance(one: str, other: str, longest: int) -> int:
    """Letters to insert, drop, replace or swap with their neighbour to get from one to the other; over `longest` any larger number."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, start=1):
        following = [i]
        for j, wanted in enumerate(other, start=1):
            cost = min(row[j] + 1, following[j - 1] + 1, row[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                cost = min(cost, before[j - 2] + 1)
            following.append(cost)
        if min(following) > longest:
            return longest + 1
        before, row = row, following
    return row[-1]


def _advice(target: str) -> str:
    return _ADVICE.get(target) or f"did you mean {target}?"


def _says(value: Any, *words: str) -> bool:
    if isinstance(value, bool):
        return str(value).lower() in words
    return isinstance(value, str) and not isinstance(value, NumberText) and value.strip().lower() in words


_OWN: Mapping[str, str] = MappingProxyType({squeeze(name): name for name in sorted(CANONICAL_FIELDS)})
#: `close` is the bar's price in most messages; only `"close":true` asks for something.
CLOSE_FLAG = Lookalike("reduceOnly", _advice("reduceOnly"))
