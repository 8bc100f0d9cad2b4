"""EIP-712 messages that a trader's wallet signs for the exchange, and, with the extra `wallet`, their signatures."""
