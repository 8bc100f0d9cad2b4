"""The composition root: opens resources, starts the services in order, stops them in reverse."""
