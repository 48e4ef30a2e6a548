"""What questions are answered from: the split, pairs and chunks of frames, probes, and controls."""
