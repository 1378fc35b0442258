"""Every number that a report page or a verb shows beside those that a run logs: what it says, its formula and unit.

What a run logs is in metric_names, with the words of pages for it (`best possible accuracy`).
Here is what only report.html, compare.html, sweep.html, audit.json, `rmx bench`, `rmx score` and `rmx verify` have.

In the formulas r⁺ and r⁻ are the rewards of the chosen and the rejected response, σ is the logistic function.
"""

from __future__ import annotations

from dataclasses import dataclass

from rmx.reference.entries import ReferenceEntry

__all__ = ["SHOWN_NUMBERS", "ShownNumber", "shown_number_entries"]


@dataclass(frozen=True)
class ShownNumber:
    """One number of a page or of a verb's output.

    Attributes:
        name: as files and `--json` have it; where only a page has it, the page's word.
        meaning: what it says.
        where: the pages, files and verbs that show it.
        formula: how it is made; "" where the meaning says it.
        unit: nats, reward units, a share from 0 to 1, ...
        shown_as: the words that pages and screens use for it.
    """

    name: str
    meaning: str
    where: str
    formula: str = ""
    unit: str = ""
    shown_as: tuple[str, ...] = ()


_REPORT, _COMPARE, _SWEEP = "report.html", "compare.html (rmx report A B)", "sweep.html, leaderboard.csv"
_PREDICTIONS = "generated_predictions.jsonl"
_AUDIT, _AUDIT_PAGE = "audit.json", "audit.json and report.html, Data audit"
_BENCH, _SCORE, _VERIFY = "rmx bench", "rmx score", "rmx verify"
_SHARE, _REWARD = "share, 0 to 1", "reward units"
_INTERVAL = "Wilson (1927)"


def _with_interval(number: ShownNumber) -> tuple[ShownNumber, ...]:
    """A number with the two ends of its interval."""
    name = number.name
    ends = (("low", f"lower end of the 95 % interval of {name}"), ("high", f"upper end of the 95 % interval of {name}"))
    return number, *(ShownNumber(f"{name}_{end}", text, number.where, _INTERVAL, number.unit) for end, text in ends)


_CALIBRATION = (
    ShownNumber(
        "ece",
        "expected calibration error: how far the confidence of the rewards is from how often they are right; 0 is best",
        f"{_REPORT}, {_COMPARE}",
        "Σ n_b / n · |accuracy_b - confidence_b| over ten equal bins b of [1/2, 1] (Guo et al. 2017); labelled ties "
        "are left out",
        _SHARE,
        ("ECE", "calibration error", "expected calibration error"),
    ),
    ShownNumber(
        "brier",
        "mean squared error of the predicted preference; 0 is best, a coin has 1/4",
        f"{_REPORT}, {_COMPARE}",
        "mean (1 - σ(r⁺ - r⁻))² (Brier 1950)",
        "0 to 1",
        ("Brier", "Brier score"),
    ),
    ShownNumber(
        "temperature",
        "what the rewards would have to be divided by to fit the labels best: above 1 they are overconfident, below 1 "
        "too timid; none where no finite one fits",
        _REPORT,
        "argmin over T of mean log(1 + exp(-(r⁺ - r⁻) / T))",
    ),
    ShownNumber(
        "log_loss",
        "mean cost of the predicted preferences; a coin has 0.6931",
        f"{_REPORT}, {_COMPARE}",
        "mean log(1 + exp(r⁻ - r⁺))",
        "nats",
        ("log loss",),
    ),
    ShownNumber(
        "log_loss_fitted",
        "the log loss after dividing the rewards by the temperature",
        _REPORT,
        "mean log(1 + exp(-(r⁺ - r⁻) / T))",
        "nats",
    ),
    ShownNumber(
        "confidence",
        "how sure the rewards are of a pair, whichever side they put ahead; the reliability diagram has its mean in a "
        "bin beside the share of pairs that are right",
        _REPORT,
        "σ(|r⁺ - r⁻|)",
        "share, 1/2 to 1",
        ("mean", "right"),
    ),
    ShownNumber(
        "p_chosen",
        "the chance that the rewards give to the chosen response",
        f"{_REPORT}, {_PREDICTIONS}",
        "σ(r⁺ - r⁻)",
        _SHARE,
        ("P(chosen)",),
    ),
)

