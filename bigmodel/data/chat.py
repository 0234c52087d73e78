"""Chat templates: the words around a turn, as the models that were trained with them expect."""

from collections.abc import Callable
from typing import NamedTuple

ROLES = ('system', 'user', 'assistant')


class Turn(NamedTuple):
    """What one side says: role 'system', 'user' or 'assistant'."""

    role: str
    content: str


# Role -> what stands before and after the content of a turn.
Template = Callable[[str], tuple[str, str]]


def chatml(role: str) -> tuple[str, str]:
    """<|im_start|>role … <|im_end|> (OpenAI 2023; Qwen)."""
    return f'<|im_start|>{role}\n', '<|im_end|>\n'


def llama3(role: str) -> tuple[str, str]:
    """<|start_header_id|>role<|end_header_id|> … <|eot_id|> (Llama Team 2024)."""
    return f'<|start_header_id|>{role}<|end_header_id|>\n\n', '<|eot_id|>'


def gemma(role: str) -> tuple[str, str]:
    """<start_of_turn>role … <end_of_turn>, the assistant called 'model' (Gemma Team 2024)."""
    name = {'assistant': 'model'}.get(role, role)
    return f'<start_of_turn>{name}\n', '<end_of_turn>\n'


def plain(role: str) -> tuple[str, str]:
    """Role: … in words, for models that know no special tokens."""
    return f'{role.capitalize()}: ', '\n\n'


TEMPLATES: dict[str, Template] = {
    'chatml': chatml,
    'llama3': llama3,
    'gemma': gemma,
    'plain': plain,
}
