"""A job's life: what names it, what is known of it, what follows from that, and who looks."""
