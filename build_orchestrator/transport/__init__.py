"""Talk to a machine: run a script in it, push a folder into it, pull a folder out of it.

``shell`` has what every way of talking shares, ``ssh`` talks to real machines, ``windows`` to those
without a shell of Unix, ``winrm`` to those of them that have no OpenSSH either, ``local`` to this
host under the same contract; ``tree`` turns folders into tar streams and back.
"""
