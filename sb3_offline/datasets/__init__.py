"""From an id, a file or arrays to one checked data set. Imports the ground alone."""

from sb3_offline.catalogue import register_envs
from sb3_offline.datasets.data_envs import make_env
from sb3_offline.datasets.envs import SpacesOnlyEnv
from sb3_offline.datasets.errors import DatasetError, DatasetWarning
from sb3_offline.datasets.goals import relabel_goals
from sb3_offline.datasets.offline_dataset import DatasetInfo, OfflineDataset
from sb3_offline.datasets.sources import DatasetSource, Source, load_dataset, open_dataset
from sb3_offline.datasets.sources.folder import MappedWriter, save_mapped

__all__ = [
    "DatasetError",
    "DatasetInfo",
    "DatasetSource",
    "DatasetWarning",
    "MappedWriter",
    "OfflineDataset",
    "Source",
    "SpacesOnlyEnv",
    "load_dataset",
    "make_env",
    "open_dataset",
    "register_envs",
    "relabel_goals",
    "save_mapped",
]
