"""One linear program a command."""
