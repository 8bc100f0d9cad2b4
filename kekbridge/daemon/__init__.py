"""The daemon: open resources, start the services in order, stop them in reverse."""
