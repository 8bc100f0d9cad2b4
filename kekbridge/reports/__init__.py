"""Read-only reports built from stored facts: one alert, limits in use, exports."""
