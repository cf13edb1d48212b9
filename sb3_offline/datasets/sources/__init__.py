"""Everything that logged data may come from: packaged ids, Minari, HDF5, npz, arrays, SB3's ReplayBuffer, lists."""

from sb3_offline.datasets.sources.opening import DatasetSource, Source, load_dataset, open_dataset

__all__ = ["DatasetSource", "Source", "load_dataset", "open_dataset"]
