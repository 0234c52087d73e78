"""The slot `data.format`: what becomes of the fields of an example."""

import dataclasses

from bigmodel.data.chat import ROLES, TEMPLATES, Turn, asked, written
from bigmodel.data.fields import Field, check_names
from bigmodel.data.format import Document, Format, Part, Piece, Row
from bigmodel.data.source import Source
from bigmodel.errors import unknown
from bigmodel.specs import make


@dataclasses.dataclass(frozen=True)
class Text(Format):
    """A text, with its class where the source has labels.

    '' is the source's own field; several fields are joined by a newline. With `label=None` classes
    that the source has are left out. `classes` are the names of the classes in the order of their
    numbers, where the source does not say them.
    """

    text: str | tuple = ''
    label: str | None = ''
    classes: tuple = ()

    teaches = 'class'

    def __post_init__(self) -> None:
        check_names(self.classes, 'data.format: classes')

    def label_names(self, source: Source) -> tuple[str, ...]:
        label = self._label(source)
        return (self.classes or source.class_names(label)) if label else ()

    def __call__(self, row: Row) -> tuple[Document, ...]:
        fields = self.text or row.source.text_field
        fields = (fields,) if isinstance(fields, str) else fields
        label = self._label(row.source)
        text = '\n'.join(row.get(field).text() for field in fields)
        number = row.get(label).label(self.label_names(row.source)) if label else 0
        return (Document(((Piece(text),),), number),)

    def _label(self, source: Source) -> str:
        return '' if self.label is None else self.label or source.label_field


@dataclasses.dataclass(frozen=True)
class Pair(Format):
    """Two texts and the class of the pair: entailment, paraphrase (Wang et al. 2018, GLUE).

    `classes` are their names in the order of their numbers, where the source does not say them.
    """

    first: str
    second: str
    label: str = 'label'
    classes: tuple = ()

    teaches = 'class'

    def __post_init__(self) -> None:
        check_names(self.classes, 'data.format: classes')

    def label_names(self, source: Source) -> tuple[str, ...]:
        return self.classes or source.class_names(self.label)

    def __call__(self, row: Row) -> tuple[Document, ...]:
        parts = tuple((Piece(row.get(field).text()),) for field in (self.first, self.second))
        return (Document(parts, row.get(self.label).label(self.label_names(row.source))),)


@dataclasses.dataclass(frozen=True)
class Score(Format):
    """A text, or two, and a number: similarity, rating."""

    text: str = 'text'
    second: str = ''
    score: str = 'score'

    teaches, scored = 'number', True

    def __call__(self, row: Row) -> tuple[Document, ...]:
        fields = [field for field in (self.text, self.second) if field]
        parts = tuple((Piece(row.get(field).text()),) for field in fields)
        return (Document(parts, row.get(self.score).number()),)


@dataclasses.dataclass(frozen=True)
class Tags(Format):
    """Words, each with a class: entities, parts of speech (Tjong Kim Sang & De Meulder 2003).

    A word's mark is 1 + its class, and with `first` only its first token has it, so that a word
    counts once (Devlin et al. 2018, §5.3). `join` stands between words and has no class; nor has a
    word whose tag is None.
    """

    words: str = 'tokens'
    tags: str = 'tags'
    join: str = ' '
    first: bool = True

    teaches, marked = 'classes', True

    @property
    def first_marked(self) -> bool:
        return self.first

    def label_names(self, source: Source) -> tuple[str, ...]:
        return source.class_names(self.tags)

    def __call__(self, row: Row) -> tuple[Document, ...]:
        words, tags = row.get(self.words).items(), row.get(self.tags).items()
        if len(words) != len(tags):
            raise row.wrong(f'{len(words)} {self.words} but {len(tags)} {self.tags}')
        names, pieces = self.label_names(row.source), []
        for word, tag in zip(words, tags, strict=True):
            pieces += [Piece(self.join)] if pieces and self.join else []
            pieces.append(self._word(word, tag, names))
        return (Document((tuple(pieces),)),)

    def _word(self, word: Field, tag: Field, names: tuple[str, ...]) -> Piece:
        if tag.value is None:
            return Piece(word.text())
        return Piece(word.some_text(), 1 + tag.label(names))


