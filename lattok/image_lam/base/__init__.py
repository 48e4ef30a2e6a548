"""What models of frame pairs share: features, bottlenecks, losses, training, labelling."""
