"""The published P2T policy: its modules, and conversion of its checkpoints."""
