"""The names of columns: which part of a comparison a column is, or which fact about the row.

One table for every reader of rows. A *part* is what a comparison is made of; its names are those of published sets
and of other loaders, in order of preference. A *fact* describes the row (an id, a source, a model's name) or was
written afterwards by an annotator or a judge (a rationale, a critique): the annotators did not see it, so nothing is
lost when it is not read. `data.columns` gives a column any part by name, whatever the column is called.

`markdown()` is the table for people: docs/columns.md.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

__all__ = [
    "ENDS",
    "FACTS",
    "MEDIA",
    "NAMES",
    "PARTS",
    "PARTS_OF",
    "RENAMED",
    "STEMS",
    "TEXT_PARTS",
    "Part",
    "close_names",
    "fact",
    "markdown",
]


class Part(NamedTuple):
    """One part of a comparison."""

    name: str  # what data.columns calls it
    names: tuple[str, ...]  # columns that are it, in order of preference
    meaning: str


def _sides(*shapes: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of a number that both sides have: `{}` is where the side's name stands."""
    chosen, rejected = (tuple(shape.format(side) for shape in shapes) for side in ("chosen", "rejected"))
    return chosen, rejected


_SCORE_CHOSEN, _SCORE_REJECTED = _sides(
    "score_{}", "{}_score", "{}_rating", "{}-rating", "rating_{}", "{}_avg_rating", "avg_rating_{}", "reward_{}",
    "{}_reward", "{}_rating_mean", "{}_overall_score",
)  # fmt: skip
_VOTES_CHOSEN, _VOTES_REJECTED = _sides("votes_{}", "{}_votes", "num_votes_{}", "n_{}")

# The columns of two sides are a stem and an end: response_a and response_b, human_ref_A and human_ref_B.
STEMS = (
    "response_", "conversation_", "answer_", "completion_", "output_", "generation_", "human_ref_", "response",
    "response-", "generation-", "answer-", "answer", "completion", "output",
)  # fmt: skip
ENDS = (("a", "b"), ("A", "B"), ("0", "1"), ("1", "2"))
SCORE_STEMS = ("score_", "rating_", "score-", "rating-")

PARTS: tuple[Part, ...] = (
    Part(
        "prompt",
        ("prompt", "instruction", "question", "query", "user_prompt", "user_query", "user_input", "user_message",
         "user_question", "user_instruction", "problem", "request", "prompt_text"),
        "the user's turn as text, a dialogue, or messages",
    ),
    Part("input", ("input",), "second part of the user's turn, behind the prompt; alone it is the user's turn"),
    Part(
        "history",
        ("history", "conversations", "conversation", "messages", "trajectory", "chat_history",
         "conversation_history", "dialogue_history", "dialog_history", "previous_turns", "dialogue", "dialog"),
        "the conversation so far: messages, a dialogue, or [question, answer] pairs",
    ),
    Part("context", ("context",), "messages: the conversation so far; a text is the prompt where there is no other"),
    Part(
        "system",
        ("system", "system_prompt", "system_message", "system_instruction", "system_instructions", "sys_prompt",
         "sys"),
        "the system message",
    ),
    Part("tools", ("tools", "functions", "available_tools"), "tool definitions, as a list or as JSON text"),
    Part(
        "chosen",
        ("chosen", "chosen_response", "response_chosen", "chosen_answer", "answer_chosen", "chosen_text",
         "chosen_completion", "chosen_output", "preferred", "preferred_response", "preferred_answer",
         "better_response", "winning_response", "chosen_messages", "chosen_conversations"),
        "the better response: text, one message, messages, or the whole conversation",
    ),
    Part(
        "rejected",
        ("rejected", "rejected_response", "response_rejected", "rejected_answer", "answer_rejected", "rejected_text",
         "rejected_completion", "rejected_output", "dispreferred", "dispreferred_response", "non_preferred",
         "non_preferred_response", "worse_response", "losing_response", "rejected_messages",
         "rejected_conversations"),
        "the worse response",
    ),
    Part(
        "responses",
        ("responses", "answers", "completions", "outputs", "generations", "candidates", "summaries"),
        "a list of responses, as texts, messages or objects, or an object of lists",
    ),
    Part("ranks", ("ranks", "rank"), "a rank for each of the responses; 1 is best"),
    Part("scores", ("scores", "ratings", "rating"), "a score for each of the responses; more is better"),
    Part(
        "sides",
        tuple(stem + end for stem in STEMS for ends in ENDS for end in ends),
        "two responses, side by side: response_a and response_b",
    ),
    Part(
        "winner",
        ("winner", "better_response_id", "preference", "label", "labels", "vote", "chosen_side", "safer_response_id",
         "winner_model_a", "winner_model_b", "winner_tie"),
        "which side is better, or a tie",
    ),
    Part("strength", ("preference_strength", "overall_preference"), "negative: the first side is better"),
    Part(
        "side_scores",
        tuple(stem + end for stem in SCORE_STEMS for ends in ENDS for end in ends),
        "a score for each side",
    ),
    Part("response", ("response", "completion", "answer"), "the one response of a row with a score or a label"),
    Part(
        "score",
        ("score", "overall_score", "pm_score", "rating", "reward", "fine-grained_score"),
        "the score of the one response",
    ),
    Part("label", ("label", "kto_tag", "is_safe"), "whether the one response is good: true or false"),
    Part("choice", ("choice",), "the number, from 0, of the response that was picked from a list"),
    Part("info", ("info",), "the post or article that was summarised, as an object"),
    Part("score_chosen", _SCORE_CHOSEN, "the chosen response's score; more is better"),
    Part("score_rejected", _SCORE_REJECTED, "the rejected response's score"),
    Part("votes_chosen", _VOTES_CHOSEN, "annotators who preferred the chosen response"),
    Part("votes_rejected", _VOTES_REJECTED, "annotators who preferred the rejected response"),
    Part("target", ("target",), "share of annotators who preferred the chosen response, in [0, 1]"),
    Part("margin", ("margin",), "reward units by which the winner should lead"),
    Part("weight", ("weight", "sample_weight"), "how much the comparison counts"),
    Part("tie", ("tie", "is_tie"), "whether the annotators called it a tie"),
    Part("id", ("id",), "the row's own id"),
)  # fmt: skip

