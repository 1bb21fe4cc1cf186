"""Shell files that run at the other end of a transport."""
