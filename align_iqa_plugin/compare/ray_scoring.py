"""Scores the images of data sets with one metric in the workers of Ray; each result goes into the store as it comes back."""

from collections.abc import Callable, Sequence
from dataclasses import asdict

from align_iqa_plugin.compare.metrics import Metric
from align_iqa_plugin.compare.scoring import Scorer
from align_iqa_plugin.compare.store import Configuration, Pending, Result, Store
from align_iqa_plugin.runtime.devices import usable_device
from align_iqa_plugin.runtime.memory import PeakMemory
from align_iqa_plugin.runtime.ray_workers import DIED, Workers


def score_with_ray(
    team: Workers,
    store: Store,
    datasets: Sequence[str],
    configuration: Configuration,
    batch_size: int,
    show: Callable[[str, int], Callable[[int], None]],
) -> None:
    """Score whatever the data sets lack of this metric.

    Args:
        team: the workers.
        store: where the scores go; this process alone writes there.
        datasets: their names in the store.
        configuration: of the metric, as it is in every worker.
        batch_size: most images that the metric is given together.
        show: takes what is done and the number of images, and gives the function that counts those that are done.

    Raises:
        RayError: the metric cannot be loaded in a worker, or Ray failed; what came back until then is in the store.
    """
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    images: dict[str, tuple[str, dict[str, None]]] = {}
    for each in (each for dataset in datasets for each in store.pending(dataset, configuration)):
        path, prompts = images.setdefault(each.sha256, (each.path, {}))
        prompts.update(dict.fromkeys(each.prompts))
    pending = [Pending(sha256, path, tuple(prompts)) for sha256, (path, prompts) in images.items()]
    name = configuration.metric
    arguments = {'name': name, 'config': DEFAULT_CONFIGS[name], 'device': team.device, 'batch_size': batch_size}
    arguments['weights_sha256'] = configuration.weights_sha256
    costs: dict[str, float] = {}
    advance = show('in the workers of Ray', len(pending))
    for done in team.map(RayScorer, arguments, [asdict(each) for each in pending], 4 * batch_size):
        results = []
        for number, result in done:
            if result is None:
                results += [Result(pending[number].sha256, prompt, None, DIED) for prompt in pending[number].prompts]
            else:
                results += [Result(**each) for each in result['results']]
                costs |= {key: value for key, value in result['costs'].items() if value is not None}
        store.put_scores(configuration, results, team.device)
        advance(len(done))
    if costs:
        store.put_costs(name, decode_seconds=costs.get('decode_seconds'), peak_mb=costs.get('peak_mb'))


class RayScorer:
    """Made once in each worker of Ray: takes fields of `Pending`, gives fields of `Result` and what the metric costs."""

    def __init__(self, name: str, config: dict, device: str, batch_size: int, weights_sha256: str):
        from pyiqa.default_model_configs import DEFAULT_CONFIGS

        DEFAULT_CONFIGS[name] = config  # an option file may have changed it in the process of the command
        chosen = usable_device(device)
        memory = PeakMemory(chosen)
        metric = Metric(name, chosen)
        if metric.configuration.weights_sha256 != weights_sha256:
            raise ValueError(f'{name} has other weights here than where the command runs: use the same files everywhere.')
        self.results = _Results()
        self.scorer = Scorer(metric, self.results, batch_size=batch_size, workers=0, memory=memory)

    def __call__(self, images: list[dict]) -> list[dict]:
        self.results.of = {each['sha256']: [] for each in images}
        self.scorer.score_images([Pending(**{**each, 'prompts': tuple(each['prompts'])}) for each in images])
        costs = {'decode_seconds': self.scorer.decode_seconds, 'peak_mb': self.scorer.batches.peak_mb}
        return [{'results': results, 'costs': costs} for results in self.results.of.values()]


class _Results:
    """A `ResultStore` that keeps the results by image."""

    def __init__(self) -> None:
        self.of: dict[str, list[dict]] = {}

    def put_scores(self, configuration: Configuration, results: Sequence[Result], device: str) -> None:
        for result in results:
            self.of[result.sha256].append(asdict(result))
