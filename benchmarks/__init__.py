"""Side-by-side measurements; each prints a table and can append to results/."""
