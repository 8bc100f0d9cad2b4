"""Who is at the door: the HTTP listener, credentials, addresses, and how often somebody may knock."""
