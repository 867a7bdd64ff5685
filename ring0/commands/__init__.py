"""The command line of ring 0: the cloud itself, its world, its trust and its journals."""
