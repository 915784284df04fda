"""Side-by-side measurements; each prints a table and can write its figures to a file."""