_LENGTH = (
    *_with_interval(
        ShownNumber(
            "length_controlled_accuracy",
            "accuracy on data where length says nothing: pairs whose chosen response is longer and pairs where it is "
            "shorter count alike, so that a rule of length gets 1/2",
            f"{_REPORT}, {_COMPARE}",
            "(accuracy_longer + accuracy_shorter) / 2; interval: Newcombe 1998, method 10",
            _SHARE,
            ("length-controlled accuracy", "length-controlled", "longer and shorter alike (length-controlled)"),
        )
    ),
    *_with_interval(
        ShownNumber(
            "length_only_accuracy",
            "what a rule that always takes the longer response would reach on this set, equal lengths counting half",
            f"{_REPORT}, {_AUDIT}",
            "share of pairs whose chosen response is the longer one",
            _SHARE,
            ("always the longer response", "length only"),
        )
    ),
    ShownNumber(
        "shortest_only_accuracy",
        "what a rule that always takes the shorter response would reach on this set",
        _REPORT,
        "1 - length_only_accuracy",
        _SHARE,
        ("always the shorter response",),
    ),
    ShownNumber("chance", "what a coin reaches", _REPORT, "1/2", _SHARE),
    ShownNumber(
        "reward_pearson",
        "how rewards go with the number of tokens, over all responses",
        f"{_REPORT}, {_COMPARE}",
        "Pearson correlation of reward and tokens",
        "-1 to 1",
        ("reward and length",),
    ),
    ShownNumber(
        "reward_spearman",
        "how rewards go with the number of tokens, by ranks",
        _REPORT,
        "Spearman correlation of reward and tokens",
        "-1 to 1",
    ),
    ShownNumber(
        "margin_pearson",
        "beside length: how margins go with the difference in tokens, which prompts cannot disturb; beside true "
        "rewards: how margins go with the true ones",
        _REPORT,
        "Pearson correlation",
        "-1 to 1",
    ),
    *(
        one
        for kind, words in (("longer", "longer"), ("shorter", "shorter"), ("equal", "equally long"))
        for one in (
            ShownNumber(
                f"pairs_{kind}",
                f"pairs whose chosen response is {kind if kind != 'equal' else 'as long as the rejected one'}",
                _REPORT,
                "count",
                "pairs",
            ),
            *_with_interval(
                ShownNumber(
                    f"accuracy_{kind}",
                    f"accuracy over pairs whose chosen response is {words}",
                    _REPORT,
                    "",
                    _SHARE,
                    (words,),
                )
            ),
        )
    ),
)

_PAIRS = (
    ShownNumber("chosen", "reward of the chosen response of a pair", f"{_REPORT}, {_PREDICTIONS}", "r⁺", _REWARD),
    ShownNumber("rejected", "reward of the rejected response of a pair", f"{_REPORT}, {_PREDICTIONS}", "r⁻", _REWARD),
    ShownNumber(
        "chosen_tokens",
        "length of prompt and chosen response as they went through the model",
        f"{_REPORT}, {_PREDICTIONS}",
        "count",
        "tokens",
        ("chosen tokens",),
    ),
    ShownNumber(
        "rejected_tokens",
        "length of prompt and rejected response as they went through the model",
        f"{_REPORT}, {_PREDICTIONS}",
        "count",
        "tokens",
        ("rejected tokens",),
    ),
    ShownNumber(
        "truncated",
        "comparisons (of rmx score: this row) whose prompt was cut at its beginning to keep within data.max_tokens; "
        "the end, which is scored, is kept",
        f"{_REPORT}, {_AUDIT}, {_PREDICTIONS}, {_SCORE}",
        "count; of one row true or false",
        "comparisons",
    ),
    ShownNumber(
        "unscored",
        "pairs of a predictions file without a finite reward, left out of the page",
        _REPORT,
        "count",
        "pairs",
    ),
)

_AGAINST_EACH_OTHER = (
    ShownNumber("common pairs", "pairs that both runs scored", _COMPARE, "count", "pairs"),
    ShownNumber(
        "difference in accuracy",
        "accuracy of this run minus that of the first, over the common pairs; in sweep.html minus the winner's",
        f"{_COMPARE}, {_SWEEP}",
        "",
        "percentage points",
        ("difference", "vs best", "difference_to_winner"),
    ),
    ShownNumber(
        "p",
        "the chance of a difference this large between two models that are equally good; adjusted for how many are "
        "compared; below 0.05 it is called better or worse, else within noise",
        f"{_COMPARE}, {_SWEEP}",
        "exact McNemar test over comparisons, Holm's adjustment; in a sweep adjusted for having picked the winner",
        _SHARE,
        ("p_value", "p value"),
    ),
    ShownNumber(
        "first_only",
        "pairs that the first run gets right and the other wrong",
        _COMPARE,
        "count",
        "pairs",
        ("only the first right", "only <run> right"),
    ),
    ShownNumber(
        "second_only",
        "pairs that this run gets right and the first one wrong",
        _COMPARE,
        "count",
        "pairs",
        ("only this one right",),
    ),
    ShownNumber("rank", "place in the leaderboard, 1 for the winner", _SWEEP, "", "", ("ranks",)),
)