NAMES: dict[str, tuple[str, ...]] = {part.name: part.names for part in PARTS}
PARTS_OF: dict[str, tuple[str, ...]] = {
    name: tuple(part.name for part in PARTS if name in part.names) for part in PARTS for name in part.names
}

# Columns of these parts keep their names, because their readers look at several of them together.
_KEPT = frozenset(
    {"responses", "ranks", "scores", "sides", "winner", "strength", "side_scores", "score", "label", "response"}
)
RENAMED: dict[str, str] = {name: part.name for part in PARTS if part.name not in _KEPT for name in part.names}
TEXT_PARTS = frozenset(
    {"prompt", "input", "history", "context", "system", "chosen", "rejected", "responses", "sides", "response"}
)

# Columns that hold images, sound or film: what annotators saw, and what a text model is not given.
MEDIA = (
    "image", "images", "img", "image_path", "image_paths", "image_url", "image_urls", "image_bytes", "pixel_values",
    "video", "videos", "video_path", "audio", "audios", "audio_path",
)  # fmt: skip

# What is known not to be part of what annotators saw, by kind; `*` stands for anything, `-` is read as `_`. Columns of
# the last two kinds may hold any text; the others are facts while their texts are short.
FACTS: dict[str, tuple[str, ...]] = {
    "ids": (
        "id", "*_id", "*_ids", "*_id_*", "*Id", "uid", "*_uid", "uuid", "*_uuid", "guid", "idx", "*_idx", "index",
        "*_index", "__index_level_0__", "Unnamed: *", "key", "*_key", "hash", "*_hash", "sha*", "*_sha*", "row",
        "row_number", "line", "turn", "turns", "turn_number", "number", "*_number",
    ),
    "sources": (
        "source", "sources", "*_source", "datasource", "dataset", "dataset_name", "*_dataset", "origin", "subset",
        "split", "config", "file", "filename", "file_name", "path", "url", "urls", "*_url", "link", "links",
        "license", "licence", "version", "repo", "revision", "collection",
    ),
    "kinds": (
        "category", "categories", "*_category", "*_category_*", "subcategory", "class", "classes", "task", "tasks",
        "*_task", "type", "types", "*_type", "domain", "domains", "*_domain", "topic", "topics", "skill", "skills",
        "tag", "tags", "*_tag", "*_tags", "genre", "style", "difficulty", "level", "quality", "*_quality", "language",
        "languages", "*_language", "language_*", "lang", "locale", "country", "region", "subject", "area", "field",
        "status", "state", "stage", "round", "batch", "phase", "order", "tournament", "evol*", "principle", "aspect",
        "aspects", "criterion", "criteria", "dimension", "in_*", "is_*", "has_*", "flag", "flags", "*_flag", "toxic*",
        "safe*", "*moderation*", "intent", "anony", "good_natured",
    ),
    "models": (
        "model", "models", "*_model", "*_models", "model_*", "*_model_*", "generator", "*_generator", "generated_by",
        "policy", "*_policy", "policies", "engine", "llm", "temperature", "*_temperature", "sampling*",
        "generation_config", "params", "parameters", "hyperparameters", "seed",
    ),
    "annotators": (
        "annotator", "annotators", "*_annotator", "*_annotators", "worker", "worker_*", "workers", "judge", "judges",
        "judge_*", "labeler", "labeller", "labeler_*", "rater", "raters", "rater_*", "author", "authors", "*_author",
        "username", "created_by",
    ),
    "times": (
        "timestamp", "*_timestamp", "tstamp", "time", "*_time", "date", "*_date", "datetime", "created", "created_*",
        "updated_*", "*_at", "duration", "latency", "seconds_*",
    ),
    "numbers about texts": (
        "length", "*_length", "*_lengths", "len", "*_len", "tokens", "*_tokens", "num_*", "n_*", "count", "*_count",
        "*_counts", "*_ratio", "*_probability", "logp*", "*_logp*", "perplexity", "similarity", "*_similarity",
        "embedding", "embeddings", "*_embedding", "input_ids*", "attention_mask*", "token_ids*",
    ),
    "written afterwards": (
        "rationale", "rationales", "*_rationale", "*_rationales", "feedback", "feedbacks", "*_feedback", "critique",
        "critiques", "*_critique", "critique_*", "explanation", "explanations", "*_explanation", "justification",
        "justifications", "*_justification", "preference_statement", "preference_elaboration",
        "three_most_similar_preferences", "all_preferences_unprocessed", "individual_preference*", "annotation",
        "annotations", "*_annotation", "*_annotations", "annotator_*", "judgment", "judgments", "judgement",
        "judgements", "*_judgment", "*_judgement", "verdict", "*_verdict", "reason", "reasons", "*_reason",
        "evaluation", "*_evaluation", "labelling_*", "labeling_*", "raw_labelling_*", "raw_labeling_*",
        "raw_preference", "reference_answer", "reference_response", "ground_truth", "*_ground_truth", "gold", "gold_*",
        "correct_answers", "incorrect_answers", "expected_answer", "rubric", "rubrics", "checklist",
    ),
    "notes about the row": (
        "meta", "metadata", "*_meta", "*_metadata", "meta_*", "metadata_*", "*_info", "extra", "extras", "extra_*",
        "additional_*", "stats", "kwargs", "*_kwargs",
    ),
}  # fmt: skip
_ANY_TEXT = ("written afterwards", "notes about the row")


