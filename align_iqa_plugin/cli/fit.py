"""`align-iqa fit`: the metric, fitted to ratings of one's own."""

from pathlib import Path
from typing import Annotated

import typer

from align_iqa_plugin.cli.errors import fail, stop
from align_iqa_plugin.runtime.counts import counted
from align_iqa_plugin.runtime.files import expand_home


def fit(
    ratings: Annotated[
        Path,
        typer.Argument(help='Table (.csv, .xlsx, .parquet): image and score, or image_a, image_b and better (a, b or tie).'),
    ],
    output: Annotated[
        Path, typer.Option('--output', '-o', help='The .safetensors file to write; beside it, a .png of the fit.')
    ],
    images: Annotated[Path | None, typer.Option(help="The folder of the images; by default the table's.")] = None,
    weights: Annotated[Path | None, typer.Option(help='Weights to start from in place of those of this package.')] = None,
    cache: Annotated[Path, typer.Option(help='Folder that keeps the features of images.')] = Path('~/.cache/align_iqa'),
    device: Annotated[str | None, typer.Option(help='cpu, cuda, cuda:1 ...; the GPU if there is one.')] = None,
) -> None:
    """Fit the metric to your ratings: in closed form, from 20 of them on.

    The score of the package is where the fit starts from: with few ratings it
    hardly moves, with many it follows them. Columns prompt and rater are used
    where there are any: ratings of one prompt are left out together, and a rater
    may rate higher than others. The output is a file for --weights, and for
    pyiqa.create_metric('align_iqa', pretrained_model_path=FILE).

    Printed are the agreement before and after, cross-validated, with 95 %
    intervals. Exit status: 0 written, 1 not written, 2 the command is wrong.
    """
    from align_iqa_plugin.cli.outputs import check_output

    output = expand_home(output)
    picture = output.with_suffix('.png')
    try:
        check_output('--output', output, inputs=[ratings, weights], endings=['.safetensors'])
        check_output('--output', picture, inputs=[ratings, weights])
        from align_iqa_plugin.data.ratings import read_ratings
        from align_iqa_plugin.runtime.devices import usable_device

        rated = read_ratings(ratings, images)
        chosen = usable_device(device)

        from align_iqa_plugin.archs.exported import checkpoint, exported
        from align_iqa_plugin.archs.pretrained import load_align_iqa, read_network
        from align_iqa_plugin.cli.progress import progress_bar
        from align_iqa_plugin.data.feature_cache import FeatureCache, depends_on_image_alone
        from align_iqa_plugin.evaluation import rating_report as report
        from align_iqa_plugin.models.rating_fit import RatingProblem, features_of_files
        from align_iqa_plugin.runtime.atomic import atomic_write
        from align_iqa_plugin.runtime.files import file_digest

        given = {} if weights is None else read_network(weights, '--weights')
        network = load_align_iqa(weights or 'packaged', '--weights').to(chosen).eval()
        kept = FeatureCache(cache, network) if depends_on_image_alone(network) and network.config['freeze_backbone'] else None
        with progress_bar('Features', len(rated.paths)) as advance:
            features = features_of_files(network, rated.paths, rated.prompts, device=chosen, cache=kept, advance=advance)
        problem = RatingProblem(network.cpu(), features, rated)
    except (ValueError, OSError, RuntimeError) as error:
        fail('fit', error)
    found = problem.fit()
    with progress_bar('Cross-validation', 20) as advance:
        predicted = report.cross_validated(problem, advance)
        curve = report.learning_curve(problem, advance=advance)
    _print(problem, report.correlations_of(problem, predicted), found, report.reliability(problem))
    problem.apply(found)
    if problem.second is None:
        network.score_range = (min(rated.values), max(rated.values))
    made = {'ratings': ratings.name, 'ratings_sha256': file_digest(ratings), 'from': weights and weights.name}
    try:
        # the file that the fit started from may be the only one with the weights of the frozen parts
        whole = given.get('backbone_weights') == 'random'
        atomic_write(output, exported(network, given, made) if whole else checkpoint(network, made))
        report.draw_report(picture, problem, predicted, curve)
    except OSError as error:
        stop('fit', 1, error)
    typer.echo(f"{output}: for --weights, and pretrained_model_path of pyiqa.create_metric('align_iqa').\n{picture}: the fit.")


def _print(problem, found, posterior, reliable) -> None:
    ratings = problem.ratings
    parts = [f'{counted(len(ratings.values), "rating")} of {counted(len(ratings.paths), "image")}']
    parts += [counted(len(set(filter(None, ratings.prompts))), 'prompt')] if any(ratings.prompts) else []
    parts += [counted(len(set(ratings.raters)), 'rater')] if ratings.raters else []
    typer.echo(', '.join(parts) + '.')
    typer.echo(f'{"left out, 95 % interval":26}{"before":26}{"after":26}difference')
    for name, change in found.items():
        typer.echo(f'{name:26}' + ''.join(f'{each!s:26}' for each in change).rstrip())
    if posterior.slope == 0:
        typer.echo('The score before the fit contradicts the ratings, and was not used.')
    if any(change.difference.high < 0 for change in found.values()):
        typer.echo(
            'On ratings that it has not seen, the fit agrees less than the score before: keep that, or rate more images.'
        )
    elif all(change.difference.low <= 0 for change in found.values()):
        typer.echo('The ratings are too few to show that the fit is better than the score before: rate more images.')
    if reliable and reliable[1] < 0.4:
        typer.echo(f'The ratings contradict each other: over {reliable[0]}, they agree by {reliable[1]:.2f} of 1.')
