"""Faults of style in Python code, counted from its syntax tree."""

from __future__ import annotations

import ast
import builtins
import re

MAX_LINE = 100
MAX_FUNCTION_LINES = 50
MAX_NESTING = 5

_SNAKE = re.compile(r"_{0,2}[a-z0-9]+(_[a-z0-9]+)*_{0,2}|_+")
_CAMEL = re.compile(r"_?[A-Z][A-Za-z0-9]*")
_CONSTANT = re.compile(r"_{0,2}[A-Z0-9]+(_[A-Z0-9]+)*")
_DANGEROUS = ("eval", "exec", "compile", "__import__", "globals", "locals", "breakpoint", "input", "exit", "quit")


def style_faults(tree: ast.Module, code: str) -> float:
    """Count faults, grave ones for more, slight ones for less than one.

    Args:
        tree: the syntax tree of the code, or of a program that ends with it.
        code: source.

    Returns:
        0 or more; 0 for code without faults.
    """
    lines = code.splitlines()
    long = 0.9 * sum(len(line) > MAX_LINE for line in lines)
    tabs = any("\t" in line[: len(line) - len(line.lstrip())] for line in lines)
    return long + tabs + sum(map(_fault, ast.walk(tree))) + _name_faults(tree) + _layout_faults(tree)


def _fault(node: ast.AST) -> float:
    """How grave the fault in one node is, 0 where there is none."""
    if isinstance(node, ast.ExceptHandler):
        silent = all(isinstance(part, ast.Pass) for part in node.body)
        return 2.0 * (node.type is None) + silent
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        defaults = [*node.args.defaults, *node.args.kw_defaults]
        mutable = sum(isinstance(default, (ast.List, ast.Dict, ast.Set)) for default in defaults)
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        return 1.5 * mutable + (not _SNAKE.fullmatch(node.name)) + max(0, length - MAX_FUNCTION_LINES) / 25
    if isinstance(node, ast.ClassDef):
        return float(not _CAMEL.fullmatch(node.name))
    if isinstance(node, ast.ImportFrom):
        return 2.0 * any(alias.name == "*" for alias in node.names)
    if isinstance(node, ast.Compare):
        equal = [isinstance(operator, (ast.Eq, ast.NotEq)) for operator in node.ops]
        sides = [isinstance(side, ast.Constant) and side.value in (None, True) for side in node.comparators]
        return float(sum(a and b and not _is_one(c) for a, b, c in zip(equal, sides, node.comparators, strict=True)))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return 2.0 * (node.func.id in _DANGEROUS)
    return float(isinstance(node, (ast.Global, ast.Nonlocal)))


def _is_one(node: ast.expr) -> bool:
    """Whether a constant is the number 1, which equals True."""
    return isinstance(node, ast.Constant) and not isinstance(node.value, bool) and node.value is not None


def _name_faults(tree: ast.Module) -> float:
    """Names: what nothing reads, what hides a builtin, what PEP 8 writes otherwise, and one letter all over."""
    nodes = list(ast.walk(tree))
    read = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Store)}
    imported = [
        (alias.asname or alias.name).split(".")[0]
        for node in nodes
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
        if alias.name != "*"
    ]
    top = {target.id for node in tree.body for target in ast.walk(node) if isinstance(target, ast.Name)}
    stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    made = stored | {node.arg for node in nodes if isinstance(node, ast.arg)}
    inside = {
        name.id
        for node in nodes
        if isinstance(node, ast.Assign)
        for target in node.targets
        for name in ast.walk(target)
        if isinstance(name, ast.Name)
    }
    unread = {name for name in inside if name not in read and not name.startswith("_")} - _attributes(tree)
    hidden = made & set(vars(builtins)) - {"_"}
    odd = {name for name in made if not (_SNAKE.fullmatch(name) or _CONSTANT.fullmatch(name))}
    odd -= {name for name in top if _CAMEL.fullmatch(name)}
    short = [name for name in made if len(name) == 1 and name != "_"]
    return (
        sum(name not in read for name in imported)
        + len(unread)
        + 0.5 * len(hidden)
        + 0.7 * len(odd)
        + 0.25 * max(0, len(short) - 4)
    )


def _attributes(tree: ast.Module) -> set[str]:
    """Names that modules and classes give away, whether or not the code itself reads them."""
    bodies = [tree.body, *(node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef))]
    targets = [target for body in bodies for node in body if isinstance(node, ast.Assign) for target in node.targets]
    return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}


def _layout_faults(tree: ast.Module) -> float:
    """Several statements in a line, code that cannot be reached, and deep nesting."""
    faults = 0.0
    level: list[tuple[ast.AST, int]] = [(tree, 0)]
    while level:
        node, depth = level.pop()
        deeper = depth + isinstance(node, (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.FunctionDef))
        faults += deeper > MAX_NESTING
        for _, body in ast.iter_fields(node):
            if not (isinstance(body, list) and body and isinstance(body[0], ast.stmt)):
                continue
            level += [(part, deeper) for part in body]
            numbers = [part.lineno for part in body]
            faults += 0.7 * (len(numbers) - len(set(numbers)))
            ends = [isinstance(part, (ast.Return, ast.Raise, ast.Break, ast.Continue)) for part in body]
            faults += any(ends[:-1])
        for part in ast.iter_child_nodes(node):
            if isinstance(part, ast.ExceptHandler):
                level += [(statement, deeper) for statement in part.body]
    return faults
