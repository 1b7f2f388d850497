"""Options that take several values each, as those of pyiqa's own scripts do."""

from typer.core import TyperCommand

SAMPLE = 36  # images of a data set for --behaviour: some 1,080 pictures with their 29 copies


class ManyValues(TyperCommand):
    """A command whose options -m and -d take several values each, and whose --behaviour may stand without one."""

    def parse_args(self, context, arguments):
        expanded, option, values = [], None, 0
        for argument, following in zip(arguments, [*arguments[1:], '-'], strict=True):
            if argument.startswith('-') and argument != '-':
                option, values = argument, 0
            elif option in ('-m', '--metrics', '-d', '--datasets'):
                values += 1
                if values > 1:
                    expanded.append(option)
            expanded.append(argument)
            if argument == '--behaviour' and following.startswith('-'):
                expanded.append(str(SAMPLE))
        return super().parse_args(context, expanded)
