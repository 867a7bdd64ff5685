"""From a source archive to a tree that can run: extract, recognise, build.

Owns what happens inside a build jail between ``/source.tar`` and ``/out``. Knows no bus, no keys and no journal; imports the
standard library and ``enjin.errors`` only, because it starts once for every push. ``wsgi_server`` and ``static_server`` import
nothing of ours at all: they are copied into the release and run with the app's own interpreter.
"""