_AUDITED = (
    ShownNumber("read", "rows that were read of a source, or comparisons of a set that were encoded", _AUDIT_PAGE),
    ShownNumber("kept", "rows or comparisons that are used", _AUDIT_PAGE),
    ShownNumber("merged", "rows that joined the comparison of another row", _AUDIT_PAGE),
    ShownNumber("split", "second and further comparisons of one row", _AUDIT),
    ShownNumber(
        "repeated", "second and further copies of comparisons that a mixture uses for several epochs", _AUDIT_PAGE
    ),
    ShownNumber("unused", "good rows beyond max_samples, a cap or a share of a mixture", _AUDIT_PAGE),
    ShownNumber("train", "comparisons of the source that training sees", _AUDIT_PAGE, shown_as=("in training",)),
    ShownNumber(
        "left out",
        "rows that were rejected or filtered, by reason; rejects.jsonl names each",
        _AUDIT_PAGE,
        shown_as=("rejected rows", "filtered"),
    ),
    ShownNumber("share", "share of rows in which a column is not empty", _AUDIT_PAGE, "", _SHARE),
    ShownNumber("comparisons", "prompts with two or more responses; one makes one pair or several", _AUDIT_PAGE),
    ShownNumber("prompts", "different prompts", f"{_AUDIT_PAGE}; {_BENCH}"),
    ShownNumber("median", "half of the sequences are longer", _AUDIT_PAGE, "", "tokens", ("p50",)),
    ShownNumber("p95", "length that 95 % of the sequences keep within", _AUDIT_PAGE, "", "tokens", ("95 %",)),
    ShownNumber("longest", "the longest sequence before anything was cut", _AUDIT_PAGE, "", "tokens", ("max",)),
    ShownNumber(
        "shared_prefix_share",
        "share of all tokens that stand in the beginning that the responses of a comparison have in common: computed "
        "once",
        _AUDIT_PAGE,
        "",
        _SHARE,
        ("shared prefix",),
    ),
    ShownNumber(
        "longer_preferred",
        "share of pairs whose chosen response is the longer one",
        _AUDIT_PAGE,
        "",
        _SHARE,
        ("longer wins",),
    ),
    ShownNumber("shorter_preferred", "share of pairs whose chosen response is the shorter one", _AUDIT, "", _SHARE),
    ShownNumber("equally_long", "share of pairs whose two responses are equally long", _AUDIT, "", _SHARE),
    ShownNumber("dropped", "comparisons over data.max_tokens with data.truncation=drop", _AUDIT_PAGE),
    ShownNumber(
        "refused",
        "comparisons that the template could not render; of rmx bench judge=...: answers of the judge without a "
        "verdict",
        f"{_AUDIT_PAGE}; {_BENCH}",
    ),
    ShownNumber(
        "all_equal",
        "comparisons left out because the two sides of each of their pairs have the same tokens",
        _AUDIT_PAGE,
        shown_as=("sides equal",),
    ),
    ShownNumber(
        "equal_pairs",
        "pairs left out because both sides have the same tokens, by cause",
        _AUDIT_PAGE,
        shown_as=("equal pairs",),
    ),
    ShownNumber(
        "unprinted",
        "fields of messages that the template does not print in full, with the number of comparisons",
        _AUDIT_PAGE,
        shown_as=("not printed in full",),
    ),
    ShownNumber("max_tokens of truncation", "the limit that was applied", _AUDIT_PAGE, shown_as=("limit in tokens",)),
    ShownNumber("turns_dropped", "messages that truncation by whole turns left out", _AUDIT),
    ShownNumber("tokens_lost", "tokens that truncation cut off, over all sequences", _AUDIT),
    ShownNumber("prompt_lost", "comparisons of whose prompt truncation left nothing for some response", _AUDIT),
    ShownNumber("response_cut", "comparisons with a response that alone was over the limit; it keeps its end", _AUDIT),
    ShownNumber(
        "literal_rows",
        "comparisons whose text spells a control token such as <|im_end|>; it is read as ordinary text",
        _AUDIT,
    ),
    ShownNumber("shared_tokens", "tokens of all kept comparisons, each shared prefix counted once", _AUDIT),
)

