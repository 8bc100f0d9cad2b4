"""Reading alerts: from the bytes of a request to Signals. Pure functions; no I/O, no clock."""
