"""A source of services: where it is, how its files come, which services it holds."""
