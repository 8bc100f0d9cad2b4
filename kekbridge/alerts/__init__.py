"""What an alert says, as pure functions: bytes to Signal, Signal to order intents. No I/O, no clock of its own."""
