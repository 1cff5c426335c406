"""The story of one target, and the schedule of all.

``images`` resolves what machines start from, ``attempt`` is one try of a build on a machine of its
own, ``build`` is all its tries and what they amount to, ``schedule`` runs many at once.
"""
