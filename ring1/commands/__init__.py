"""The command line of ring 1: apps from push to rollback, their settings and logs, and tokens."""
