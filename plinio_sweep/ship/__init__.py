"""What leaves the house: bundles of one trial that other tools read."""
