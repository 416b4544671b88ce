"""A whole training on this machine, and the class for notebooks: `from calrec import CALRec`."""
