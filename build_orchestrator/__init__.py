"""One command that builds an artifact in a machine that did not exist before."""
