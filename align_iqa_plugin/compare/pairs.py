"""How well a metric chooses between the images of one prompt, and between generators.

The arguments `prompts` and `draws`, and the results, one number for each sample, are those of `evaluation.correlation`.
"""

import numpy as np

from align_iqa_plugin.evaluation.correlation import ratio, srcc, totals


def pairwise_accuracy(
    scores: np.ndarray, mos: np.ndarray, errors: np.ndarray, prompts: np.ndarray, draws: np.ndarray
) -> tuple[np.ndarray, int]:
    """How often a metric picks the better of two images of one prompt, 0 to 1, in each sample, and the number of pairs.

    Args:
        scores, mos: (n,), higher is better.
        errors: (n,), standard error of each MOS. A pair counts if its MOS differ by more than 1.96 standard errors of the
            difference, as if other people had rated each image; where the same people rated both, that is conservative.
            Where an error is NaN, any difference counts.

    Returns:
        (r,), NaN without a pair; equal scores are half right.
    """
    first, second = distinguishable_pairs(mos, errors, prompts)
    right = (1 + np.sign(scores[first] - scores[second]) * np.sign(mos[first] - mos[second])) / 2
    return _mean(right, prompts[first], draws), len(first)


def distinguishable_pairs(mos: np.ndarray, errors: np.ndarray, prompts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The images of each pair that `pairwise_accuracy` counts, as two arrays of indices."""
    pairs = [np.triu_indices(len(images), 1) + (images,) for images in _by_prompt(prompts)]
    first = np.concatenate([np.empty(0, int), *(images[i] for i, _, images in pairs)])
    second = np.concatenate([np.empty(0, int), *(images[j] for _, j, images in pairs)])
    noise = 1.96 * np.hypot(errors[first], errors[second])
    counts = np.abs(mos[first] - mos[second]) > np.nan_to_num(noise, nan=0.0)
    return first[counts], second[counts]


def best_of_n_regret(scores: np.ndarray, mos: np.ndarray, prompts: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """What is lost by showing the image of a prompt that the metric picks, in the unit of the MOS, (r,).

    The MOS of the best image of the prompt minus that of the picked one, mean over prompts with two images or more; NaN
    without such a prompt. Of several images with the highest score one is picked at random, so their mean MOS counts.
    """
    several = _by_prompt(prompts)
    lost = [mos[images].max() - mos[images][scores[images] == scores[images].max()].mean() for images in several]
    return _mean(np.array(lost), np.array([prompts[images[0]] for images in several], int), draws)


def system_srcc(scores: np.ndarray, mos: np.ndarray, generators: np.ndarray) -> tuple[float, int]:
    """SRCC of mean score and mean MOS over generators, and the number of generators; NaN for fewer than 3 of them.

    Images whose generator is '' are left out.
    """
    names = np.unique(generators[generators != ''])
    means = [[values[generators == name].mean() for name in names] for values in (scores, mos)]
    return float(srcc(*map(np.array, means))[0]), len(names)


def _mean(values, prompts, draws) -> np.ndarray:
    return ratio(totals(values, prompts, draws), totals(np.ones(len(values)), prompts, draws))


def _by_prompt(prompts) -> list[np.ndarray]:
    """The images of each prompt that has two or more."""
    order = np.argsort(prompts, kind='stable')
    groups = np.split(order, np.flatnonzero(np.diff(prompts[order])) + 1)
    return [images for images in groups if len(images) > 1]
