"""Templates: the saved Jinja gives the scored text, on every day, with one BOS and the scored token at the end."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest
from family_tokenizers import CHATML, family_tokenizer
from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rmx.data.rows.tools import calls_in_one_spelling
from rmx.errors import ConfigError, DataError, ModelError
from rmx.records import Message
from rmx.templates import Template, rewrite, template_names
from rmx.templates.choose import _trl_names
from rmx.templates.printed import PrintedCheck


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


CHAT = [user("Hi"), assistant("Hello"), user("How are you?"), assistant("Fine \n")]

# family, template, its text for CHAT; written out by hand from each family's published format
EXPECTED = [
    (
        "qwen",
        "chatml",
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"
        "<|im_start|>user\nHow are you?<|im_end|>\n<|im_start|>assistant\nFine \n<|im_end|>",
    ),
    (
        "llama3",
        "llama3",
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHow are you?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nFine<|eot_id|>",
    ),
    (
        "gemma",
        "gemma",
        "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nHello<end_of_turn>\n"
        "<start_of_turn>user\nHow are you?<end_of_turn>\n<start_of_turn>model\nFine<end_of_turn>",
    ),
    ("mistral", "mistral", "<s>[INST] Hi[/INST] Hello</s>[INST] How are you?[/INST] Fine \n</s>"),
    ("mistral", "vicuna", "<s>USER: Hi ASSISTANT: Hello</s>USER: How are you? ASSISTANT: Fine \n</s>"),
    (
        "mistral",
        "zephyr",
        "<s><|user|>\nHi</s>\n<|assistant|>\nHello</s>\n<|user|>\nHow are you?</s>\n<|assistant|>\nFine \n</s>",
    ),
    (
        "gpt2",
        "plain",
        "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: How are you?\n\nAssistant: Fine \n<|endoftext|>",
    ),
    (
        "gpt2",
        "alpaca",
        "### Instruction:\nHi\n\n### Response:\nHello\n\n### Instruction:\nHow are you?\n\n### Response:\nFine \n"
        "<|endoftext|>",
    ),
    ("bert", "plain", "[CLS]\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: How are you?\n\nAssistant: Fine \n[SEP]"),
]


@pytest.mark.parametrize(("family", "name", "text"), EXPECTED)
def test_named_templates_write_the_published_format(family: str, name: str, text: str) -> None:
    bound = Template(name).bind(family_tokenizer(family))
    assert bound.render(CHAT) == text


@pytest.mark.parametrize("family", ["llama3", "mistral", "bert"])
@pytest.mark.parametrize("name", [name for name in template_names() if name != "auto"])
def test_jinja_stands_alone(family: str, name: str) -> None:
    """transformers' own apply_chat_template gives text and ids of rmx, with one BOS and the end token last."""
    tokenizer = family_tokenizer(family)
    bound = Template(name).bind(tokenizer)
    text = bound.render(CHAT)
    assert tokenizer.chat_template is None
    tokenizer.chat_template = bound.jinja
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == text
    ids = tokenizer.apply_chat_template(CHAT, return_dict=False)
    assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids[-1] == tokenizer.convert_tokens_to_ids(bound.end_token)
    if bound.start_token is not None:
        assert ids.count(tokenizer.convert_tokens_to_ids(bound.start_token)) == 1


@pytest.mark.parametrize(
    ("family", "name"),
    [("llama3", "llama3_2"), ("qwen", "chatml"), ("qwen", "llama3"), ("gpt2", "plain"), ("bert", "vicuna")],
)
def test_binding_a_bound_template_changes_nothing(family: str, name: str) -> None:
    """A finished run's model folder is the start of another run with template=auto."""
    tokenizer = family_tokenizer(family)
    first = Template(name).bind(tokenizer)
    again = Template(jinja=first.jinja).bind(tokenizer)
    assert again.jinja == first.jinja
    assert (again.start_token, again.end_token) == (first.start_token, first.end_token)


