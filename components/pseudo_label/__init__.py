"""Stage pseudo_label: clusters items by text and, separately, by image."""
