"""YAML as recipes and searches are written: a key given twice is an error, where PyYAML would keep the last."""

from pathlib import Path
from typing import Any

import yaml

from neuroimagen.data_shards.common.errors import UserError


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
    """The value of a YAML text. Raises yaml.YAMLError, also for a key that is given twice in one section."""
    return yaml.load(text, Loader=_StrictLoader)


def yaml_fault(error: yaml.YAMLError) -> str:
    """What is wrong and at which line, in one line."""
    return " ".join(str(error).split()).replace('in "<unicode string>", ', "at ")


def read_tree(path: Path, *, noun: str, example: str) -> dict[str, Any]:
    """The keys of a YAML file; none of an empty one. Raises UserError that names the file, and the line where it can.

    noun: what the file is, in the words of a message: "recipe". example: one of its keys.
    """
    try:
        tree = load_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no {noun} {path}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the {noun} {path}: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {yaml_fault(error)}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds {type(tree).__name__} where keys such as `{example}:` are expected.")
    return tree