@pytest.mark.parametrize(("family", "name"), [("llama3", "llama3_2"), ("mistral", "mistral"), ("gpt2", "plain")])
def test_saved_tokenizer_renders_the_same_without_rmx(family: str, name: str, tmp_path: Path) -> None:
    tokenizer = family_tokenizer(family)
    bound = Template(name).bind(tokenizer)
    tokenizer.chat_template = bound.jinja
    tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(CHAT, tokenize=False) == bound.render(CHAT)


def closing_tokens(source: str, tokenizer: PreTrainedTokenizerFast) -> None:
    """Give the tokenizer every <...> marker that the template can write, as a special token."""
    found = {marker for text in rewrite.literals(source) for marker in re.findall(r"<[^<>\s]{1,40}>", text)}
    tokenizer.add_tokens([AddedToken(marker, special=True, normalized=False) for marker in sorted(found)])


@pytest.mark.parametrize("control", [True, False], ids=["control", "letters"])
@pytest.mark.parametrize("name", [name for name in _trl_names() if not name.endswith("_training")])
def test_every_template_of_trl_keeps_its_text(name: str, control: bool) -> None:
    """rmx changes only what comes after the answer (and the date): the rest is the file's own rendering."""
    tokenizer = family_tokenizer("gpt2")
    source = Template(name).source(tokenizer)
    if control:
        closing_tokens(source, tokenizer)
    if any(vision in name for vision in ("llava", "idefics", "smolvlm")):
        with pytest.raises(ModelError, match="plain user/assistant conversation"):
            Template(name).bind(tokenizer)
        return
    bound = Template(name).bind(tokenizer)
    pinned = rewrite.pin_date(source, datetime.date(2024, 7, 26))
    own = tokenizer.apply_chat_template(CHAT, chat_template=pinned, tokenize=False)
    text = bound.render(CHAT)
    if text.endswith("<|endoftext|>") and not own.rstrip().endswith("<|endoftext|>"):
        assert text == own + "<|endoftext|>"
    else:
        assert text == own.rstrip()
    asked = tokenizer.apply_chat_template(CHAT[:-1], chat_template=pinned, tokenize=False, add_generation_prompt=True)
    assert bound.prompt(CHAT[:-1]) == asked


@pytest.mark.parametrize("name", ["llama3_2", "gptoss", "chatml"])
def test_same_text_on_two_days(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime.datetime):
        day = 1

        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
            return datetime.datetime(2031, 5, cls.day)

    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Clock)
    tokenizer = family_tokenizer("llama3")
    bound = Template(name).bind(tokenizer)
    tokenizer.chat_template = bound.jinja
    first = tokenizer.apply_chat_template(CHAT, tokenize=False)
    Clock.day = 2
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == first
    assert "2031" not in first


def test_date_is_a_setting_and_a_fact() -> None:
    bound = Template("llama3_2", date="2025-01-09").bind(family_tokenizer("llama3"))
    assert "Today Date: 09 Jan 2025\n" in bound.render(CHAT)
    facts = {check.name: check.detail for check in bound.checks}
    assert facts["date"] == "prints the date: pinned to 2025-01-09 in the saved template, too"


def test_date_formats_that_are_not_constant_get_the_iso_day() -> None:
    source = rewrite.pin_date(
        "{% set f = '%A' %}{{ strftime_now(f) }}|{{ strftime_now('%Y') }}", datetime.date(2024, 7, 26)
    )
    text = family_tokenizer("qwen").apply_chat_template(CHAT, chat_template=source, tokenize=False)
    assert text == "2024-07-26|2024"


def test_bos_is_written_once_or_refused() -> None:
    tokenizer = family_tokenizer("llama3")
    without = Template(jinja="{% for m in messages %}{{ m.content }}<|eot_id|>{% endfor %}").bind(tokenizer)
    assert without.render([user("a"), assistant("b")]) == "<|begin_of_text|>a<|eot_id|>b<|eot_id|>"
    twice = "{{ bos_token }}{{ bos_token }}{% for m in messages %}{{ m.content }}<|eot_id|>{% endfor %}"
    with pytest.raises(ModelError, match="exactly one"):
        Template(jinja=twice).bind(tokenizer)


