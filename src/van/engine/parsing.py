"""From YAML and command line to the dataclasses of options. Every source is parsed once, the later one wins."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from inspect import getdoc
from types import MappingProxyType
from typing import Any, NoReturn, cast, get_args

from docstring_parser import parse as parse_docstring
from jsonargparse import ActionYesNo, ArgumentParser, Namespace

from van.engine.config import merge
from van.errors import VanError, nearest

# how jsonargparse says what it expected, and how we do
_EXPECTED = {
    r"Expected a typing\.Literal\[(.*?)\]\.?": r"expected one of \1.",
    r"Expected a <class 'int'>": "expected an integer",
    r"Expected a <class 'float'>": "expected a number",
    r"Expected a <class 'str'>": "expected text",
    r"Expected a <class 'bool'>": "expected true or false",
    r"Expected a tuple with (\d+) elements": r"expected \1 values",
    r"\. Got value: ": ", got ",
    r"typing\.": "",
}


class OptionError(VanError):
    """An option is unknown or has a wrong value."""


def _is_several(hint: Any) -> bool:
    """Whether an option takes several values: a list or a tuple, optional or not."""
    kinds = [hint, *get_args(hint)]
    return any(getattr(kind, "__origin__", None) in (list, tuple) for kind in kinds)


class OptionParser(ArgumentParser):
    """jsonargparse's parser with --dashed-names, switches without a value and several values after one option."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)
        self.refused: dict[str, str] = {}  # by the key of what other tasks have: why there is no such option here

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        """Add an option; see argparse."""
        # containers arrive inside jsonargparse's own action
        hint = getattr(kwargs.get("action"), "_typehint", kwargs.get("type"))
        plain = {k: v for k, v in kwargs.items() if k not in ("action", "type", "required")}
        if not args[0].startswith("-"):
            return super().add_argument(
                *args, **{**plain, "type": str, "nargs": "*", "default": []} if hint == list[str] else kwargs
            )
        args = tuple(name.replace("_", "-") if name.startswith("--") else name for name in args)
        if hint in (bool, bool | None):
            kwargs = {**plain, "action": ActionYesNo(no_prefix="no-")}
        action: Any = super().add_argument(*args, **kwargs)
        if _is_several(hint):
            action.metavar = (
                "HEIGHT WIDTH" if re.search("size|slice", args[0]) and "tuple" in str(hint) else "VALUE ..."
            )
        return action

    def options(self) -> dict[str, Any]:
        """Return the action of every option by its key, such as optimization.lr."""
        return {a.dest: a for a in self._actions if a.dest not in ("help", "print_config", "config")}

    def option_groups(self) -> set[str]:
        """Return the keys of the groups of options, such as optimization."""
        return {key[: place.start()] for key in self.options() for place in re.finditer(r"\.", key)}

    def unknown(self, key: str) -> str:
        """Return what to say of a key that is no option: why, or which one is meant."""
        if reason := self.refused.get(key.replace("-", "_")):
            return f": it is no option of this task, as {reason}."
        return ""

    def joined(self, arguments: Sequence[str]) -> list[str]:
        """Return arguments in which several values after one option are one list, as jsonargparse takes them.

        Of a group, such as --augmentation mosaic=0.5 hflip=0, each becomes an option of its own.
        """
        several = {
            name: action
            for action in self._actions
            if _is_several(getattr(action, "_typehint", None))
            for name in action.option_strings
        }
        groups = {f"--{group.replace('_', '-')}." for group in self.option_groups()}
        group = ""
        result: list[str] = []
        values: list[str] | None = None
        text = False
        for argument in arguments:
            if group and re.match(r"[A-Za-z][\w.-]*=", argument):
                if result[-1] == group.rstrip("."):
                    result.pop()
                result.append(group + argument.partition("=")[0].replace("_", "-") + "=" + argument.partition("=")[2])
                continue
            group = f"{argument}." if f"{argument}." in groups else ""
            if values is not None and not argument.startswith("--"):
                values.append(argument)
                continue
            _close(result, values, text)
            result.append(argument)
            action = several.get(argument.replace("_", "-"))
            values = None if action is None else []
            text = "str" in str(getattr(action, "_typehint", ""))
        _close(result, values, text)
        return result

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise OptionError with what is wrong, in one line.

        Raises:
            OptionError: always.
        """
        raise OptionError(self._sentence(" ".join(message.split())))

    def _sentence(self, message: str) -> str:
        if match := re.search(r"unrecognized arguments: (.*)", message):
            names = [word for word in match[1].split() if word.startswith("--")] or match[1].split()
            name = names[0].partition("=")[0]
            if why := self.unknown(name.lstrip("-")):
                return f"{name}{why}"
            known = [option for action in self._actions for option in action.option_strings]
            return f"unknown option {name}.{nearest(name, known)}"
        if match := re.search(r'Parser key "([^"]+)":.*NestedArg\(key=\'([^\']+)\'', message):  # of what is no group
            return self._sentence(f"unrecognized arguments: --{match[1]}.{match[2]}")
        message = re.sub(r'Parser key "([^"]+)":', lambda m: f"--{m[1].replace('_', '-')}:", message)
        if match := re.search(
            r"(--\S+): Does not validate.* Errors: - (.*) Given value type: .* Given value: (.*)", message
        ):
            reasons = [part for part in match[2].split(" - ") if "NoneType" not in part]
            message = f"{match[1]} is {match[3]}: {'; '.join(reasons)}"
        for pattern, words in _EXPECTED.items():
            message = re.sub(pattern, words, message)
        return message.rstrip(".") + "."


def _close(result: list[str], values: list[str] | None, text: bool) -> None:
    """Append the values of an option that takes several; text means that numbers stay words."""
    if not values:
        return
    one = values[0] if len(values) == 1 else None
    if one is not None and (one.startswith("[") or one in ("null", "None")):
        result.append(one)
    else:
        result.append(
            "[" + ", ".join(value if _is_number(value) and not text else json.dumps(value) for value in values) + "]"
        )


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", text))


def option_parser(
    options: type, network: type | None = None, *, prog: str = "van", description: str = "", positional: str = ""
) -> OptionParser:
    """Return the parser of a dataclass of options.

    Args:
        options: The dataclass; its field `model` takes the place of `network` where that is given.
        network: Dataclass of the options of the chosen architecture.
        prog: Command, for messages.
        description: Head of the help text.
        positional: Name of the field whose values need no option, if any.
    """
    parser = OptionParser(prog=prog, description=description, print_config="--print-config")
    parser.add_argument("--config", action="config", help="Recipe or YAML file with options; see van recipes.")
    skip = {"model"} if network is not None else set()
    if positional:
        hint = next(f.type for f in fields(options) if f.name == positional)
        parser.add_argument(positional, type=hint, help=description_of(positional, options))
        skip.add(positional)
    parser.add_class_arguments(options, as_group=False, skip=cast(Any, skip))
    for one in fields(options):
        parser.refused |= {f"{one.name}.{key}": why for key, why in getattr(one.type, "refused", {}).items()}
    if network is not None:
        parser.add_class_arguments(network, "model")
    return parser


def description_of(name: str, described: Any) -> str:
    """Return what the docstring of a function, or of a dataclass and its bases, says about a parameter.

    Args:
        name: Name of the parameter.
        described: The function or class.
    """
    for one in getattr(described, "__mro__", (described,)):
        for entry in parse_docstring(getdoc(one) or "").params:
            if entry.arg_name == name:
                return " ".join((entry.description or "").split())
    return ""


def check_keys(parser: OptionParser, content: Mapping[str, Any], source: str) -> None:
    """Refuse keys that are no options.

    Args:
        parser: Knows the options.
        content: Nested mapping of options.
        source: What to call it: a file.

    Raises:
        OptionError: a key is unknown; the message suggests the nearest one.
    """
    known, groups = parser.options(), parser.option_groups()

    def visit(mapping: Mapping[str, Any], prefix: str) -> None:
        for key, value in mapping.items():
            full = f"{prefix}{key}"
            if full in groups and isinstance(value, Mapping):
                visit(value, f"{full}.")
            elif full not in known and full not in groups:
                if why := parser.unknown(full):
                    raise OptionError(f"{source}: {full}{why}")
                raise OptionError(f"{source}: unknown key {full!r}.{nearest(full, list(known))}")

    visit(content, "")


def parse(
    parser: OptionParser,
    layers: Sequence[tuple[str, Mapping[str, Any]]],
    arguments: Sequence[str] = (),
    exclusive: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Namespace:
    """Return the options that files, keyword arguments and the command line give together.

    Args:
        parser: Of the options.
        layers: Name and nested mapping of each source; later ones win.
        arguments: Of the command line, which wins over all layers.
        exclusive: Options that set others back to null where they come from a later source; no source gives both.

    Raises:
        OptionError: an option is unknown or has a wrong value, or a source gives two of which one replaces the other.
    """
    given: dict[str, Any] = {}
    for source, layer in layers:
        check_keys(parser, layer, source)
        _refuse_both(source, layer, exclusive)
        given = merge(merge(given, _set_back(parser, layer, exclusive)), layer)
    joined = parser.joined(arguments)
    typed: dict[str, Any] = {}
    for word, following in zip(joined, [*joined, ""][1:], strict=True):
        name, equals, value = word.partition("=")
        if name[:2] == "--" and (value if equals else following) not in ("null", "None"):
            typed = merge(typed, _nested(name.lstrip("-").replace("-", "_"), True))
    _refuse_both("the command line", typed, exclusive)
    given = merge(given, _set_back(parser, typed, exclusive))
    try:
        base = parser.parse_object(given, _skip_required=True)  # parse_args checks what the command line may add
        namespace = parser.parse_args(joined, namespace=base.clone())
        for action in parser._actions:  # argparse empties a list without a name where the command line has none
            if not action.option_strings and action.nargs == "*" and not namespace[action.dest]:
                namespace[action.dest] = base[action.dest]
        return namespace
    except (TypeError, ValueError) as error:
        parser.error(str(error))


def _refuse_both(source: str, layer: Mapping[str, Any], exclusive: Mapping[str, Sequence[str]]) -> None:
    """Refuse that one source gives options of which one replaces the other."""
    for name, others in exclusive.items():
        for other in others:
            if _value(layer, name) is not None and _value(layer, other) is not None:
                raise OptionError(f"{name} and {other} are both given ({source}). Leave one of them out.")


def _set_back(parser: OptionParser, layer: Mapping[str, Any], exclusive: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the options that those of a source set back to null."""
    changes: dict[str, Any] = {}
    known = parser.options()
    for name, others in exclusive.items():
        if _value(layer, name) is not None:
            for other in (other for other in others if other in known):
                changes = merge(changes, _nested(other, None))
    return changes


def _value(content: Any, name: str) -> Any:
    """Return an option by its dotted name; None where it is not given."""
    for key in name.split("."):
        content = content.get(key) if isinstance(content, Mapping) else None
    return content


def _nested(name: str, value: Any) -> dict[str, Any]:
    """Return a nested mapping that holds one option."""
    for key in reversed(name.split(".")):
        value = {key: value}
    return value


def to_options(parser: OptionParser, namespace: Namespace, options: type) -> Any:
    """Return the dataclass that parsed options stand for."""
    values = vars(parser.instantiate(namespace))
    return options(**{f.name: values[f.name] for f in fields(options) if f.init})


def to_mapping(options: Any) -> dict[str, Any]:
    """Return a dataclass of options, with those inside it, as a nested mapping that JSON and YAML can hold."""

    def plain(value: Any) -> Any:
        if is_dataclass(value) and not isinstance(value, type):
            return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    return cast(dict[str, Any], plain(options))
