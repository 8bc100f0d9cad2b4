"""Whether an order may be sent, as pure functions over frozen values. No I/O, no clock of its own."""
