"""The tables, as an ordered list of migrations. A released migration is never edited, not even its comments: SQLite stores them.

Readable with any SQLite tool: times are UTC text `YYYY-MM-DDTHH:MM:SS.mmmZ`, amounts are decimal text, structures are JSON text.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Final

from kekbridge.store import fills, incomplete_orders

# A statement, or a function where SQL is not enough: SQLite has no exact decimals.
Step = str | Callable[[sqlite3.Connection], None]

# Columns of a tally: hour, webhook, status and code of an alert, an order, a duplicate or conflict, or the exits of an entry.
_COUNTED: Final = {
    "alert": "substr({0}.received_at, 1, 13), coalesce({0}.webhook_id, ''), {0}.status, coalesce({0}.code, '')",
    "order": "substr({0}.created_at, 1, 13), {0}.webhook_id, {0}.status, iif({0}.submitted_at IS NULL, '', 'sent')",
    "event": "substr({0}.at, 1, 13), coalesce((SELECT webhook_id FROM alerts WHERE id = {0}.alert_id), ''), {0}.kind, ''",
    "stop": "substr({0}.updated_at, 1, 13), coalesce((SELECT webhook_id FROM orders WHERE client_order_id = {0}.client_order_id), ''),"
    " iif(EXISTS (SELECT 1 FROM json_each({0}.legs) WHERE json_extract(value, '$.kind') = 'STOP_LOSS'"
    " AND json_extract(value, '$.status') = 'filled'), 'hit', 'kept'), ''",
}
# An entry whose exits are all finished, one of them a stop loss.
_IS_DECIDED: Final = (
    "{0}.is_over = 1 AND EXISTS (SELECT 1 FROM json_each({0}.legs) WHERE json_extract(value, '$.kind') = 'STOP_LOSS')"
)


def _count(kind: str, row: str, step: int) -> str:
    """Trigger statement: count the old or new row, `step` is 1 or -1."""
    return (
        f"INSERT INTO tallies VALUES ('{kind}', {_COUNTED[kind].format(row)}, {step})"
        f" ON CONFLICT (kind, hour, webhook_id, status, code) DO UPDATE SET count = count + {step};"
    )


def _count_refusals(added: str) -> str:
    """Trigger statement: count unauthenticated requests."""
    return (
        f"INSERT INTO tallies VALUES ('refusal', substr(new.minute, 1, 13), '', 'refused', new.code, {added})"
        f" ON CONFLICT (kind, hour, webhook_id, status, code) DO UPDATE SET count = count + {added};"
    )


def _count_stop(row: str, step: int) -> str:
    """Trigger statement: count an entry's exits if they are finished."""
    return (
        f"INSERT INTO tallies SELECT 'stop', {_COUNTED['stop'].format(row)}, {step} WHERE {_IS_DECIDED.format(row)}"
        f" ON CONFLICT (kind, hour, webhook_id, status, code) DO UPDATE SET count = count + {step};"
    )


