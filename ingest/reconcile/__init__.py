"""What the loader left open is settled here: references, pointers and counters, and the proof."""
