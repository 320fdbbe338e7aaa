"""Grammars for what LlamaIndex's components read out of plain text, to be an LLM's `grammar`.

Every reply in such a format is read by the component's own parser. Texts are bounded, so that a
reply ends. `from_defaults` and `llm=` of a component take the LLM; the README has a table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llama_index.core.tools import BaseTool, FunctionTool
from llama_index.llms.starchat.tools import definition

from starchat import InvalidRequestError, closed_schema, limited_schema, shown

_MOST_ITEMS = 63  # llguidance counts in a parameter of 64 bits which ones were named
_LIMITS = {"string": 200, "array": 20, "object": 20, "digits": 9}
_SENTENCE = r"/[^\s][^\n]{0,299}/"
_LINE = r"/\p{L}[^\n`]{0,199}/"  # a parser of questions drops a number in front
_KEYWORD = r"/[^\s,:^<>][^\n,:^<>]{0,39}/"
_PART = r'/[^\s(),"][^\n(),"]{0,29}/'  # of a triplet: at most 128 bytes in UTF-8, with a space


def react_format(
    tools: Sequence[BaseTool | Callable[..., Any]], schema_limits: Mapping[str, int] = _LIMITS
) -> str:
    """Return the grammar of ReActAgent's replies: a thought, then a call of a tool or an answer.

    `schema_limits` bound what the schemas of the tools leave open. Raises InvalidRequestError for
    names that ReActAgent cannot read.
    """
    actions, rules = [], []
    for index, tool in enumerate(tools):
        about = definition(tool if isinstance(tool, BaseTool) else FunctionTool.from_defaults(tool))
        name, schema = about["name"], closed_schema({**about["parameters"], "type": "object"})
        if not name or set(name) & set("\n() "):
            problem = f"the name {shown(name)}: ReActAgent reads names without spaces and brackets"
            raise InvalidRequestError.of(f"tools[{index}]", problem)
        schema = limited_schema(schema, schema_limits)
        actions.append(json.dumps(f"Action: {name}\nAction Input: ") + f" arguments_{index}")
        rules.append(f"arguments_{index}: %json {json.dumps(schema)}")
    steps = " | ".join([*actions, '"Answer: " ANSWER'])
    thought = r"THOUGHT: /[^\s:][^\n:]{0,199}/"  # "Action:" in it would be read as one
    return _lark(f'"Thought: " THOUGHT "\\n" ({steps})', thought, r"ANSWER: /[^\s](.|\n)*/", *rules)


def code_format() -> str:
    """Return the grammar of CodeActAgent's replies: a text, code in `<execute>` tags, or both."""
    return _lark(
        'TEXT | "<execute>\\n" code | before code',
        r"TEXT: /[^\s](.|\n)*/ & ~/(.|\n)*<\/?execute(.|\n)*/",
        r'before[suffix="<execute>\n"]: /[^\s](.|\n)*/',
        r'code[suffix="\n</execute>"]: /[^\s](.|\n)*/',
    )


def yes_no_format() -> str:
    """Return the grammar of a verdict: FaithfulnessEvaluator and RelevancyEvaluator."""
    return _lark('"YES" | "NO"')


def direction_format() -> str:
    """Return the grammar of what AutoPrevNextNodePostprocessor asks: where to look further."""
    return _lark('"PREVIOUS" | "NEXT" | "NONE"')


def score_format(least: int = 1, most: int = 5) -> str:
    """Return the grammar of a score, in halves, above its reason: CorrectnessEvaluator."""
    return _lark(f'SCORE "\\n" TEXT\nSCORE: {_halves(least, most)}', f"TEXT: {_SENTENCE}")


def result_format(most: int, in_halves: bool = False) -> str:
    """Return the grammar of feedback and a score from 0: Answer- and ContextRelevancyEvaluator.

    AnswerRelevancyEvaluator gives 2 at most and reads whole points only; ContextRelevancyEvaluator
    gives 4 and reads halves.
    """
    _check(most, least=0)
    score = _halves(0, most) if in_halves else _one_of(map(str, range(most + 1)))
    return _lark(r'TEXT "\n[RESULT] " SCORE', f"TEXT: {_SENTENCE}", f"SCORE: {score}")


def comparison_format() -> str:
    """Return the grammar of a comparison and its verdict: PairwiseComparisonEvaluator."""
    return _lark(r'TEXT "\n" ("[[A]]" | "[[B]]" | "[[C]]")', r"TEXT: /[^\s\[\]][^\n\[\]]{0,299}/")


def relevance_format(n_documents: int = 10) -> str:
    """Return the grammar of documents and their relevance, each document at most once.

    For LLMRerank and the "llm" retrievers of SummaryIndex and DocumentSummaryIndex; `n_documents`
    is their choice_batch_size.
    """
    each = [f'Doc: {number}, Relevance: " RELEVANCE "' for number in _numbers(n_documents)]
    return _distinct(each, "\\n") + "\nRELEVANCE: /[1-9]|10/"


def ranking_format(n_passages: int) -> str:
    """Return the grammar of a ranking that names every passage once: RankGPTRerank."""
    return _distinct([f"[{number}]" for number in _numbers(n_passages)], " > ", is_whole=True)


def number_format(n_choices: int = 10, most: int = 1) -> str:
    """Return the grammar of choices by number, each at most once: retrievers of TreeIndex.

    `n_choices` is the num_children of the index, `most` the child_branch_factor.
    """
    numbers = [str(number) for number in _numbers(n_choices)]
    return _distinct(numbers, ", ", first="ANSWER: ", most=most)


def triplets_format(most: int = 10) -> str:
    """Return the grammar of triplets: KnowledgeGraphIndex and SimpleLLMPathExtractor."""
    triplet = '"(" PART ", " PART ", " PART ")"'
    return _lark(_repeated("triplet", r'"\n"', most), f"triplet: {triplet}", f"PART: {_PART}")


