"""The servers of apps that bring none: WSGI and static files, standard library only.

A copy of this package lies in the release of every app that needs it, as ``.enjin/serve/enjin_serve``, and runs with the app's
own interpreter. It therefore imports nothing of ours but itself, by relative imports, and a release never changes with enjin.
"""
