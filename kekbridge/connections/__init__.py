"""Connections of every listener: accepted within bounds, the oldest unfinished one dropped at a cap. Knows nothing of what is served."""
