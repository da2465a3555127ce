"""Stage resolve_collisions: makes the codes unique, so that each item has its own semantic ID."""
