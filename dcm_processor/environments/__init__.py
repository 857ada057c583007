"""Environments of services, as installs, the command line and workers see them: requirements, lock, key, state."""
