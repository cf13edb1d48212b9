"""Where transitions lie during training: rows, storage, statistics. Imports datasets, networks and below."""
