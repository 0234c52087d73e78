"""Chat templates against the strings of their authors, and what of them is learned."""

import json

import numpy as np
import pytest

from bigmodel.data.chat import TEMPLATES, Turn, asked, written
from bigmodel.data.store import open_store
from bigmodel.errors import UserError

SYSTEM, FIRST = Turn('system', 'Be brief.'), [Turn('user', 'Hi'), Turn('assistant', 'Yo')]
TURNS = [*FIRST, Turn('user', 'Why?'), Turn('assistant', 'So.')]
ALPACA = (
    'Below is an instruction that describes a task. Write a response that appropriately completes '
    'the request.\n\n'
)
VICUNA = (
    'A chat between a curious user and an artificial intelligence assistant. The assistant gives '
    "helpful, detailed, and polite answers to the user's questions. "
)
# The text, without the tokens that begin and end it, of TURNS with SYSTEM before them; how a
# prompt is asked; and what is learned. Written by hand from
# chatml: github.com/openai/openai-python/blob/v0.28.1/chatml.md;
# llama2: chat_completion in github.com/meta-llama/llama/blob/main/llama/generation.py;
# llama3: ChatFormat in github.com/meta-llama/llama3/blob/main/llama/tokenizer.py;
# gemma: the chat_template of huggingface.co/google/gemma-3-4b-it, which is that of gemma-7b-it with
# the system before the first user;
# alpaca: PROMPT_DICT in github.com/tatsu-lab/stanford_alpaca/blob/main/train.py;
# vicuna: vicuna_v1.1 in github.com/lm-sys/FastChat/blob/main/fastchat/conversation.py.
PUBLISHED = {
    'chatml': (
        '<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n'
        '<|im_start|>assistant\nYo<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n'
        '<|im_start|>assistant\nSo.<|im_end|>\n',
        '<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n',
        'Yo<|im_end|>\nSo.<|im_end|>\n',
    ),
    'llama2': (
        '[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Yo </s><s>[INST] Why? [/INST] So. ',
        '[INST] Hi [/INST]',
        ' Yo </s> So. ',
    ),
    'llama3': (
        '<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>'
        '<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>'
        '<|start_header_id|>assistant<|end_header_id|>\n\nYo<|eot_id|>'
        '<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>'
        '<|start_header_id|>assistant<|end_header_id|>\n\nSo.<|eot_id|>',
        '<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>'
        '<|start_header_id|>assistant<|end_header_id|>\n\n',
        'Yo<|eot_id|>So.<|eot_id|>',
    ),
    'gemma': (
        '<start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\nYo<end_of_turn>\n'
        '<start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\nSo.<end_of_turn>\n',
        '<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n',
        'Yo<end_of_turn>\nSo.<end_of_turn>\n',
    ),
    'alpaca': (
        'Be brief.\n\n### Instruction:\nHi\n\n### Response:Yo\n\n### Instruction:\nWhy?\n\n'
        '### Response:So.',
        f'{ALPACA}### Instruction:\nHi\n\n### Response:',
        'Yo\n\nSo.',
    ),
    'vicuna': (
        'Be brief. USER: Hi ASSISTANT: Yo</s>USER: Why? ASSISTANT: So.',
        f'{VICUNA}USER: Hi ASSISTANT:',
        ' Yo</s> So.',
    ),
    'plain': (  # our own
        'System: Be brief.\n\nUser: Hi\n\nAssistant: Yo\n\nUser: Why?\n\nAssistant: So.\n\n',
        'User: Hi\n\nAssistant: ',
        'Yo\n\nSo.\n\n',
    ),
}


def test_every_template_has_a_published_text():
    assert PUBLISHED.keys() == TEMPLATES.keys()


@pytest.mark.parametrize('name', TEMPLATES)
def test_texts_are_the_published_ones_and_answers_alone_are_learned(name):
    template, (text, asks, learned) = TEMPLATES[name], PUBLISHED[name]
    pieces = written([SYSTEM, *TURNS], template)
    assert ''.join(piece.text for piece in pieces) == text
    assert ''.join(piece.text for piece in pieces if piece.mark == 1) == learned
    assert {piece.mark for piece in pieces} == {0, 1}
    # What users and systems write is text, whatever it says.
    said = [piece.text for piece in pieces if not piece.special]
    assert [t for t in said if t.strip()] == ['Be brief.', 'Hi', 'Yo', 'Why?', 'So.']
    assert ''.join(piece.text for piece in asked('Hi', template)) == asks
    # Training goes on just as a prompt is asked, so that an answer begins where it was learned to.
    one = written(FIRST, template)
    assert ''.join(piece.text for piece in one).startswith(asks)
    before = ''.join(piece.text for piece in one[: [p.mark for p in one].index(1)])
    assert before == asks


