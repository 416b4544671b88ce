from calrec.api.model import CALRec as CALRec

__version__: str
