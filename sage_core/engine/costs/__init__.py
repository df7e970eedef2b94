"""What passes cost."""
