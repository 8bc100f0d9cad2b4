"""What a trader's wallet signs for the exchange: EIP-712 messages as data, and, with the extra `wallet`, their signatures."""
