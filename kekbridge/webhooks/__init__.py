"""Create, edit and look up webhooks and their credentials."""
