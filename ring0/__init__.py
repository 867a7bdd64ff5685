"""Meta as a Service: the ring that supervises ring 1 nodes, and gives them addresses, keys and charters."""
