"""`python -m peers gpu`: verify and measure training, inference and export on one device, without a network."""
