"""Endpoints of the paper exchange, grouped as in Orderly's documentation."""
