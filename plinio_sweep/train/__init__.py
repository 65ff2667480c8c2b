"""Gradient descent: recipes, the one loop, and the pressure of a cost."""
