"""What `align-iqa score` writes, copies, draws and prints when the images are scored, or when it was stopped."""

from types import SimpleNamespace

import typer

from align_iqa_plugin.cli.errors import say
from align_iqa_plugin.cli.outputs import try_to_write
from align_iqa_plugin.runtime.counts import counted
from align_iqa_plugin.score.choose import Choice, describe, ties
from align_iqa_plugin.score.copy_to import Copies, copy_rows
from align_iqa_plugin.score.rows import Row
from align_iqa_plugin.score.score_folder import ScoreFolder
from align_iqa_plugin.score.write import correlation_with_mos, print_rows, write_rows

PROBLEMS = 10  # of copies that are printed; others are counted


def finish(
    given: SimpleNamespace,
    rows: list[Row],
    kept: list[Row] | None,
    choice: Choice,
    *,
    folder: ScoreFolder | None,
    seconds: float,
    stopped: BaseException | None,
) -> int:
    """Do what the command was asked for with its rows; gives the exit status.

    Args:
        given: the parameters of `score`, by name.
        rows: all, scored or not.
        kept: of a choice; None: nothing was to be chosen, or the command was stopped before.
        choice: what was to be chosen.
        folder: of the scores; the hidden one of an output file is removed when nothing is left to be done.
        seconds: that scoring took.
        stopped: what ended the command, KeyboardInterrupt or an error.
    """
    done = [row for row in rows if row.done]
    failed = sum(row.error != '' for row in done)
    saved = drawn = True
    copies = Copies()
    if given.output and given.engine == 'local':
        with_prompt = given.prompts is not None or any(row.prompt is not None for row in rows)
        saved = try_to_write(lambda: write_rows(given.output, done, with_prompt=with_prompt, with_mos=given.samples))
    print_rows(done, given.output if saved else None, kept)
    if given.samples:
        typer.echo(correlation_with_mos(done))
    say(f'{len(done) - failed} of {counted(len(rows), "image")} scored in {seconds:.0f} s, {failed} with an error.')
    if failed < len(done) and all(row.std is None for row in done):
        say('These weights state no deviation of their scores, so std is empty: fit them anew with this version to have it.')
    if kept is not None:
        say(f'{len(kept)} kept: {describe(rows, choice)}.')
        tied, compared = ties(rows, choice)
        if tied:
            say(
                f'In {tied} of {counted(compared, "group")}, the last image kept and the next one are a tie: either may be '
                'the better one.'
            )
    shown = done if kept is None else kept
    if (given.copy_to or given.link_to) and not stopped:
        try:
            copies = _copy(given, shown)
        except KeyboardInterrupt as error:
            stopped = error
    if folder and given.engine == 'local' and (folder.is_empty or saved and not copies.missing and not stopped):
        folder.remove()
    if isinstance(stopped, KeyboardInterrupt):
        left = [f'{counted(len(rows) - len(done), "image was", "images were")} not scored']
        left += ['nothing was chosen'] * (bool(choice) and kept is None)
        left += ['not all was copied'] * bool(given.copy_to or given.link_to)
        left += ['no contact sheet drawn'] * bool(given.sheet)
        say(f'Stopped by Ctrl-C: {"; ".join(left)}.')
        return 130
    if stopped:
        say(f'Stopped: {stopped} What was scored is kept, and the same command goes on from there.')
    if given.sheet and not (stopped and choice):
        from align_iqa_plugin.score.contact_sheet import write_sheet

        drawn = try_to_write(lambda: write_sheet(given.sheet, shown))
    return int(bool(failed or stopped or copies.problems or not (saved and drawn) or len(done) < len(rows)))


def _copy(given: SimpleNamespace, rows: list[Row]) -> Copies:
    """Copy the images of these rows that have a score, or link to them, and print what became of it."""
    target = given.copy_to or given.link_to
    scored = [row for row in rows if row.score is not None]
    copies = copy_rows(scored, target, as_links=target == given.link_to, write_metadata=given.write_metadata)
    for problem in copies.problems[:PROBLEMS]:
        say(problem)
    if len(copies.problems) > PROBLEMS:
        say(f'... and {counted(len(copies.problems) - PROBLEMS, "more image")} with a problem.')
    verb = 'linked from' if given.link_to else 'copied to'
    there = f'; {copies.found} {"was" if copies.found == 1 else "were"} there already' * bool(copies.found)
    others = f'; it also holds {counted(copies.others, "other file")}' * bool(copies.others)
    say(f'{counted(copies.made, "image")} {verb} {target}{there}{others}.')
    return copies
