"""What is wrong with the options of `align-iqa score`, before any work."""

from math import isfinite
from types import SimpleNamespace

from align_iqa_plugin.cli.errors import fail
from align_iqa_plugin.runtime.files import are_weights
from align_iqa_plugin.runtime.names import suggest

ENGINES = ('local', 'ray')


def check_usage(given: SimpleNamespace) -> None:
    """End the command with a sentence if its options do not fit together.

    Args:
        given: all parameters of `score`, by name.
    """
    problems = {
        '--samples brings its own images and prompts; leave out IMAGES, --prompt and --prompts.': given.samples
        and (given.images or given.prompt is not None or given.prompts),
        'name at least one image, folder or glob, or use --samples.': not given.samples and not given.images,
        'give either --prompt or --prompts.': given.prompt is not None and given.prompts,
        '--prompt is empty; leave it out to score without a prompt.': given.prompt is not None and not given.prompt.strip(),
        f"unknown --engine '{given.engine}'{suggest(given.engine, ENGINES)}": given.engine not in ENGINES,
        '--workers is for --engine ray.': given.workers and given.engine != 'ray',
        f"--output '{given.output}' must be a folder with --engine ray, which writes Parquet files into it.": given.engine
        == 'ray'
        and given.output
        and given.output.suffix.lower() in ('.csv', '.json'),
        f'--batch-size must be at least 1, not {given.batch_size}.': given.batch_size < 1,
        f"the weights '{given.weights}' are not a file.": given.weights and not are_weights(given.weights),
        f'--best must be at least 1, not {given.best}.': given.best is not None and given.best < 1,
        '--per is for --best: it says of what the best are kept.': given.per is not None and given.best is None,
        f'--min-score must be a number, not {given.min_score}.': given.min_score is not None and not isfinite(given.min_score),
        'give either --copy-to or --link-to.': given.copy_to and given.link_to,
        '--write-metadata is for --copy-to: a score is written into copies alone.': given.write_metadata and not given.copy_to,
    }
    for sentence, wrong in problems.items():
        if wrong:
            fail('score', sentence)
