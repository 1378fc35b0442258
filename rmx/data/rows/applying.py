"""Options that gave the rows of a source nothing to do: a mistake, because the user believes that they act."""

from __future__ import annotations

from collections.abc import Collection

from rmx.data.rows.drafts import RowOptions
from rmx.errors import DataError

__all__ = ["idle_option"]

# option → what rows have to give it to work on, in `RowOptions.met` and in words
_NEEDS: dict[str, tuple[str, str]] = {
    "margin_from_scores": (
        "scores",
        "no row has scores that a margin could be made of (such as score_chosen and score_rejected, a score for each "
        "response, or a preference strength)",
    ),
    "min_gap": (
        "scores",
        "no row has scores whose difference could be compared with it (such as score_chosen and score_rejected, a "
        "score for each response, or a preference strength)",
    ),
    "ties": (
        "ties",
        "no row can say that neither response is better (by a column tie, target, or votes, a winner, or equal scores)",
    ),
    "pair_weighting": (
        "lists",
        "every row is one pair, and weighs the same either way; it is for rows with more than two responses",
    ),
}


def idle_option(
    source: str, prefix: str, options: RowOptions, detected: str, given: Collection[str] | None = None
) -> DataError | None:
    """The mistake of an option that is not at its default, although no row of the source gave it anything to work on.

    An option that had nothing to do *this time* is no mistake: `ties=keep` on votes without a tie, `min_gap` on scores
    that are far apart, `repeated_roles=reject` on rows that alternate.

    Args:
        source: the name of the source.
        prefix: what stands before the option's name in the config, "data" or "data.eval_sets.mine".
        options: the options with what the rows met.
        detected: what the format of the rows is.
        given: options said of this very source; None for all. An evaluation set inherits the others, and may have
            no use for them.

    >>> print(idle_option("pairs", "data", RowOptions(min_gap=1.0), "chosen and rejected"))
    data.min_gap=1.0: does nothing for pairs: no row has scores whose difference could be compared with it (such as \
score_chosen and score_rejected, a score for each response, or a preference strength). It was read as: chosen and \
rejected. Name the columns with data.columns, or leave the option out
    """
    defaults = RowOptions()
    for name, (need, reason) in _NEEDS.items():
        value = getattr(options, name)
        if value == getattr(defaults, name) or need in options.met or (given is not None and name not in given):
            continue
        return DataError(
            f"{prefix}.{name}={value}: does nothing for {source}: {reason}. It was read as: {detected}. "
            f"Name the columns with {prefix}.columns, or leave the option out"
        )
    return None
