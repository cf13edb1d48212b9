"""The base classes of the algorithms, in SB3's sense of the name. Imports every room below, and no algorithm."""
