"""The one kind of error that is the user's to mend."""


class InputError(Exception):
    """Something outside the program is wrong: a recipe, a file, a checkpoint, the disk.

    The message is one line that names the file, the field and the remedy. The command line prints it
    and exits with code 2; nothing has been overwritten or half-written when it is raised.
    """