_BENCHED = (
    ShownNumber(
        "score",
        "of a section or subset: what the suite's own script gives, as a rule the share of rows whose right response "
        "has the highest reward",
        _BENCH,
        "",
        "%, or quality in best_of_n",
    ),
    ShownNumber("rows", "rows of a section; of rmx score: rows answered", f"{_BENCH}, {_SCORE}", "count"),
    ShownNumber(
        "low", "lower end of the 95 % interval: other prompts like these", _BENCH, f"{_INTERVAL}, or bootstrap"
    ),
    ShownNumber(
        "high", "upper end of the 95 % interval: other prompts like these", _BENCH, f"{_INTERVAL}, or bootstrap"
    ),
    ShownNumber(
        "best of n",
        "mean quality of the response that the rewards pick out of n",
        _BENCH,
        "",
        "quality of the data",
        ("quality of the pick", "n"),
    ),
    ShownNumber(
        "best_of_k_max",
        "mean quality of the response picked from the first k, at the k where it is highest (PPE)",
        _BENCH,
        shown_as=("best of k, highest",),
    ),
    ShownNumber(
        "best_of_k_end",
        "mean quality of the response picked from all of them (PPE)",
        _BENCH,
        shown_as=("best of k, last",),
    ),
    ShownNumber(
        "best_of_k_loss",
        "squared shortfall of the pick against the best of the first k, averaged over k (PPE)",
        _BENCH,
        shown_as=("best of k, loss",),
    ),
    ShownNumber(
        "roc_auc",
        "the chance that a right response has the higher reward than a wrong one, of any two prompts (PPE)",
        _BENCH,
        shown_as=("ROC AUC",),
        unit=_SHARE,
    ),
    ShownNumber(
        "roc_auc_within_prompts",
        "the chance that a right response to a prompt has the higher reward than a wrong one to it, averaged over "
        "prompts (PPE)",
        _BENCH,
        shown_as=("ROC AUC within prompts",),
        unit=_SHARE,
    ),
    ShownNumber("answers", "answers that the judge gave, two for a row: one for each order", f"{_BENCH} judge=..."),
    ShownNumber("judge_ties", "verdicts of a tie", f"{_BENCH} judge=...", shown_as=("judge ties",)),
    ShownNumber("inconsistent", "rows whose two orders got different verdicts", f"{_BENCH} judge=..."),
)

_SCORED = (
    ShownNumber("reward", "the reward of a row's best response", _SCORE, "max over rewards", _REWARD),
    ShownNumber("rewards", "the reward of each response, in the row's order", _SCORE, "", _REWARD),
    ShownNumber("ranks of responses", "place of each response, 1 for the highest reward", _SCORE, shown_as=("ranks",)),
    ShownNumber("best", "which response has the highest reward, counted from 0", _SCORE),
    ShownNumber(
        "margin of a row",
        "the best reward minus the second; empty for a single response",
        _SCORE,
        unit=_REWARD,
        shown_as=("margin",),
    ),
    ShownNumber(
        "tokens of a row",
        "length of prompt and response, of each response",
        _SCORE,
        unit="tokens",
        shown_as=("tokens",),
    ),
    ShownNumber("members", "with several models: the rewards that each gives by itself", _SCORE, "", _REWARD),
    ShownNumber(
        "stds", "with several models: how far they are apart on each response", _SCORE, "standard deviation", _REWARD
    ),
    ShownNumber(
        "disagreement",
        "with several models: how far they are apart on the lead of the best response over the next one, of one "
        "response on its reward",
        _SCORE,
        "standard deviation over the models",
        _REWARD,
    ),
    ShownNumber("candidates", "with best_of_n: out of how many the response was picked", _SCORE),
    ShownNumber("rows/s", "rows answered a second, by this process", _SCORE, "", "1/s"),
    ShownNumber("left", "the time that the rest takes at the speed so far", f"training, {_SCORE}", "", "h:mm:ss"),
)

_VERIFIED = (
    ShownNumber("first", "reward of the first of ten rows, as this consumer gives it", _VERIFY, "", _REWARD),
    ShownNumber("last", "reward of the tenth row", _VERIFY, "", _REWARD),
    ShownNumber(
        "max_difference",
        "how far the ten rewards are from those of the first consumer at most; DIFFERS where that is more than the "
        "precision explains",
        _VERIFY,
        "max |r - r of the first consumer|",
        _REWARD,
        ("largest difference",),
    ),
)

SHOWN_NUMBERS: tuple[ShownNumber, ...] = (
    *_CALIBRATION, *_LENGTH, *_PAIRS, *_AGAINST_EACH_OTHER, *_AUDITED, *_BENCHED, *_SCORED, *_VERIFIED,
)  # fmt: skip


def shown_number_entries() -> list[ReferenceEntry]:
    """Return an entry for each; it is found by the words of the pages, too.

    >>> entry = next(entry for entry in shown_number_entries() if "ECE" in entry.also)
    >>> entry.name, entry.fact("unit")
    ('ece', 'share, 0 to 1')
    """
    entries = []
    for number in SHOWN_NUMBERS:
        facts = [("formula", number.formula), ("unit", number.unit), ("shown as", ", ".join(number.shown_as))]
        facts.append(("shown by", number.where))
        entries.append(
            ReferenceEntry(
                "metric", number.name, number.meaning, tuple(fact for fact in facts if fact[1]), also=number.shown_as
            )
        )
    return entries
