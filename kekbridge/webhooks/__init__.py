"""Webhooks: create and edit them, their credentials and their settings as options."""
