"""What pyproject.toml cannot say: zoo_configs/ of the checkout is the package sb3_offline.zoo_configs of a wheel."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["sb3_offline", "sb3_offline.*"]), "sb3_offline.zoo_configs"],
    package_dir={"sb3_offline.zoo_configs": "zoo_configs"},
)
