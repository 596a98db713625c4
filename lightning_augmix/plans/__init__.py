"""Plans: every random choice AugMix makes for an image, drawn from a 64-bit key."""
