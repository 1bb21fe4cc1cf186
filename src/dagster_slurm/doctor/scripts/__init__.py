"""Shell files that a login node runs for the doctor. They print "name value" lines."""
