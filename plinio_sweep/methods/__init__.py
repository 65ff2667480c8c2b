"""The gradient methods: one file a method, over one abstract search."""
