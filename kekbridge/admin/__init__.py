"""The operator's listener on loopback: live state as JSON, pages, metrics. Steers with the functions the command line uses."""
