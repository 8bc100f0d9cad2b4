"""Signal + snapshot + usage -> judged order intents. Pure: no I/O."""
