"""What is remembered: one SQLite file, one writer thread with group commit, one file per noun."""
