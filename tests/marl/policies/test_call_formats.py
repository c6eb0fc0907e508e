"""Calls as models of many families write them: each is read as what it is, and nothing as what it is not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marl.policies.language.call_formats import UnreadableError, Written, json_call, unthought, written_calls

NAMES = ("echo", "shout", "ask")
HI = '{"name":"echo","arguments":{"message":"hi"}}'
INNER = '{"message":"hi"}'
DEEPSEEK = "<|tool▁calls▁begin|><|tool▁call▁begin|>{}<|tool▁call▁end|><|tool▁calls▁end|>".replace("|", "\uff5c")
FORMS = {
    "bare tags": f"<tool_call>\n{HI}\n</tool_call>",
    "words before": f"I shall echo it. <tool_call>{HI}</tool_call>",
    "a thought before": f"<think>Shall I shout {HI}?</think>\n{HI}",
    "a thought begun in the prompt": f"or shout?</think>{HI}",
    "a code fence": f"Here:\n```json\n{HI}\n```",
    "words after": f"{HI}\nThat is all.",
    "Llama 3.1": '{"name": "echo", "parameters": {"message": "hi"}}',
    "Llama 3.1, built in": f"<|python_tag|>{HI}",
    "Llama 4": '[echo(message="hi")]',
    "Mistral": f"[TOOL_CALLS] [{HI}]",
    "Mistral, newer": f"[TOOL_CALLS]echo[ARGS]{INNER}",
    "LFM2": "<|tool_call_start|>[echo(message='hi')]<|tool_call_end|>",
    "GLM": "<tool_call>echo\n<arg_key>message</arg_key>\n<arg_value>hi</arg_value>\n</tool_call>",
    "Qwen 3.5": "<tool_call>\n<function=echo>\n<parameter=message>\nhi\n</parameter>\n</function>\n</tool_call>",
    "Qwen Coder": "<function=echo>\n<parameter=message>\nhi\n</parameter>\n</function>",
    "arguments as a text": json.dumps({"name": "echo", "arguments": INNER}),
    "OpenAI": json.dumps({"type": "function", "function": {"name": "echo", "arguments": INNER}}),
    "OpenAI, the message": json.dumps({"tool_calls": [{"function": {"name": "echo", "arguments": INNER}}]}),
    "gpt-oss": f" to=functions.echo<|channel|>commentary json<|message|>{INNER}",
    "gpt-oss, thinking": "<|channel|>analysis<|message|>shout {}?<|end|><|start|>assistant<|channel|>commentary "
    f"to=functions.echo <|constrain|>json<|message|>{INNER}<|call|>",
    "Gemma 4": '<|channel>thought\nshout?<channel|><|tool_call>call:echo{message:<|"|>hi<|"|>}<tool_call|>',
    "DeepSeek": DEEPSEEK.format(f"function<\uff5ctool▁sep\uff5c>echo\n```json\n{INNER}\n```"),
    "DeepSeek 3.1": DEEPSEEK.format(f"echo<\uff5ctool▁sep\uff5c>{INNER}"),
    "Kimi": f"<|tool_call_begin|>functions.echo:0<|tool_call_argument_begin|>{INNER}<|tool_call_end|>",
    "Cohere": f'<|START_ACTION|>[{{"tool_call_id":"0","tool_name":"echo","parameters":{INNER}}}]<|END_ACTION|>',
    "Granite": f"<|tool_call|>[{HI}]",
    "Nemotron": f"<TOOLCALL>[{HI}]</TOOLCALL>",
    "tags of parameters": '<atem:function_calls>\n<atem:invoke name="echo">\n<atem:parameter name="message">hi'
    "</atem:parameter>\n</atem:invoke>\n</atem:function_calls>",
}


def read(text: str) -> list[Written] | None:
    try:
        return written_calls(unthought(text), NAMES)
    except UnreadableError:
        return None


@pytest.mark.parametrize("name", FORMS)
def test_each_form_is_read_as_its_call(name: str) -> None:
    (found,) = read(FORMS[name]) or ()
    assert found[:2] == ("echo", {"message": "hi"})


@pytest.mark.parametrize("name", FORMS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(cut=st.floats(0, 1), before=st.sampled_from(["", "So: ", "\n"]), data=st.data())
def test_a_form_that_is_cut_or_spoiled_is_this_call_or_none(
    name: str, cut: float, before: str, data: st.DataObject
) -> None:
    text = FORMS[name]
    place = int(cut * len(text))
    spoiled = data.draw(st.sampled_from([text[:place], text[:place] + text[place + 1 :], text[place:]]))
    for call in read(before + spoiled) or ():
        # A letter of a value or of a name may be gone, which no reader can know; nothing else is ever made up.
        assert call.name == "echo" or call.name not in NAMES
        assert set(call.arguments) <= {"message", *("message"[:n] + "message"[n + 1 :] for n in range(7))}
        assert set(call.arguments.values()) <= {"hi", "h", "i", "", ">hi", "hi\n</parameter"}


@pytest.mark.parametrize(
    "text",
    [
        f"<tool_call>{HI}</tool_call>\n<tool_call>{HI}</tool_call>",
        f"[{HI}, {HI}]",
        f"{HI}; {HI}",
        f"{HI}\n{HI}",
        '[echo(message="hi"), echo(message="hi")]',
        f"[TOOL_CALLS]echo[ARGS]{INNER}[TOOL_CALLS]echo[ARGS]{INNER}",
        2 * FORMS["GLM"],
        2 * FORMS["Qwen 3.5"],
        FORMS["Gemma 4"] + FORMS["Gemma 4"].partition("<channel|>")[2],
    ],
)
def test_several_calls_are_all_read(text: str) -> None:
    assert [call[:2] for call in read(text) or ()] == [("echo", {"message": "hi"})] * 2


@pytest.mark.parametrize(
    "text",
    [
        f"<think>{HI}",
        f"{HI}<think>Once more?</think>{HI}",
        '{"name":"echo","arguments":{"message":"<think>hi</think>"}}',
        f"<tool_call>{HI}</tool_call><tool_call>{HI[:-3]}</tool_call>",
        f"<tool_call>{HI}</tool_call> [TOOL_CALLS][{HI}]",
        f"<tool_call>{HI} {HI[:-1]}</tool_call>",
        f"</tool_call>{HI}",
        f"No shout: {HI}",
        f"Either {HI} or {HI}",
        '{"name":"echo","name":"shout","arguments":{}}',
        '{"name":"echo","arguments":{"message":"hi"},"parameters":{"message":"ho"}}',
        '{"name":"echo","arguments":[1]}',
        '{"name":"echo","arguments":"hi"}',
        '{"arguments":{}}',
        "[]x{" + HI,
        '[echo("hi")]',
        "[echo(message=open('x'))]",
        "[echo(**{'message': 'hi'})]",
        "<tool_call>echo\n<arg_key>message</arg_key>\n<arg_value>hi</tool_call>",
        "<tool_call>echo and shout</tool_call>",
        "<function=echo><parameter=message>hi</parameter><parameter=message>ho</parameter></function>",
        '<|tool_call>call:echo{message:<|"|>hi}<tool_call|>',
        "[TOOL_CALLS]",
    ],
)
def test_what_cannot_be_told_is_refused(text: str) -> None:
    assert read(text) is None


def test_words_and_data_are_no_calls() -> None:
    for text in ("", "Action: echo", "echo hi", 'The point is {"x": 1, "name": "nobody"}.', "f(x) is [1, 2]"):
        assert read(text) == []


def test_values_keep_what_they_are() -> None:
    body = '{"n":3,"l":[1,true,null],"o":{"a":"}"},"t":"a \\"b\\" <tool_call"}'
    (call,) = read(f'{{"name":"echo","arguments":{body}}}') or ()
    assert call.arguments == json.loads(body) and not call.bare
    (call,) = read("[echo(n=-3, l=[1, true, None], o={'a': '}'})]") or ()
    assert call.arguments == {"n": -3, "l": [1, True, None], "o": {"a": "}"}}
    (call,) = read('<|tool_call>call:echo{n:3,l:[<|"|>a, b:c<|"|>,true],o:{a:<|"|>{x:1}<|"|>}}<tool_call|>') or ()
    assert call.arguments == {"n": 3, "l": ["a, b:c", True], "o": {"a": "{x:1}"}}
    (call,) = read("<function=echo><parameter=code>\n  a = [1]\n\n</parameter></function>") or ()
    assert call.arguments == {"code": "  a = [1]\n"} and call.bare


def test_a_plain_json_call_is_told_from_words() -> None:
    assert json_call(HI) == ("echo", {"message": "hi"})
    assert json_call("echo hi") is None and json_call("{broken") is None