# Whose turns lose the space around them, as their code and chat_template have it; nobody's else.
STRIPPED = {
    'llama2': ('user', 'assistant'),
    'llama3': ('system', 'user', 'assistant'),
    'gemma': ('user', 'assistant'),
}


@pytest.mark.parametrize('name', TEMPLATES)
def test_space_is_lost_around_the_turns_that_are_stripped(name):
    turns = [SYSTEM, *TURNS]
    spaced = written([Turn(role, f' \n{content} ') for role, content in turns], TEMPLATES[name])
    kept = [piece.text for piece in spaced if not piece.special and piece.text.strip()]
    stripped = STRIPPED.get(name, ())
    assert kept == [c if role in stripped else f' \n{c} ' for role, c in turns]


# Conversations of their documents: the beginning of chatml.md's, and vicuna's of
# docs/weights_version.md of FastChat, whose lines its ADD_COLON_TWO puts on one.
EXAMPLES = {
    'chatml': (
        [
            Turn('system', 'You are ChatGPT, a large language model trained by OpenAI.'),
            Turn('user', 'How are you'),
            Turn('assistant', 'I am doing well!'),
        ],
        '<|im_start|>system\nYou are ChatGPT, a large language model trained by OpenAI.<|im_end|>\n'
        '<|im_start|>user\nHow are you<|im_end|>\n'
        '<|im_start|>assistant\nI am doing well!<|im_end|>\n',
    ),
    'vicuna': (
        [
            Turn('system', 'A chat between a user and an assistant.'),
            Turn('user', 'Hello!'),
            Turn('assistant', 'Hello!'),
            Turn('user', 'How are you?'),
            Turn('assistant', 'I am good.'),
        ],
        'A chat between a user and an assistant. USER: Hello! ASSISTANT: Hello!</s>'
        'USER: How are you? ASSISTANT: I am good.',
    ),
}


@pytest.mark.parametrize('name', EXAMPLES)
def test_published_conversations(name):
    turns, text = EXAMPLES[name]
    assert ''.join(piece.text for piece in written(turns, TEMPLATES[name])) == text


@pytest.mark.parametrize('name', TEMPLATES)
def test_the_marks_of_the_tokens_are_those_of_the_answers(name, tmp_path, make_config):
    messages = [{'role': role, 'content': content} for role, content in [SYSTEM, *TURNS]]
    (tmp_path / 'train.jsonl').write_text(json.dumps({'messages': messages}))
    path, format = f'{tmp_path}/{{split}}.jsonl', f'chat(template="{name}")'
    store = open_store(make_config(source='jsonl', path=path, format=format), 'train')
    places = np.arange(store.num_tokens)
    tokens, marks = store.gather(places), store.marks(places)
    learned = bytes(tokens[(marks == 1) & (tokens < 256)].astype(np.uint8)).decode()
    assert learned == PUBLISHED[name][2]
    assert (tokens[-1], marks[-1]) == (257, 1)  # the end is learned with the last answer


ORDERS = [
    ('llama2', 'user user assistant', 'must alternate, the user first, but has user, user'),
    ('gemma', 'system assistant user', 'must alternate, the user first, but has system, assist'),
    ('chatml', 'user system assistant', 'has a system turn that is not the first'),
    ('llama3', 'system user', 'has no turn of the assistant: nothing to learn'),
    ('alpaca', 'user', 'has no turn of the assistant'),
]


@pytest.mark.parametrize(('name', 'roles', 'message'), ORDERS)
def test_roles_in_a_wrong_order_are_refused(name, roles, message, tmp_path, make_config):
    messages = [{'role': role, 'content': 'x'} for role in roles.split()]
    (tmp_path / 'train.jsonl').write_text(json.dumps({'messages': messages}))
    path, format = f'{tmp_path}/{{split}}.jsonl', f'chat(template="{name}")'
    with pytest.raises(UserError, match=f':1: messages {message}'):
        open_store(make_config(source='jsonl', path=path, format=format), 'train')
    assert not TEMPLATES['chatml'].mistake(['user', 'user', 'assistant', 'assistant'])