# (name, statements), applied in order inside one transaction (connections.py).
MIGRATIONS: Final[tuple[tuple[str, tuple[Step, ...]], ...]] = (
    (
        "0001_first",
        (
            """
            CREATE TABLE webhooks (
                id TEXT PRIMARY KEY,
                name TEXT NOT NULL UNIQUE,
                enabled INTEGER NOT NULL DEFAULT 1,
                settings TEXT NOT NULL,
                created_at TEXT NOT NULL,
                updated_at TEXT NOT NULL
            ) STRICT
            """,
            """
            CREATE TABLE webhook_keys (
                id TEXT PRIMARY KEY,
                webhook_id TEXT NOT NULL REFERENCES webhooks(id) ON DELETE CASCADE,
                lookup BLOB NOT NULL UNIQUE,        -- keyed hash of the apiKey: finds the row, reveals nothing
                prefix TEXT NOT NULL,               -- first characters, for people
                sealed_key BLOB NOT NULL,           -- apiKey under the master key
                sealed_secret BLOB NOT NULL,        -- apiSecret under the master key
                created_at TEXT NOT NULL,
                expires_at TEXT,
                revoked_at TEXT,
                last_used_at TEXT
            ) STRICT
            """,
            "CREATE INDEX webhook_keys_webhook ON webhook_keys(webhook_id)",
            """
            CREATE TABLE alerts (
                id TEXT PRIMARY KEY,                -- ULID
                webhook_id TEXT,                    -- no foreign key: the history outlives a deleted webhook
                webhook_name TEXT,
                alert_id TEXT,                      -- the sender's own id
                identity TEXT,                      -- what makes a second one a duplicate; NULL: rate limited, claims nothing
                fingerprint TEXT NOT NULL,          -- hash of the content, without timestamp and signature
                received_at TEXT NOT NULL,
                fired_at TEXT,
                remote TEXT,
                proof TEXT,
                payload TEXT NOT NULL,              -- redacted
                action TEXT,
                symbol TEXT,
                is_exit INTEGER NOT NULL DEFAULT 0,
                status TEXT NOT NULL,               -- refused, denied, ignored, or the headline of its orders
                code TEXT,
                error TEXT,
                field TEXT,                         -- the field of the message that the error is about
                verdicts TEXT NOT NULL DEFAULT '[]',
                warnings TEXT NOT NULL DEFAULT '[]',
                answer_status INTEGER,
                answer TEXT,
                stages TEXT NOT NULL DEFAULT '{}',  -- milliseconds since received_at, by stage
                updated_at TEXT NOT NULL
            ) STRICT
            """,
            "CREATE UNIQUE INDEX alerts_identity ON alerts(webhook_id, identity) WHERE identity IS NOT NULL",
            # Only alerts that claimed an identity count against the rate: rate-limited ones must not prolong the limit.
            "CREATE INDEX alerts_rate ON alerts(webhook_id, is_exit, received_at) WHERE identity IS NOT NULL",
            "CREATE INDEX alerts_received ON alerts(received_at)",
            "CREATE INDEX alerts_webhook ON alerts(webhook_id, received_at)",
            # Alerts with a code are rare and often queried.
            "CREATE INDEX alerts_trouble ON alerts(received_at) WHERE code IS NOT NULL",
            "CREATE INDEX alerts_sender_id ON alerts(alert_id) WHERE alert_id IS NOT NULL",
            """
            CREATE TABLE tallies (                  -- alerts and orders counted by hour, kept by the triggers below: no history is too long
                kind TEXT NOT NULL,                 -- alert, order, event
                hour TEXT NOT NULL,                 -- of receipt, of creation, of the event: `2026-01-15T10`
                webhook_id TEXT NOT NULL,
                status TEXT NOT NULL,
                code TEXT NOT NULL,                 -- orders: 'sent' once one left, else ''
                count INTEGER NOT NULL,
                PRIMARY KEY (kind, hour, webhook_id, status, code)
            ) STRICT, WITHOUT ROWID
            """,
            *(
                f"CREATE TRIGGER {name} AFTER {when} BEGIN {steps} END"
                for name, when, steps in (
                    ("alerts_counted", "INSERT ON alerts", _count("alert", "new", 1)),
                    (
                        "alerts_recounted",
                        "UPDATE OF status, code ON alerts WHEN new.status IS NOT old.status OR new.code IS NOT old.code",
                        _count("alert", "old", -1) + _count("alert", "new", 1),
                    ),
                )
            ),
            """
            CREATE TABLE refusals (                 -- requests nobody vouched for: counted by minute, never one row each
                minute TEXT NOT NULL,
                remote TEXT NOT NULL,
                code TEXT NOT NULL,
                error TEXT NOT NULL,
                count INTEGER NOT NULL,
                last_at TEXT NOT NULL,
                PRIMARY KEY (minute, remote, code)
            ) STRICT, WITHOUT ROWID
            """,
            """
            CREATE TABLE orders (
                sequence INTEGER PRIMARY KEY,       -- order of admission: FIFO within a symbol
                client_order_id TEXT NOT NULL UNIQUE,
                alert_id TEXT NOT NULL REFERENCES alerts(id),
                webhook_id TEXT NOT NULL,
                leg INTEGER NOT NULL,
                after_leg INTEGER,
                symbol TEXT NOT NULL,
                side TEXT NOT NULL,
                order_type TEXT NOT NULL,
                purpose TEXT NOT NULL,
                quantity TEXT NOT NULL,
                limit_price TEXT,
                trigger_price TEXT,
                stop_loss TEXT,
                reduce_only INTEGER NOT NULL,
                intent TEXT NOT NULL,               -- the whole intent as JSON: what was validated is what is sent
                request TEXT,                       -- the exact body last sent
                status TEXT NOT NULL,
                order_id TEXT,
                executed_quantity TEXT NOT NULL DEFAULT '0',
                average_price TEXT,
                fee TEXT NOT NULL DEFAULT '0',
                realized_pnl TEXT NOT NULL DEFAULT '0',
                code TEXT,
                error TEXT,
                verdicts TEXT NOT NULL DEFAULT '[]', -- of the second check, right before sending
                attempt INTEGER NOT NULL DEFAULT 0,
                next_attempt_at TEXT,
                created_at TEXT NOT NULL,
                expires_at TEXT NOT NULL,
                submitted_at TEXT,
                accepted_at TEXT,
                finished_at TEXT,
                updated_at TEXT NOT NULL,
                UNIQUE (alert_id, leg)
            ) STRICT
            """,
            # Small for any length of history: finding each symbol's next order reads nothing else.
            "CREATE INDEX orders_open ON orders(symbol, status, purpose) WHERE finished_at IS NULL",
            "CREATE INDEX orders_entries ON orders(webhook_id, created_at) WHERE purpose = 'entry'",
            "CREATE INDEX orders_symbol ON orders(symbol, sequence) WHERE purpose = 'entry'",
            "CREATE INDEX orders_order_id ON orders(order_id) WHERE order_id IS NOT NULL",
            *(
                f"CREATE TRIGGER {name} AFTER {when} BEGIN {steps} END"
                for name, when, steps in (
                    ("orders_counted", "INSERT ON orders", _count("order", "new", 1)),
                    (
                        "orders_recounted",
                        "UPDATE OF status, submitted_at ON orders WHEN new.status IS NOT old.status"
                        " OR (new.submitted_at IS NULL) IS NOT (old.submitted_at IS NULL)",
                        _count("order", "old", -1) + _count("order", "new", 1),
                    ),
                )
            ),
            """
            CREATE TABLE fills (
                trade_id TEXT PRIMARY KEY,
                client_order_id TEXT,               -- NULL: not an order of ours
                exit_of TEXT,                       -- our entry whose own stop or take-profit the exchange executed with it
                webhook_id TEXT,                    -- whose realized P&L it is; NULL: nobody's here
                order_id TEXT NOT NULL,
                symbol TEXT NOT NULL,
                side TEXT NOT NULL,
                price TEXT NOT NULL,
                quantity TEXT NOT NULL,
                fee TEXT NOT NULL,
                realized_pnl TEXT,
                is_maker INTEGER NOT NULL,
                executed_at TEXT NOT NULL
            ) STRICT
            """,
            "CREATE INDEX fills_order ON fills(client_order_id)",
            "CREATE INDEX fills_exit ON fills(exit_of) WHERE exit_of IS NOT NULL",
            "CREATE INDEX fills_time ON fills(executed_at)",
            """
            CREATE TABLE reservations (             -- room taken from the limits by orders that are not final yet
                client_order_id TEXT PRIMARY KEY REFERENCES orders(client_order_id),
                webhook_id TEXT NOT NULL,
                symbol TEXT NOT NULL,
                quantity TEXT NOT NULL,             -- signed; what is not executed yet
                notional TEXT NOT NULL,
                is_entry INTEGER NOT NULL,
                is_resting INTEGER NOT NULL         -- may wait in the book: not sure to trade soon
            ) STRICT, WITHOUT ROWID
            """,
            """
            CREATE TABLE daily_usage (              -- running totals, moved in the same transactions as the reservations
                scope TEXT NOT NULL,                -- webhook id, or 'account'
                day TEXT NOT NULL,
                notional TEXT NOT NULL DEFAULT '0',
                orders INTEGER NOT NULL DEFAULT 0,
                realized_pnl TEXT NOT NULL DEFAULT '0',
                PRIMARY KEY (scope, day)
            ) STRICT, WITHOUT ROWID
            """,
            """
            CREATE TABLE equity_marks (             -- the account's value, every minute, and the peak without transfers
                at TEXT PRIMARY KEY,
                account_value TEXT NOT NULL,
                flow TEXT NOT NULL,                 -- deposited (or withdrawn: negative) since the mark before
                peak TEXT NOT NULL
            ) STRICT, WITHOUT ROWID
            """,
            """
            CREATE TABLE transfers (                -- deposits and withdrawals, by the exchange's id
                id TEXT PRIMARY KEY,
                at TEXT NOT NULL,
                amount TEXT NOT NULL                -- USDC, withdrawals negative
            ) STRICT, WITHOUT ROWID
            """,
            """
            CREATE TABLE funding (                  -- funding payments as the exchange lists them
                symbol TEXT NOT NULL,
                at TEXT NOT NULL,
                fee TEXT NOT NULL,                  -- USDC, received negative
                PRIMARY KEY (at, symbol)
            ) STRICT, WITHOUT ROWID
            """,
            """
            CREATE TABLE positions (
                symbol TEXT NOT NULL,
                margin_mode TEXT NOT NULL,
                quantity TEXT NOT NULL,
                average_open_price TEXT NOT NULL,
                mark_price TEXT,
                cost_position TEXT NOT NULL,
                unsettled_pnl TEXT NOT NULL,
                leverage TEXT,
                liquidation_price TEXT,
                updated_at TEXT NOT NULL,
                PRIMARY KEY (symbol, margin_mode)
            ) STRICT, WITHOUT ROWID
            """,
            """
            CREATE TABLE protections (              -- one row per executed entry that was given a stop loss
                client_order_id TEXT PRIMARY KEY REFERENCES orders(client_order_id),
                state TEXT NOT NULL,                -- wanted, live, replaced, flattened, over
                detail TEXT NOT NULL DEFAULT '',
                naked_since TEXT,
                updated_at TEXT NOT NULL
            ) STRICT
            """,
            "CREATE INDEX protections_open ON protections(client_order_id) WHERE state <> 'over'",
            """
            CREATE TABLE ladders (                  -- executed entries with take-profits that their own request could not carry
                client_order_id TEXT PRIMARY KEY REFERENCES orders(client_order_id),
                state TEXT NOT NULL,                -- wanted, over
                detail TEXT NOT NULL DEFAULT '',
                updated_at TEXT NOT NULL
            ) STRICT
            """,
            """
            CREATE TABLE exits (                    -- what became of the stop loss and take-profit that travelled with an entry
                client_order_id TEXT PRIMARY KEY REFERENCES orders(client_order_id),
                legs TEXT NOT NULL,
                is_over INTEGER NOT NULL,
                updated_at TEXT NOT NULL
            ) STRICT
            """,
            "CREATE INDEX exits_open ON exits(client_order_id) WHERE is_over = 0",
            "CREATE INDEX ladders_open ON ladders(client_order_id) WHERE state <> 'over'",
            """
            CREATE TABLE cancels (                  -- cancel steps of alerts, carried out by the worker in their turn
                alert_id TEXT NOT NULL REFERENCES alerts(id),
                step INTEGER NOT NULL,
                symbol TEXT,                        -- NULL: every symbol
                comment TEXT,                       -- NULL: whatever the comment
                state TEXT NOT NULL,                -- queued, done, failed
                canceled INTEGER NOT NULL DEFAULT 0,
                error TEXT,
                created_at TEXT NOT NULL,
                finished_at TEXT,
                PRIMARY KEY (alert_id, step)
            ) STRICT
            """,
            "CREATE INDEX cancels_open ON cancels(created_at) WHERE state = 'queued'",
            """
            CREATE TABLE events (                   -- append-only history; each row's hash covers the one before
                sequence INTEGER PRIMARY KEY,
                at TEXT NOT NULL,
                kind TEXT NOT NULL,
                alert_id TEXT,
                client_order_id TEXT,
                data TEXT NOT NULL,
                previous_hash TEXT NOT NULL,
                hash TEXT NOT NULL
            ) STRICT
            """,
            "CREATE INDEX events_alert ON events(alert_id) WHERE alert_id IS NOT NULL",
            # Duplicates and conflicts have no row in alerts: they are counted from the history.
            "CREATE TRIGGER events_counted AFTER INSERT ON events WHEN new.kind IN ('alert_duplicate', 'alert_conflict') BEGIN "
            + _count("event", "new", 1)
            + " END",
            "CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL, updated_at TEXT NOT NULL) STRICT, WITHOUT ROWID",
        ),
    ),
    (
        "0002_entry_times",
        # Numbered without gaps, so that the account's rate limit finds the N-th newest by its number.
        ("CREATE TABLE entry_times (number INTEGER PRIMARY KEY, at TEXT NOT NULL) STRICT",),
    ),
    (
        # A million alerts are queried as quickly as a thousand: no query sums or scans the history.
        "0003_long_histories",
        (
            "CREATE INDEX alerts_symbol ON alerts(symbol, received_at, webhook_id) WHERE symbol IS NOT NULL",
            "CREATE INDEX orders_created ON orders(created_at)",
            "CREATE INDEX exits_decided ON exits(updated_at) WHERE is_over = 1",
            "CREATE INDEX events_repeats ON events(at) WHERE kind IN ('alert_duplicate', 'alert_conflict')",
            "CREATE INDEX fills_of_order ON fills(order_id)",
            """
            CREATE TABLE results (                  -- fills summed by hour: what they cost and won, kept by results.py
                hour TEXT NOT NULL,                 -- of execution; a closing order counts where its first closing fill does
                webhook_id TEXT NOT NULL,           -- '': nobody's here
                fees TEXT NOT NULL,
                realized_pnl TEXT NOT NULL,
                closings INTEGER NOT NULL,          -- orders that closed something
                wins INTEGER NOT NULL,              -- those of them with a gain, fees not included
                PRIMARY KEY (hour, webhook_id)
            ) STRICT, WITHOUT ROWID
            """,
            # Results are summed by 0014, which has the last of their tables. Old refusals are deleted, their count is kept.
            "INSERT INTO tallies SELECT 'refusal', substr(minute, 1, 13), '', 'refused', code, sum(count)"
            " FROM refusals GROUP BY 2, 5",
            "CREATE TRIGGER refusals_counted AFTER INSERT ON refusals BEGIN " + _count_refusals("new.count") + " END",
            "CREATE TRIGGER refusals_recounted AFTER UPDATE OF count ON refusals BEGIN "
            + _count_refusals("new.count - old.count")
            + " END",
            f"INSERT INTO tallies SELECT 'stop', {_COUNTED['stop'].format('e')}, count(*) FROM exits e"
            f" WHERE {_IS_DECIDED.format('e')} GROUP BY 2, 3, 4",
            "CREATE TRIGGER exits_counted AFTER INSERT ON exits BEGIN " + _count_stop("new", 1) + " END",
            "CREATE TRIGGER exits_recounted AFTER UPDATE ON exits BEGIN "
            + _count_stop("old", -1)
            + _count_stop("new", 1)
            + " END",
        ),
    ),
    (
        "0004_courses",
        (
            """
            CREATE TABLE courses (                  -- what the strategy behind a webhook told of its position: the order of its messages
                webhook_id TEXT NOT NULL,
                symbol TEXT NOT NULL,
                start TEXT,                         -- position before the first of these steps, in contracts, short negative
                steps TEXT NOT NULL,                -- [[fired_at, before, now], ...] as they arrived, the last ones only
                updated_at TEXT NOT NULL,
                PRIMARY KEY (webhook_id, symbol)
            ) STRICT, WITHOUT ROWID
            """,
        ),
    ),
    ("0005_signed_at", ("ALTER TABLE orders ADD COLUMN signed_at TEXT",)),
    # Few among millions: events of the bridge itself, shown between the alerts.
    ("0006_own_events", ("CREATE INDEX events_own ON events(sequence) WHERE alert_id IS NULL",)),
    (
        # Admission is as quick with a thousand open orders as with none.
        "0007_commitments",
        (
            """
            CREATE TABLE commitments (              -- reservations added up by symbol and kind, moved with each of them
                symbol TEXT NOT NULL,
                is_entry INTEGER NOT NULL,
                is_buy INTEGER NOT NULL,
                is_resting INTEGER NOT NULL,
                is_margined INTEGER NOT NULL,       -- the exchange holds their margin back already
                quantity TEXT NOT NULL,             -- signed
                orders INTEGER NOT NULL,
                PRIMARY KEY (symbol, is_entry, is_buy, is_resting, is_margined)
            ) STRICT, WITHOUT ROWID
            """,
            # USDC a coin, with leading zeros; NULL where nothing is left to trade.
            "ALTER TABLE reservations ADD COLUMN price TEXT",
            "CREATE INDEX reservations_price ON reservations(symbol, price) WHERE price IS NOT NULL",
            # Commitments were computed here; 0008 removes the table.
        ),
    ),
    (
        # The history becomes the journal, from which the tables of alerts, orders and fills are projected.
        "0008_journal",
        (
            "DROP TRIGGER events_counted",
            "ALTER TABLE events RENAME TO journal",
            "ALTER TABLE journal ADD COLUMN webhook_id TEXT",
            "ALTER TABLE journal ADD COLUMN identity TEXT",  # what makes a second alert a duplicate
            "ALTER TABLE journal ADD COLUMN message TEXT",  # redacted; removed by retention, so its digest is in `data`
            "ALTER TABLE journal ADD COLUMN request TEXT",  # the body sent; its digest is in `data`
            "CREATE UNIQUE INDEX journal_identity ON journal(webhook_id, identity) WHERE identity IS NOT NULL",
            # How far the tables are; rows before the journal were written with their tables.
            "CREATE TABLE projection (sequence INTEGER NOT NULL) STRICT",
            "INSERT INTO projection SELECT coalesce(max(sequence), 0) FROM journal",
            # The daemon keeps in memory what these held.
            "DROP TABLE reservations",
            "DROP TABLE commitments",
            "DROP TABLE entry_times",
        ),
    ),
    # The identity of an alert is its alertId, its timestamp and its market together: a resend of an earlier alert is still found.
    (
        "0009_identity_and_holdings",
        (
            "UPDATE alerts SET identity = identity || '@' || fired_at || '@' || coalesce(symbol, '')"
            " WHERE identity LIKE 'id:%' AND fired_at IS NOT NULL",
            # A start reads which webhook holds what of an open position.
            "CREATE INDEX fills_of_symbol ON fills(symbol, executed_at, trade_id)",
        ),
    ),
    # What the exchange says of the account, read completely or known to be incomplete.
    (
        "0010_account",
        (
            """
            CREATE TABLE read_positions (           -- up to when each kind of the account's records was read completely
                kind TEXT PRIMARY KEY,              -- trades, liquidations, positions, funding, transfers
                complete_until TEXT NOT NULL
            ) STRICT, WITHOUT ROWID
            """,
            """
            CREATE TABLE incomplete_orders (        -- orders whose fills do not add up to what was executed
                client_order_id TEXT NOT NULL REFERENCES orders(client_order_id),
                part TEXT NOT NULL,                 -- own: their own fills; exits: those of their stop loss and take-profits
                PRIMARY KEY (client_order_id, part)
            ) STRICT, WITHOUT ROWID
            """,
            incomplete_orders.rebuild,
            "ALTER TABLE daily_usage ADD COLUMN funding TEXT NOT NULL DEFAULT '0'",  # USDC paid, received negative
            # A cross and an isolated position of one market pay at the same time.
            "ALTER TABLE funding RENAME TO earlier_funding",
            """
            CREATE TABLE funding (                  -- funding payments as the exchange lists them
                symbol TEXT NOT NULL,
                margin_mode TEXT NOT NULL,
                at TEXT NOT NULL,
                fee TEXT NOT NULL,                  -- USDC, received negative
                webhook_id TEXT,                    -- whose daily loss it counts in; NULL: nobody's here
                PRIMARY KEY (at, symbol, margin_mode)
            ) STRICT, WITHOUT ROWID
            """,
            "INSERT INTO funding SELECT symbol, 'CROSS', at, fee, NULL FROM earlier_funding",
            "DROP TABLE earlier_funding",
        ),
    ),
    (
        # What is to be cancelled is a state of the order: a start goes on with it.
        "0011_cancels",
        (
            "ALTER TABLE orders ADD COLUMN cancel_requested_at TEXT",
            "CREATE INDEX orders_to_cancel ON orders(cancel_requested_at) WHERE cancel_requested_at IS NOT NULL",
        ),
    ),
    # A market can have a cross and an isolated position, each with fills of its own.
    ("0012_margin_modes", ("ALTER TABLE fills ADD COLUMN margin_mode TEXT NOT NULL DEFAULT 'CROSS'",)),
    # P&L by market needs no scan of the fills either.
    (
        "0013_results_by_market",
        (
            "DROP TABLE results",
            """
            CREATE TABLE results (                  -- fills summed by hour: what they cost and won
                hour TEXT NOT NULL,                 -- of execution; a closing order counts where its first closing fill does
                webhook_id TEXT NOT NULL,           -- '': of no webhook
                symbol TEXT NOT NULL,
                fees TEXT NOT NULL,
                realized_pnl TEXT NOT NULL,
                closings INTEGER NOT NULL,          -- orders that closed something
                wins INTEGER NOT NULL,              -- those of them with a gain, fees not included
                PRIMARY KEY (hour, webhook_id, symbol)
            ) STRICT, WITHOUT ROWID
            """,
        ),
    ),
    # Years are read by day.
    (
        "0014_results_by_day",
        (
            """
            CREATE TABLE day_results (              -- the same by UTC day
                day TEXT NOT NULL,
                webhook_id TEXT NOT NULL,
                symbol TEXT NOT NULL,
                fees TEXT NOT NULL,
                realized_pnl TEXT NOT NULL,
                closings INTEGER NOT NULL,
                wins INTEGER NOT NULL,
                PRIMARY KEY (day, webhook_id, symbol)
            ) STRICT, WITHOUT ROWID
            """,
            fills.rebuild_results,
        ),
    ),
)