@dataclasses.dataclass(frozen=True)
class Span(Format):
    """A question, and a context that holds the answer: its tokens have mark 1, the context's others
    2 (Rajpurkar et al. 2016, SQuAD).

    `answers` is a list of strings, `starts` of where they begin in the context; the first is
    learned, and each is right in an evaluation.
    Both may be empty where questions are `unanswerable` (Rajpurkar et al. 2018): no mark 1.
    """

    question: str = 'question'
    context: str = 'context'
    answers: str = 'answers.text'
    starts: str = 'answers.answer_start'
    unanswerable: bool = False

    teaches, marked = 'span', True

    def __call__(self, row: Row) -> tuple[Document, ...]:
        context, spans = row.get(self.context).some_text(), self.spans(row)
        begin, end = spans[0] if spans else (0, 0)
        pieces = (context[:begin], 2), (context[begin:end], 1), (context[end:], 2)
        body = tuple(Piece(text, mark) for text, mark in pieces if text)
        return (Document(((Piece(row.get(self.question).some_text()),), body)),)

    def references(self, row: Row) -> tuple[str, ...]:
        context = row.get(self.context).text()
        return tuple(dict.fromkeys(context[a:b] for a, b in self.spans(row))) or ('',)

    def spans(self, row: Row) -> list[tuple[int, int]]:
        """Where the answers of an example begin and end in its context; none without an answer."""
        context, texts = row.get(self.context).text(), row.get(self.answers).items()
        starts = row.get(self.starts).items()
        if len(texts) != len(starts):
            raise row.wrong(f'{len(texts)} {self.answers} but {len(starts)} {self.starts}')
        if not texts and not self.unanswerable:
            raise row.get(self.answers).wrong(
                'a list with an answer; for questions without one (SQuAD 2.0) set unanswerable=True'
            )
        pairs = [(s.integer(), t.some_text()) for s, t in zip(starts, texts, strict=True)]
        for begin, text in pairs:
            if context[begin : begin + len(text)] != text:
                raise row.wrong(f'{self.answers} {text!r} is not at {begin} of {self.context}')
        return [(begin, begin + len(text)) for begin, text in pairs]


@dataclasses.dataclass(frozen=True)
class Choices(Format):
    """A question with `group` options, one document each, of which `label` is right
    (Zellers et al. 2018, SWAG).
    """

    options: str
    question: str = 'question'
    label: str = 'label'
    group: int = 4

    teaches = 'choice'

    def label_names(self, source: Source) -> tuple[str, ...]:
        return tuple(str(i) for i in range(self.group))

    def __call__(self, row: Row) -> tuple[Document, ...]:
        options = row.get(self.options).items()
        if len(options) != self.group:
            raise row.wrong(f'{len(options)} {self.options} instead of {self.group}: set group=')
        label = row.get(self.label).label(self.label_names(row.source))
        question = (Piece(row.get(self.question).text()),)
        texts = [option.some_text() for option in options]
        return tuple(Document((question, (Piece(text),)), label) for text in texts)


@dataclasses.dataclass(frozen=True)
class Prompt(Format):
    """A prompt, and a response, whose tokens have mark 1: instructions, summaries, translations."""

    prompt: str = 'prompt'
    response: str = 'response'

    teaches, marked = 'responses', True

    def __call__(self, row: Row) -> tuple[Document, ...]:
        response = Piece(row.get(self.response).some_text(), 1)
        return (Document(((Piece(row.get(self.prompt).text()),), (response,))),)

    def opening(self, prompt: str) -> tuple[Part, ...]:
        return (Piece(prompt),), ()


@dataclasses.dataclass(frozen=True)
class Chat(Format):
    """Turns of a conversation, written as `template` says; the assistant's have mark 1.

    `messages` is a list of {'role': 'user', 'content': '…'}.
    """

    messages: str = 'messages'
    template: str = 'chatml'
    role: str = 'role'
    content: str = 'content'
    version: int = dataclasses.field(default=3, init=False)  # of the templates: other tokens

    teaches, marked = 'responses', True

    def __post_init__(self) -> None:
        if self.template not in TEMPLATES:
            raise unknown('template of a chat', self.template, TEMPLATES)

    def __call__(self, row: Row) -> tuple[Document, ...]:
        turns = [self._turn(message) for message in row.get(self.messages).items()]
        template = TEMPLATES[self.template]
        mistake = template.mistake([turn.role for turn in turns])
        if mistake:
            raise row.wrong(f'{self.messages} {mistake}')
        return (Document((written(turns, template),)),)

    def opening(self, prompt: str) -> tuple[Part, ...]:
        return (asked(prompt, TEMPLATES[self.template]),)

    def _turn(self, message: Field) -> Turn:
        role = message.get(self.role).choice(ROLES)
        content = message.get(self.content)
        return Turn(role, content.some_text() if role == 'assistant' else content.text())


@dataclasses.dataclass(frozen=True)
class Preference(Format):
    """A prompt with two responses, the chosen one first; two documents whose responses have mark 1
    (Ouyang et al. 2022).
    """

    prompt: str = 'prompt'
    chosen: str = 'chosen'
    rejected: str = 'rejected'

    teaches, group, marked = 'preference', 2, True

    def __call__(self, row: Row) -> tuple[Document, ...]:
        prompt = (Piece(row.get(self.prompt).text()),)
        responses = (row.get(field).some_text() for field in (self.chosen, self.rejected))
        return tuple(Document((prompt, (Piece(response, 1),))) for response in responses)


FORMATS = {
    'text': Text,
    'pair': Pair,
    'score': Score,
    'tags': Tags,
    'span': Span,
    'choices': Choices,
    'prompt': Prompt,
    'chat': Chat,
    'preference': Preference,
}


def build_format(spec: str) -> Format:
    """The format that `config.data.format` names."""
    return make(FORMATS, spec, 'data.format')