@functools.cache  # compiled when a column is first asked about: a command that reads no data does not wait for it
def _pattern(kinds: tuple[str, ...]) -> re.Pattern[str]:
    names = (re.escape(name).replace(r"\*", ".*") for kind in kinds for name in FACTS[kind])
    return re.compile("|".join(names), re.IGNORECASE)


def fact(column: str) -> Literal["any", "short"] | None:
    """Whether a column is known, by its name, to describe the row: whatever it holds, or while its texts are short.

    >>> fact("chosen-model"), fact("rationale"), fact("passage")
    ('short', 'any', None)
    """
    name = column.replace("-", "_")
    if _pattern(_ANY_TEXT).fullmatch(name):
        return "any"
    return "short" if _pattern(tuple(FACTS)).fullmatch(name) else None


def close_names(name: str, known: Iterable[str], count: int = 1) -> list[str]:
    """The names most like one that is not known, for a message.

    >>> close_names("user_promt", ["user_prompt", "better"])
    ['user_prompt']
    """
    import difflib

    by_case = {option.casefold(): option for option in known}
    return [by_case[found] for found in difflib.get_close_matches(name.casefold(), list(by_case), count, 0.6)]


def markdown() -> str:
    """The page about columns of the documentation, docs/columns.md.

    >>> markdown().splitlines()[7][:40]
    '| `prompt` | `prompt`, `instruction`, `q'
    """
    lines = [
        "# Columns",
        "",
        "What rmx takes the columns of a file for. `data.columns={part: column}` names any other column. What is",
        "neither a part nor a fact is named as unused, and asked about where annotators may have seen it.",
        "",
        "| part | columns that are it, in order of preference | what it is |",
        "|---|---|---|",
    ]
    for part in PARTS:
        stems = {"sides": STEMS, "side_scores": SCORE_STEMS}.get(part.name)
        names = _listed(part.names) if stems is None else f"{_listed(stems)}, each with {_ends()}"
        lines.append(f"| `{part.name}` | {names} | {part.meaning} |")
    lines += ["", "| facts | columns (`*` stands for anything) |", "|---|---|"]
    lines += [f"| {kind} | {_listed(names)} |" for kind, names in FACTS.items()]
    lines += ["", f"Images, sound and film are not supported: {_listed(MEDIA)}."]
    return "\n".join(lines)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _ends() -> str:
    return ", ".join(f"{first} and {second}" for first, second in ENDS)
