"""Persistent state: one SQLite file, one writer thread with group commit, one module per group of tables."""