def test_auto_takes_the_tokenizers_own_template() -> None:
    bound = Template().bind(family_tokenizer("qwen", CHATML))
    assert bound.name == "auto"
    assert bound.render([user("a"), assistant("b")]).endswith("<|im_start|>assistant\nb<|im_end|>")


def test_auto_without_a_template_lists_the_choices() -> None:
    with pytest.raises(ModelError, match=r"template=plain .*chatml.*template\.path="):
        Template().bind(family_tokenizer("gpt2"))


@pytest.mark.parametrize(
    ("family", "fits"), [("llama3", "llama3"), ("qwen", "chatml"), ("gemma", "gemma"), ("mistral", "mistral")]
)
def test_auto_without_a_template_knows_what_fits(family: str, fits: str) -> None:
    with pytest.raises(ModelError, match=f"template={fits} .the tokenizer has its control tokens"):
        Template().bind(family_tokenizer(family))


def test_path_is_read_as_jinja(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}\n", encoding="utf-8")
    bound = Template(path=str(file)).bind(family_tokenizer("gpt2"))
    assert bound.name == "mine"
    assert bound.render([user("a"), assistant("b")]) == "[user] a\n[assistant] b\n<|endoftext|>"
    with pytest.raises(ConfigError, match=r"template\.path: cannot read"):
        Template(path=str(tmp_path / "absent.jinja")).bind(family_tokenizer("gpt2"))


@pytest.mark.parametrize(
    ("jinja", "reason"),
    [
        ("{% for m in messages %}", "line 1 is not valid Jinja"),
        ("{{ messages | random }}", "uses random"),
        ("{{ lipsum() }}", "uses lipsum"),
        ("{{ messages[-1].content }}", "leaves out 3 of 4 messages"),
        ("{{ messages.__class__.__mro__ }}", "fails on a plain user/assistant conversation"),
        ("{{ raise_exception('no chat today') }}", "no chat today"),
    ],
)
def test_templates_that_cannot_be_used_say_why(jinja: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        Template(jinja=jinja).bind(family_tokenizer("gpt2"))


def test_no_end_token_at_all_is_an_error() -> None:
    tokenizer = family_tokenizer("gpt2")
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="neither an EOS nor a SEP"):
        Template("plain").bind(tokenizer)


def test_scored_token_must_not_be_padding() -> None:
    """transformers reads the reward at the last token that is not padding, so that would be one too early."""
    tokenizer = family_tokenizer("gpt2")
    tokenizer.pad_token = tokenizer.eos_token
    with pytest.raises(ModelError, match="padding token"):
        Template("plain").bind(tokenizer)


def test_prompt_that_is_no_prefix_is_reported_with_the_place() -> None:
    facts = {check.name: check for check in Template("deepseekv3").bind(family_tokenizer("gpt2")).checks}
    assert not facts["prompt"].ok
    assert "prompt goes on with '<think>\\n'" in facts["prompt"].detail


def test_refusals_name_the_templates_own_reason() -> None:
    bound = Template("trl/gemma").bind(family_tokenizer("gemma"))
    assert not {check.name: check for check in bound.checks}["system"].ok
    with pytest.raises(DataError, match="roles must alternate"):
        bound.render([user("a"), user("b"), assistant("c")])


def test_tools_are_rendered_or_known_to_be_left_out() -> None:
    tool = {"type": "function", "function": {"name": "look_up", "description": "", "parameters": {}}}
    tokenizer = family_tokenizer("qwen")
    assert "look_up" in Template("qwen").bind(tokenizer).render(CHAT, [tool])
    facts = {name: {c.name: c.ok for c in Template(name).bind(tokenizer).checks} for name in ("qwen", "plain")}
    assert (facts["qwen"]["tools"], facts["plain"]["tools"]) == (True, False)


