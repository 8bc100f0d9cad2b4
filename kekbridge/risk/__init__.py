"""The risk rules: whether an order may be sent. Pure functions over frozen values; no I/O, no clock."""
