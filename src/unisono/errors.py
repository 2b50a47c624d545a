"""What a user did wrong, said once and clearly: the value, the place and the remedy."""


class UserError(ValueError):
    """An error the user can mend (bad file, bad field, bad setting).

    Entry points print the message alone and exit with status 1; everything else keeps its traceback.
    """
