"""Which of these saved policies? Every model of a folder, judged from logged data alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from warnings import warn

from rich.markup import escape
from rich.table import Table

from sb3_offline.datasets import OfflineDataset, SpacesOnlyEnv
from sb3_offline.files.refusal import printable
from sb3_offline.ope import DirectMean, Estimator, Ranked, behavior_value, rank
from sb3_offline.shell.consoles import narrow_table
from sb3_offline.shell.models import SavedModel, load_model


@dataclass(frozen=True)
class Candidate:
    """
    A saved policy and what is said of it.

    :param path: its file
    :param algorithm: its class's name
    :param own_q: its own critic's mean at the first states; None where it has none that can be asked
    :param steps: it was trained for
    """

    path: Path
    algorithm: str
    ranked: Ranked
    own_q: float | None
    steps: int

    @property
    def trained(self) -> datetime:
        """When the file was written."""
        return datetime.fromtimestamp(self.path.stat().st_mtime)

    @property
    def megabytes(self) -> float:
        return self.path.stat().st_size / 1e6


@dataclass(frozen=True)
class Selection:
    """
    :param candidates: the highest lower bound first
    :param behavior: the mean discounted return of the log itself
    :param dataset_id: of the data that judged
    """

    candidates: list[Candidate]
    behavior: float
    dataset_id: str
    episodes: int

    @property
    def best(self) -> Candidate:
        return self.candidates[0]

    def sentences(self) -> Iterator[str]:
        """What may be trusted of it, in plain words."""
        best, estimate = self.best.ranked, self.best.ranked.estimate
        yield from (f"{best.name}: {sentence}" for sentence in best.doubts)
        if estimate.value <= self.behavior:
            yield (
                f"No policy is estimated above the log's own behaviour ({self.behavior:.4g}): deploying one would most "
                "likely be a step back."
            )
        elif not estimate.low > self.behavior:
            yield (
                f"The best one may still be worse than the log's own behaviour ({self.behavior:.4g}): its interval reaches "
                f"down to {estimate.low:.4g}."
            )
        rivals = [other.ranked.name for other in self.candidates[1:] if other.ranked.estimate.high > estimate.low]
        if rivals:
            others = f"{rivals[0]} may be as good" if len(rivals) == 1 else f"{len(rivals)} others may be as good"
            yield f"{others} as {best.name}: the intervals overlap."


def find_models(folder: Path) -> list[Path]:
    """
    Every ``.zip`` below a folder, or the file itself.

    :raises ValueError: if there is none
    """
    paths = [folder] if folder.is_file() else sorted(folder.rglob("*.zip"))
    if not paths:
        raise ValueError(f"{folder} holds no saved model (.zip), in itself or in its folders.")
    return paths


def select(folder: Path, dataset: OfflineDataset, estimator: Estimator, trust: bool = False) -> Selection:
    """
    Judge every model that is saved below a folder. What is no model, or one of other spaces, is passed over with a warning.

    :param dataset: logged episodes, best such as no model was trained on
    :param trust: load pickled models of SB3, too
    :raises ValueError: if no model could be judged
    """
    root = folder.parent if folder.is_file() else folder
    candidates = []
    for path in find_models(folder):
        try:
            saved = load_model(path, None, trust)
            ranked = rank({printable(str(path.relative_to(root))): judged(saved, dataset)}, dataset, [estimator])[0]
        except (ValueError, OSError) as error:
            warn(printable(f"{path} is passed over: {error}"), stacklevel=2)
            continue
        candidates.append(
            Candidate(path, type(saved.model).__name__, ranked, _own_q(saved, dataset), saved.model.num_timesteps)
        )
    if not candidates:
        raise ValueError(f"None of the models in {folder} could be judged by {dataset.info.dataset_id}: see the warnings.")
    candidates.sort(key=lambda one: one.ranked.bound, reverse=True)
    behavior = behavior_value(dataset, estimator.gamma)
    return Selection(candidates, behavior, dataset.info.dataset_id, dataset.n_episodes)


def judged(saved: SavedModel, dataset: OfflineDataset) -> object:
    """The model as an estimator takes it: with the normaliser that it was trained with, if there was one."""
    if saved.statistics is not None:
        saved.model.set_env(saved.vec_env(SpacesOnlyEnv(dataset.observation_space, dataset.action_space)))
    return saved.model


def _own_q(saved: SavedModel, dataset: OfflineDataset) -> float | None:
    try:
        return DirectMean().estimate(saved.model, dataset).value
    except ValueError:
        return None


HEAD = ("policy", "estimate", "interval", "OOD score", "own Q", "TD error", "algorithm", "steps", "MB", "written")


def rows(selection: Selection) -> list[tuple[str, ...]]:
    """The table's text, one row a candidate; a dash where there is nothing to say."""
    found: list[tuple[str, ...]] = []
    for one in selection.candidates:
        estimate = one.ranked.estimate
        ood, td = (estimate.diagnostics.get(name) for name in ("ood_score", "td_error"))
        found.append(
            (
                one.ranked.name,
                f"{estimate.value:.4g}",
                f"{estimate.low:.4g} to {estimate.high:.4g}",
                "-" if ood is None else f"{ood:.2f}",
                "-" if one.own_q is None else f"{one.own_q:.4g}",
                "-" if td is None else f"{td:.3g}",
                one.algorithm,
                f"{one.steps:,}",
                f"{one.megabytes:.1f}",
                f"{one.trained:%Y-%m-%d %H:%M}",
            )
        )
    return found


def table(selection: Selection) -> Table:
    """For the terminal."""
    title = f"Judged by {selection.dataset_id}; the log itself: {selection.behavior:.4g}"
    result = narrow_table(*HEAD, words=("policy", "algorithm"), title=title)
    for row in rows(selection):
        result.add_row(*map(escape, row))
    return result
