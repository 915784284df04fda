"""YAML as recipes and searches are written: plain values, no key twice, and no text that unfolds to more than it is.

PyYAML would keep the last of two keys, unfold aliases inside aliases to any size, and raise whatever Python raises for
numbers and dates that are none.
"""

from pathlib import Path
from typing import Any

import yaml

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.limits import MAX_YAML_BYTES, MAX_YAML_VALUES
from neuroimagen.data_shards.common.reading import read_text, reason


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which builds plain values only, without repeated keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                continue
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key_node.value!r} is given twice in one section", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def load_yaml(text: str) -> Any:
    """The value of a YAML text. Raises yaml.YAMLError for everything that is wrong with it.

    That includes a key that is given twice in one section, a text that is too long or nested too deep, and aliases that
    unfold to more values than a recipe has.
    """
    if len(text) > MAX_YAML_BYTES:
        raise yaml.YAMLError(f"it has more than {MAX_YAML_BYTES:,} characters")
    loader = _StrictLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_unfolded(node)
        return loader.construct_document(node)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deep") from None
    # A number or date that is none, a key that cannot be one: whatever Python raises for it.
    except (ValueError, TypeError, OverflowError, AttributeError, LookupError) as error:
        raise yaml.YAMLError(f"a value cannot be read: {reason(error)}") from None
    finally:
        loader.dispose()


def _check_unfolded(root: yaml.Node) -> None:
    """Raise yaml.YAMLError if the values that aliases stand for, written out, are too many or without end.

    Counts each node once, in the order of the nodes it holds, so that the check takes no longer than the text is.
    """
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()
    todo: list[tuple[yaml.Node, bool]] = [(root, False)]
    while todo:
        node, held_are_counted = todo.pop()
        if id(node) in sizes:
            continue
        held = _held(node)
        if held_are_counted:
            open_nodes.discard(id(node))
            sizes[id(node)] = 1 + sum(sizes[id(each)] for each in held)
            if sizes[id(node)] > MAX_YAML_VALUES:
                raise yaml.YAMLError(f"its aliases unfold to more than {MAX_YAML_VALUES:,} values")
            continue
        if id(node) in open_nodes:
            raise yaml.YAMLError("an alias stands inside what it stands for")
        open_nodes.add(id(node))
        todo.append((node, True))
        todo += [(each, False) for each in held]


def _held(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [each for pair in node.value for each in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def yaml_fault(error: yaml.YAMLError) -> str:
    """What is wrong and at which line, in one line."""
    return " ".join(str(error).split()).replace('in "<unicode string>", ', "at ")


def read_tree(path: Path, *, noun: str, example: str) -> dict[str, Any]:
    """The keys of a YAML file; none of an empty one. Raises UserError that names the file, and the line where it can.

    noun: what the file is, in the words of a message: "recipe". example: one of its keys.
    """
    try:
        tree = load_yaml(read_text(path, limit=MAX_YAML_BYTES))
    except FileNotFoundError:
        raise UserError(f"there is no {noun} {path}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the {noun} {path}: {reason(error)}.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {yaml_fault(error)}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds {type(tree).__name__} where keys such as `{example}:` are expected.")
    return tree
