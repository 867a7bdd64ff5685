"""Infrastructure as a Service: the ring that runs tenants' apps.

Its daemon runs inside a node that ring 0 made. This package imports nothing from the other rings.
"""
