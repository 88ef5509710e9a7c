"""A progress bar that shows what falls."""

from collections.abc import Callable

from mrsim._check import require


def progress_bar(total: int, shown: bool) -> Callable[[float], None]:
    """Return a function that moves a bar on by one step and shows a value.

    Args:
        total: number of steps.
        shown: whether there is a bar (needs tqdm, extra ``demo``).

    Returns:
        The function of the value.
    """
    if not shown:
        return lambda _: None
    bar = require("tqdm", "demo").tqdm(total=total, unit="step")

    def move(value: float) -> None:
        bar.set_postfix_str(f"loss {value:.5g}", refresh=False)
        bar.update()

    return move