def typed_triplets_format(
    most: int = 10,
    entity_types: Sequence[str] = (),
    relation_types: Sequence[str] = (),
    properties: Sequence[str] = (),
) -> str:
    """Return the grammar of triplets with types, as JSON: DynamicLLMPathExtractor.

    Types are open unless they are given. `properties` are those of entities and relations, where
    the extractor has allowed_entity_props or allowed_relation_props.
    """
    text = {"type": "string", "pattern": r"^[^\s][^\n]{0,59}$"}
    entity, relation = ({"enum": list(t)} if t else text for t in (entity_types, relation_types))
    own = {"type": "object", "properties": dict.fromkeys(properties, text)}
    triplet: dict[str, Any] = {"head": text, "head_type": entity, "head_props": own}
    triplet |= {"relation": relation, "relation_props": own}
    triplet |= {"tail": text, "tail_type": entity, "tail_props": own}
    required = [name for name in triplet if properties or not name.endswith("_props")]
    triplet = {name: triplet[name] for name in required}
    item = {"type": "object", "properties": triplet, "required": required}
    schema = {"type": "array", "items": item, "maxItems": most}
    return _lark(f"%json {json.dumps(closed_schema(schema))}")


def keywords_format(most: int = 10) -> str:
    """Return the grammar of keywords: KeywordTableIndex and the retrievers of knowledge graphs."""
    return _lark('"KEYWORDS: " ' + _repeated("KEYWORD", '", "', most), f"KEYWORD: {_KEYWORD}")


def synonyms_format(most: int = 10) -> str:
    """Return the grammar of synonyms: LLMSynonymRetriever."""
    return _lark(_repeated("KEYWORD", '"^"', most), f"KEYWORD: {_KEYWORD}")


def lines_format(n_lines: int) -> str:
    """Return the grammar of as many lines, each of which begins with a letter.

    For QueryFusionRetriever, which asks for num_queries - 1, and DatasetGenerator.
    """
    return _lark(_repeated("LINE", r'"\n"', n_lines, least=n_lines), f"LINE: {_LINE}")


def facts_format(most: int = 10) -> str:
    """Return the grammar of facts in tags, or none: FactExtractionMemoryBlock."""
    _check(most, least=1)
    return _lark(
        f'"<facts>\\n" fact{{0,{most}}} "</facts>"',
        r'fact: "  <fact>" FACT "</fact>\n"',
        r"FACT: /[^\s<>][^\n<>]{0,199}/",
    )


def lookahead_format() -> str:
    """Return the grammar of an answer with a search in it, or "done": FLAREInstructQueryEngine."""
    return _lark(
        'TEXT? ("[Search(" QUERY ")]" TEXT? | "done")',
        r"TEXT: /[^\n\[\]]+/ & ~/.*[Dd][Oo][Nn][Ee].*/",
        r"QUERY: /[^\s()\[\]][^\n()\[\]]*/ & ~/.*[Dd][Oo][Nn][Ee].*/",
    )


def masked_format(most_characters: int = 2000) -> str:
    """Return the grammar of a masked text and its mapping: PIINodePostprocessor."""
    _check(most_characters, least=1)
    word = {"type": "string", "pattern": "^[^\n]{1,60}$"}
    tags = {"^[A-Z][A-Z0-9_]{0,29}$": word}
    mapping = {"type": "object", "patternProperties": tags, "additionalProperties": False}
    return _lark(
        "text mapping",
        rf'text[suffix="\nOutput Mapping:\n"]: /[^\s](.|\n){{0,{most_characters - 1}}}/',
        f"mapping: %json {json.dumps(mapping)}",
    )


def _lark(start: str, *rules: str) -> str:
    return "\n".join((f"start: {start}", *rules))


def _repeated(item: str, separator: str, most: int, least: int = 1) -> str:
    _check(most, least=1)
    more = f" ({separator} {item}){{{least - 1},{most - 1}}}"
    return item + (more if most > 1 else "")


def _one_of(texts: Any) -> str:
    return f"/{'|'.join(text.replace('.', '[.]') for text in texts)}/"


def _check(number: int, least: int) -> None:
    if number < least:
        raise InvalidRequestError(f"expected at least {least}, got {number}", got=number)


def _halves(least: int, most: int) -> str:
    _check(most, least)
    return _one_of(f"{number / 2:.1f}" for number in range(2 * least, 2 * most + 1))


def _numbers(most: int) -> range:
    if not 1 <= most <= _MOST_ITEMS:
        problem = f"expected 1 to {_MOST_ITEMS}, got {most}: ask about fewer at once"
        raise InvalidRequestError(problem, limit=_MOST_ITEMS, got=most)
    return range(1, most + 1)


def _distinct(
    items: Sequence[str],
    separator: str,
    *,
    first: str = "",
    most: int = _MOST_ITEMS,
    is_whole: bool = False,
) -> str:
    """Return the grammar of a list without repetition, `is_whole`: of every item.

    A rule's parameter has a bit for each item that stands in the list already.
    """
    bits = f"[0:{len(items)}]"

    def one_more(before: str) -> str:
        rules = (
            f'"{before}{item}" rest::set_bit({bit}) '
            f"%if and(bit_clear({bit}), bit_count_lt({bits}, {most}))"
            for bit, item in enumerate(items)
        )
        return "\n  | ".join(rules).replace(' ""', "")

    end = f'"" %if is_ones({bits})' if is_whole else '""'
    return _lark(
        "list::0x0",
        f"list::_: {one_more(first)}",
        f"rest::_: {end}\n  | {one_more(separator)}",
    )
