"""Where an image's channels are: last, as most environments have them, or first, as SB3's networks take them."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first


def other_layout(space: spaces.Box) -> tuple[int, ...] | None:
    """The shape of the same image with its channels, the shortest axis, at the other end; None of what is no uint8 image."""
    if not is_image_space(space) or np.argmin(space.shape) == 1:
        return None
    first, second, third = space.shape
    return (second, third, first) if is_image_space_channels_first(space) else (third, first, second)


def with_channels_of(space: spaces.Box, images: np.ndarray) -> np.ndarray:
    """Images (n, ...) in the layout of their space, as a view: nothing is copied. Any other array as it is."""
    if images.shape[1:] == space.shape or images.shape[1:] != other_layout(space):
        return images
    return np.moveaxis(images, -1, 1) if is_image_space_channels_first(space) else np.moveaxis(images, 1, -1)
