"""One job on many ranks and nodes: starting, meeting, watching and ending them."""
