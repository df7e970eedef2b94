"""CPU execution."""
