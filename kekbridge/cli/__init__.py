"""Command line: one file per command group; data on stdout, messages on stderr, documented exit codes."""
