"""The command `calrec`."""
