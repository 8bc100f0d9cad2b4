"""Ingress: the HTTP listener, TLS, authentication, lockout, and the receiver that turns a request into a stored verdict."""
