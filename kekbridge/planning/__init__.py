"""From a signal, a snapshot and the usage to judged order intents. Pure: no I/O, no clock."""
