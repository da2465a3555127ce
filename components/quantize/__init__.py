"""Stage quantize: trains the cross-modal quantizer, which maps item vectors to codes."""