def test_missing_control_tokens_are_reported() -> None:
    facts = {check.name: check for check in Template("chatml").bind(family_tokenizer("gpt2")).checks}
    assert not facts["control"].ok
    assert "<|im_end|>, <|im_start|>" in facts["control"].detail


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"name": "lama3"}, "did you mean llama3"),
        ({"name": "trl/qwen33"}, "did you mean trl/qwen3"),
        ({"jinja": "x", "path": "y"}, "both given"),
        ({"date": "26 Jul 2024"}, "YYYY-MM-DD"),
        ({"max_unprinted_fraction": 1.5}, r"max_unprinted_fraction: 1.5 is not a number from 0 to 1"),
    ],
)
def test_settings_are_checked_when_built(settings: dict[str, str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Template(**settings)  # type: ignore[arg-type]


TURN = "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"


@pytest.mark.parametrize(
    ("jinja", "reason"),
    [
        (
            "<|im_start|><|im_start|>{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}",
            "twice at the beginning",
        ),
        ("{% for m in messages %}{{ m.content[:40] }}<|im_end|>{% endfor %}", "cuts content: of 12 messages"),
        ("{% for m in messages %}{{ m.content[-9000:] }}<|im_end|>{% endfor %}", "cuts content: of 1 messages of 17"),
        ("{% for m in messages[-6:] %}" + TURN + "{% endfor %}", r"leaves out 6 of the 12 .*message 1, 2, 3, 4 \.\.\."),
        ("{% for m in messages[:8] %}" + TURN + "{% endfor %}", "leaves out 4 of the 12 messages"),
        (
            "{{ messages | map('upper') }}{% for m in messages %}" + TURN + "{% endfor %}",
            "place of an object in memory",
        ),
    ],
)
def test_templates_that_damage_long_conversations_are_refused(jinja: str, reason: str) -> None:
    """qwen's tokenizer adds no BOS by itself, and the four short messages of the first trial pass all of these."""
    with pytest.raises(ModelError, match=reason):
        Template(jinja=jinja).bind(family_tokenizer("qwen"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("m.content if loop.first else m.content | upper", "content is changed: 11 of 12"),
        ("m.content.split() | join(' ')", "white space inside of content is changed in 12 of 12"),
        ("m.content | trim", "printed whole"),
    ],
)
def test_changed_letters_and_white_space_are_said(content: str, said: str) -> None:
    """Four short words are not changed by these, or were not looked at."""
    jinja = "{% for m in messages %}" + TURN.replace("m.content", f"({content})") + "{% endfor %}"
    if "upper" in content:  # short messages keep their letters, as a template that knows the short trial would do
        jinja = jinja.replace("loop.first", "(loop.first or m.content | length < 20)")
    facts = {check.name: check for check in Template(jinja=jinja).bind(family_tokenizer("qwen")).checks}
    assert said in facts["content"].detail
    assert facts["content"].ok == (said == "printed whole")


def test_a_system_message_that_is_cut_is_said() -> None:
    text = TURN.replace("m.content", "(m.content[:30] if m.role == 'system' else m.content)")
    bound = Template(jinja="{% for m in messages %}" + text + "{% endfor %}").bind(family_tokenizer("qwen"))
    facts = {check.name: check for check in bound.checks}
    assert (facts["system"].ok, facts["system"].detail) == (False, "system messages are cut or changed")


# --- what a template does not print ---

CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Lyon", "days": 3}}}
TRAJECTORY: tuple[Message, ...] = (
    {"role": "assistant", "content": "", "tool_calls": [CALL], "reasoning_content": "I look it up."},
    {"role": "tool", "name": "get_weather", "content": "foggy"},
    assistant("Take a coat."),
)
CLOCK = {
    "type": "function",
    "function": {
        "name": "get_clock",
        "description": "Says the time",
        "parameters": {"type": "object", "properties": {"zone": {"type": "string", "description": "Where it is"}}},
    },
}
# template → fields of the trajectory that it does not print, read off the Jinja files; None: it refuses tool calls
NOT_PRINTED: dict[str, set[str] | None] = {
    **dict.fromkeys(("alpaca", "cohere", "cohere2", "gemma", "gemma3", "mistral", "plain", "vicuna", "zephyr")),
    "chatml": {"name", "reasoning_content", "tools"},
    "deepseekv3": {"name", "reasoning_content", "tools"},
    "glm4moe": {"name"},
    "gptoss": {"name", "reasoning_content"},
    "llama3": {"name", "reasoning_content", "tool_calls", "tools"},
    "llama3_1": {"name", "reasoning_content"},
    "llama3_2": {"name", "reasoning_content"},
    "phi3": {"name", "reasoning_content", "tool content", "tool_calls", "tools"},
    "phi3_5": {"name", "reasoning_content", "tool content", "tool_calls", "tools"},
    "qwen": {"name", "reasoning_content"},
    "qwen2_5": {"name", "reasoning_content"},
    "qwen3": {"name"},
}


@pytest.mark.parametrize("name", [name for name in template_names() if name != "auto"])
def test_fields_that_a_template_does_not_print_are_named(name: str) -> None:
    bound = Template(name).bind(family_tokenizer("gpt2"))
    expected, prompt = NOT_PRINTED[name], (user("What is it like outside?"),)
    if expected is None:
        with pytest.raises(DataError):
            bound.render([*prompt, *TRAJECTORY], [CLOCK])
        return
    text = bound.render([*prompt, *TRAJECTORY], [CLOCK])
    assert PrintedCheck(bound).left_out(prompt, (TRAJECTORY,), (CLOCK,), [text]) == expected


@pytest.mark.parametrize("name", [name for name in template_names() if name != "auto"])
def test_plain_messages_are_printed_by_every_template(name: str) -> None:
    bound = Template(name).bind(family_tokenizer("gpt2"))
    prompt, answers = tuple(CHAT[:-1]), ((assistant("Fine \n"),), (assistant(" So  so"),))
    texts = [bound.render([*prompt, *answer]) for answer in answers]
    assert PrintedCheck(bound).left_out(prompt, answers, None, texts) == set()


@pytest.mark.parametrize("name", [name for name, fields in NOT_PRINTED.items() if fields is not None])
def test_both_spellings_of_a_tool_call_give_one_text(name: str) -> None:
    bound = Template(name).bind(family_tokenizer("gpt2"))
    texts = set()
    for arguments in ({"city": "Lyon", "days": 3}, '{"city": "Lyon", "days": 3}'):
        call = {"type": "function", "function": {"name": "get_weather", "arguments": arguments}}
        message = calls_in_one_spelling({"role": "assistant", "content": "", "tool_calls": [call]})
        texts.add(bound.render([user("Q"), message, *TRAJECTORY[1:]]))
    assert len(texts) == 1
    if "tool_calls" not in (NOT_PRINTED[name] or ()) and name != "glm4moe":  # which writes arguments as XML
        assert '"city": "Lyon", "days": 3' in texts.pop()


def test_text_between_think_tags_that_is_deleted_is_named() -> None:
    tokenizer = family_tokenizer("gpt2")
    answers = ((assistant("<think>\nI add.\n</think>\n\nIt is 4."),), (assistant("<think>hm</think>It is 4."),))
    for name, expected in (("deepseekv3", {"assistant content"}), ("qwen3", set()), ("chatml", set())):
        bound = Template(name).bind(tokenizer)
        texts = [bound.render([user("2+2?"), *answer]) for answer in answers]
        assert PrintedCheck(bound).left_out((user("2+2?"),), answers, None, texts) == expected


def test_a_short_value_that_stands_in_the_text_by_chance_is_not_printed() -> None:
    bound = Template("chatml").bind(family_tokenizer("qwen"))
    answers = (({"role": "assistant", "content": "ok, four", "thinking": "ok"},),)
    texts = [bound.render([user("2+2?"), *answers[0]])]
    assert PrintedCheck(bound).left_out((user("2+2?"),), answers, None, texts) == {"thinking"}


def test_every_name_has_its_yaml() -> None:
    folder = Path(__file__).parent.parent / "conf" / "template"
    assert sorted(file.stem for file in folder.glob("*.yaml")) == sorted(template_names())
