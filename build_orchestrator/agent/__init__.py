"""The agent packager: what is built inside a machine, and useful alone.

It runs on Python 3.8 and later, from source or as one file, and imports nothing of ours beside
itself. `build agent` and `cfy-ap` are its command line, ``packager.create`` is its Python call.
"""
