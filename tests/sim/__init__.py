"""Three rings in one process on virtual time: the shipped daemons on a simulated clock, disk and bus, driven by a seed.

What is shipped and runs as it is: ``Ring0`` and ``Ring1`` with everything in them (Domain, journal, decider, dispatcher, replay guard,
trust, caring, charters, follower, witness), ``ring2.daemon.Agent``, and the callers. What is simulated: time and chance (behind
``enjin.host``), threads, the disk at a power cut, the bus and the pipes, and the three things that act on processes of the machine:
init, hands and the HTTP listener.
"""
