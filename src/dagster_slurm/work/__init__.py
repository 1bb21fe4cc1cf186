"""What one call asks for, whoever does it."""
