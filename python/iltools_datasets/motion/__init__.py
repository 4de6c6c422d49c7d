"""What the numbers of a clip mean: rotations, rates, and which velocity belongs to what."""
