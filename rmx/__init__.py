"""rmx: train, evaluate and use reward models.

>>> import rmx
>>> rmx.__version__
'0.1.0'
"""

__version__ = "0.1.0"
