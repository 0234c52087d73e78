"""Chat templates: the words around a turn, as the models that were trained with them expect."""

from collections.abc import Sequence
from typing import NamedTuple

from bigmodel.data.format import Part, Piece

ROLES = ('system', 'user', 'assistant')
Around = tuple[str, str]  # what stands before and after the words of a turn


class Turn(NamedTuple):
    """What one side says: role 'system', 'user' or 'assistant'."""

    role: str
    content: str


class Template(NamedTuple):
    """The words around turns; names of special tokens among them stand for these.

    What begins and ends the whole is the document's own: its first token and its last.
    """

    system: Around
    user: Around
    assistant: Around
    lead: str = ''  # begins an answer and is learned with it
    again: Around = ('', '')  # ends an answer that a user follows, learned with it; begins that
    preamble: str = ''  # what the system says where it has no turn
    inside: bool = False  # whether the system's turn stands in the first user's
    strip: tuple[str, ...] = ()  # the roles whose turns lose the space around them
    alternates: bool = False  # whether user and assistant take turns, the user first

    def mistake(self, roles: Sequence[str]) -> str:
        """What is wrong with the order of the roles, in words; '' if nothing is."""
        rest = roles[1:] if roles[:1] == ['system'] else roles
        if 'system' in rest:
            return 'has a system turn that is not the first'
        wanted = ['user', 'assistant'] * len(rest)
        if self.alternates and rest != wanted[: len(rest)]:
            return f'must alternate, the user first, but has {", ".join(roles)}'
        if 'assistant' not in rest:
            return 'has no turn of the assistant: nothing to learn'
        return ''


TEMPLATES = {
    # OpenAI 2023, ChatML; Qwen.
    'chatml': Template(
        system=('<|im_start|>system\n', '<|im_end|>\n'),
        user=('<|im_start|>user\n', '<|im_end|>\n'),
        assistant=('<|im_start|>assistant\n', '<|im_end|>\n'),
    ),
    # Touvron et al. 2023; the chat_completion of their code. It keeps space between the system and
    # the first user; here the user's is lost, as in later turns.
    'llama2': Template(
        system=('<<SYS>>\n', '\n<</SYS>>\n\n'),
        user=('[INST] ', ' [/INST]'),
        assistant=('', ' '),
        lead=' ',
        again=('</s>', '<s>'),
        inside=True,
        strip=('user', 'assistant'),
        alternates=True,
    ),
    # Llama Team 2024; the ChatFormat of their code.
    'llama3': Template(
        system=('<|start_header_id|>system<|end_header_id|>\n\n', '<|eot_id|>'),
        user=('<|start_header_id|>user<|end_header_id|>\n\n', '<|eot_id|>'),
        assistant=('<|start_header_id|>assistant<|end_header_id|>\n\n', '<|eot_id|>'),
        strip=ROLES,
    ),
    # Gemma Team 2024; the system as Gemma 3 has it.
    'gemma': Template(
        system=('', '\n\n'),
        user=('<start_of_turn>user\n', '<end_of_turn>\n'),
        assistant=('<start_of_turn>model\n', '<end_of_turn>\n'),
        inside=True,
        strip=('user', 'assistant'),
        alternates=True,
    ),
    # Taori et al. 2023; their prompt_no_input. More exchanges than one repeat its headings.
    'alpaca': Template(
        system=('', '\n\n'),
        user=('### Instruction:\n', '\n\n'),
        assistant=('### Response:', ''),
        again=('\n\n', ''),
        preamble='Below is an instruction that describes a task. Write a response that '
        'appropriately completes the request.',
        alternates=True,
    ),
    # Chiang et al. 2023; vicuna_v1.1 of FastChat.
    'vicuna': Template(
        system=('', ' '),
        user=('USER: ', ' '),
        assistant=('ASSISTANT:', ''),
        lead=' ',
        again=('</s>', ''),
        preamble='A chat between a curious user and an artificial intelligence assistant. The '
        "assistant gives helpful, detailed, and polite answers to the user's questions.",
        alternates=True,
    ),
    # For models that know no special tokens.
    'plain': Template(
        system=('System: ', '\n\n'), user=('User: ', '\n\n'), assistant=('Assistant: ', '\n\n')
    ),
}


def written(turns: Sequence[Turn], template: Template) -> Part:
    """The turns in the words of a template; the assistant's have mark 1."""
    if template.preamble and turns[0].role != 'system':
        turns = [Turn('system', template.preamble), *turns]
    pieces: list[Piece] = []
    held: list[Piece] = []  # the system's turn, which stands in the next one
    for i, turn in enumerate(turns):
        if turn.role == 'user' and i and turns[i - 1].role == 'assistant':
            ends, begins = template.again
            pieces += [Piece(ends, 1, special=True), Piece(begins, 0, special=True)]
        one = _written(turn, template, held)
        held = one if turn.role == 'system' and template.inside else []
        pieces += [] if held else one
    return tuple(piece for piece in pieces if piece.text)


def asked(prompt: str, template: Template) -> Part:
    """A user's prompt, and how the assistant begins."""
    before, _ = template.assistant
    opening = [Piece(before, special=True)] if before else []
    return (*written([Turn('user', prompt)], template), *opening)


def _written(turn: Turn, template: Template, held: Sequence[Piece]) -> list[Piece]:
    answers = turn.role == 'assistant'
    before, after = getattr(template, turn.role)
    content = turn.content.strip() if turn.role in template.strip else turn.content
    return [
        Piece(before, 0, special=True),
        *held,
        Piece(template.lead * answers, 1),
        Piece(content, int(answers)),
        Piece(after, int(answers), special=True),
    ]
