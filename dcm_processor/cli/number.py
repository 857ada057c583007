"""Numbers as options take them."""

import math
from typing import Any

import click


class Number(click.FloatRange):
    """A number in a range; "nan", which is in every range, is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """As click's, for numbers alone."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is no number", param, ctx)
        return number
