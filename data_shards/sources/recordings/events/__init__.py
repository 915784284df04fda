"""Events of recordings: triggers, annotations and events.tsv, and how trials are joined to them."""
