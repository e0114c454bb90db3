"""Integrations with other libraries. Each module needs its library, and must be imported by name."""
