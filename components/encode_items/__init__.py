"""Stage encode_items: gives semantic IDs to new and changed items with an unchanged quantizer."""
