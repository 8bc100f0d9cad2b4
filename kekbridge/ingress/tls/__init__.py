"""TLS of the public listener: server certificates, ACME and client-certificate pinning."""
