"""What a network is: its trace, its table of channels, and the surgery that cuts them."""
