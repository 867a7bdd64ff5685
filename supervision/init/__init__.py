"""PID 1 of every jail, a subreaper elsewhere: it holds what must outlive the daemons, which are its replaceable children.

Owns listening sockets, both ends of every channel, log pipes, children and their exit statuses; obeys its control
sockets (docs/architecture.md 9). Holds no key, speaks to no network, decides nothing but "again, a little later".

INV-INIT-1: nothing that a client or a child does makes it wait without bound, grow without bound, or end.
INV-INIT-2: a `daemon` control names only services whose uid, gid and groups all lie in its uids.
INV-INIT-3: a child inherits 0, 1, 2 and what its service names, nothing else.

Started as ``python3 -I -S PATH/supervision/init/__main__.py --spec FD``. Imports the standard library only, and of that
the C modules beneath `json`, `signal`, `socket` and `ctypes`: those pull in enum and re, which costs each jail 13 ms
and 2 MB (measured with CPython 3.11).
"""
