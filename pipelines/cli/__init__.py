"""The `macrec` command."""
