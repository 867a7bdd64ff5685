"""Keep the ring inside running: init, hands, strategies, plans."""
