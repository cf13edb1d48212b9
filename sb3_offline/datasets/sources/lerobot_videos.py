"""LeRobot's cameras: a video holds the frames of many episodes one after the other, and LeRobot's own package decodes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.mapped import blocks
from sb3_offline.datasets.sources.tables.frames import readable
from sb3_offline.files.archives import DATA_LIMITS, FileRefused, check_expansion
from sb3_offline.files.regular import bytes_on_disk, leads_out

_TOLERANCE = 1e-4  # seconds between a row and its frame, as in LeRobot's own data sets
#: Frames that hardly differ take next to nothing.
_LIMITS = (DATA_LIMITS[0], 10 * DATA_LIMITS[1])
_DECODED = 2**26  # bytes of frames at once


@dataclass(frozen=True)
class Camera:
    """
    Frames of one feature.

    :param shape: of a frame, (height, width, 3)
    :param places: of each episode, the video and the second in it at which the episode begins
    """

    name: str
    shape: tuple[int, ...]
    places: Mapping[int, tuple[Path, float]]

    #: The columns by which a row's frame is found.
    found_by = ("episode_index", "timestamp")

    def frames(self, episodes: np.ndarray, times: np.ndarray) -> np.ndarray:
        """
        :param episodes: (n,)
        :param times: (n,) seconds since the episode's start
        :return: (n, height, width, 3) uint8
        :raises DatasetError: if a video is missing, cannot be decoded, or has frames of another size or at other times
        """
        decoded = np.empty((len(times), *self.shape), np.uint8)
        for video, rows, seconds in self._by_video(episodes, times):
            for part in blocks(len(rows), max(1, _DECODED // (4 * int(np.prod(self.shape))))):
                decoded[rows[part]] = self._decoded(video, seconds[part].tolist())
        return decoded

    def _by_video(self, episodes: np.ndarray, times: np.ndarray) -> Iterator[tuple[Path, np.ndarray, np.ndarray]]:
        """Each video, the rows that it holds, and their seconds in it."""
        known, of_row = np.unique(episodes, return_inverse=True)
        unknown = [int(episode) for episode in known if int(episode) not in self.places]
        if unknown:
            raise DatasetError(f"{self.name}: meta/episodes does not say which video holds episode {unknown[0]}.")
        places = [self.places[int(episode)] for episode in known]
        for video in dict.fromkeys(path for path, _ in places):
            rows = np.flatnonzero(np.array([path == video for path, _ in places])[of_row])
            yield video, rows, np.array([start for _, start in places])[of_row[rows]] + times[rows]

    def _decoded(self, video: Path, seconds: list[float]) -> np.ndarray:
        decode = decoder(self.name)
        try:
            frames = decode(video, seconds[:1], _TOLERANCE)  # a video may hold larger frames than it says
            if tuple(frames.shape[1:]) == (self.shape[2], *self.shape[:2]) and len(seconds) > 1:
                frames = decode(video, seconds, _TOLERANCE)
            images = (frames.permute(0, 2, 3, 1) * 255).round().numpy().astype(np.uint8)
        except Exception as error:  # the decoders raise any kind
            message = " ".join(str(error).split())
            raise DatasetError(
                f"{video}: LeRobot cannot decode {self.name}: {type(error).__name__}: {message:.300}"
            ) from error
        if images.shape[1:] != self.shape:
            raise DatasetError(f"{video}: its frames have shape {images.shape[1:]}; meta/info.json says {self.shape}.")
        return images


def decoder(name: str) -> Callable[..., Any]:
    """
    LeRobot's ``decode_video_frames``, which gives (n, 3, height, width) in [0, 1] at seconds of a video.

    :raises DatasetError: if the package is not installed, or is too old
    """
    try:
        from lerobot.datasets.video_utils import decode_video_frames
    except ImportError as error:
        raise DatasetError(
            f'{name} is a video, which LeRobot\'s own package decodes: pip install "lerobot[dataset]>=0.4" ({error}). Or '
            "leave it out of columns=."
        ) from error
    return decode_video_frames


def open_cameras(folder: Path, features: Mapping[str, Any], names: Sequence[str]) -> list[Camera]:
    """
    :param features: what ``meta/info.json`` says of each
    :param names: of those that are videos
    :raises DatasetError: if LeRobot's package is not installed, a file is missing or damaged, a camera is not of colours, or
        the frames would take far more memory than the videos have bytes on disk
    """
    cameras = []
    for name in names:
        decoder(name)
        shape = tuple(features[name].get("shape") or ())
        if len(shape) != 3 or shape[2] != 3 or not all(isinstance(size, int) and size > 0 for size in shape):
            raise DatasetError(
                f"{folder}: {name} has shape {shape}; videos of (height, width, 3) are read. Leave it out of columns=."
            )
        cameras.append(Camera(name, shape, _places(folder, name, shape)))
    return cameras


def _places(folder: Path, name: str, shape: tuple[int, ...]) -> dict[int, tuple[Path, float]]:
    """Where each episode is, by the table of episodes."""
    import pyarrow.dataset as ds

    keys = [f"videos/{name}/{key}" for key in ("chunk_index", "file_index", "from_timestamp")]
    episodes = folder / "meta" / "episodes"
    with readable(str(episodes)):
        files = [str(file) for file in sorted(episodes.glob("*/*.parquet"))]
        table = ds.dataset(files, format="parquet").to_table(columns=["episode_index", *keys]).to_pydict()
        places = {
            int(episode): (folder / "videos" / name / f"chunk-{chunk:03d}" / f"file-{number:03d}.mp4", float(start))
            for episode, chunk, number, start in zip(*table.values(), strict=True)
        }
        n_rows = ds.dataset(str(folder / "data"), format="parquet").count_rows()
    videos = list(dict.fromkeys(video for video, _ in places.values()))
    for video in videos:
        if not video.is_file() or leads_out(video, folder):
            raise DatasetError(f"{video}: there is no such video in the folder, which meta/episodes names. Copy it there.")
    try:
        check_expansion(f"{folder}: {name}", n_rows * int(np.prod(shape)), sum(map(bytes_on_disk, videos)), _LIMITS)
    except FileRefused as error:
        raise DatasetError(f"{error} Or leave it out of columns=.") from error
    return places
