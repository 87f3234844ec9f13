"""The wire, part by part, without a network."""
