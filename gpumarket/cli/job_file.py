"""`gpumarket job init | validate | plan`: everything about a job before it is signed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpumarket.cli.access import make_client, with_connection
from gpumarket.cli.output import (
    Console,
    Outcome,
    command,
    encode_amount,
    show_amount,
    show_money,
)
from gpumarket.client.connection import Connection
from gpumarket.jobfile import InvalidJobFile, Mistake, load_job_file
from gpumarket.protocol.comparison import (
    BytesRule,
    Comparison,
    ImageRule,
    JsonRule,
    LlmRule,
    ProgramRule,
)
from gpumarket.protocol.errors import InvalidInput
from gpumarket.protocol.units import format_size

if TYPE_CHECKING:
    from gpumarket.client import Plan

TEMPLATE = """\
version: 1
name: hello                          # for people; the job id comes from the signed order
image: file:image.tar                # a `docker save` archive; its digest is what you sign
command: [python3, main.py]

resources:
  gpu: {count: 0}                    # or "16GB..:1": one GPU with at least 16 GB for each task
  cpu: 1                             # a bare number means AT LEAST
  memory: 1GB

inputs:
  - {name: texts, from: "file:texts.txt", to: /in/texts.txt}

outputs:
  - {from: /out, max_size: 100MB}    # what a task leaves here is hashed, signed and fetched

split: {over: texts, by: lines, size: 100}    # one task for each 100 lines

verify:
  mode: sample                       # some tasks are done again, drawn after all is committed
  compare: bytes

budget: {max: 1.00 USDC}             # the job can never cost more
limits: {queue: 10m, run: 10m}
"""


@command("job.init/1", name="init")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write here, not to stdout.")
def init(console: Console, *, output: Path | None) -> Outcome:
    """Print a job file to start from."""
    if output is None:
        return Outcome({"text": TEMPLATE}, TEMPLATE.rstrip())
    try:
        with output.open("x") as file:
            file.write(TEMPLATE)
    except FileExistsError as error:
        raise InvalidInput(f"{output} exists and is not overwritten") from error
    except OSError as error:
        raise InvalidInput(
            f"{output} cannot be written: {error.strerror}", code="GM-1101"
        ) from error
    return Outcome(
        {"path": str(output)}, f"{output} written; next: gpumarket job validate {output}"
    )


@command("job.validate/1", name="validate")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
def validate(console: Console, *, files: tuple[Path, ...]) -> Outcome:
    """Check job files; all mistakes of all files at once, each with its line."""
    from gpumarket.jobfile import format_mistakes
    from gpumarket.protocol.catalog import Exit
    from gpumarket.resolving import find_contradictions, find_unsupported

    data, lines, warnings = [], [], []
    for path in files:
        mistakes: list[Mistake] = []
        later: list[Mistake] = []
        try:
            job = load_job_file(path)
            mistakes = sorted(find_contradictions(job))
            later = sorted(find_unsupported(job))
        except InvalidJobFile as error:
            mistakes = list(error.mistakes)
        count = len(mistakes)
        lines.append(f"{path}: {count} problem{'s' * (count != 1)}" if mistakes else f"{path}: ok")
        lines += [f"  {line}" for line in format_mistakes(str(path), mistakes)]
        warnings += format_mistakes(str(path), later)
        data.append({"path": str(path), "mistakes": [describe_mistake(each) for each in mistakes]})
    is_ok = not any(entry["mistakes"] for entry in data)
    end = Exit.DONE if is_ok else Exit.INVALID_FILE
    return Outcome(data, "\n".join(lines), exit=end, warnings=tuple(warnings), is_ok=is_ok)


@command("job.plan/1", name="plan")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--set", "sets", multiple=True, metavar="PATH=VALUE", help="Replace a field.")
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="Set a variable of the job.")
@click.option("--explain", is_flag=True, help="Say at which requirement each provider falls out.")
@with_connection
def plan(
    console: Console,
    *,
    connection: Connection,
    file: Path,
    sets: tuple[str, ...],
    env: tuple[str, ...],
    explain: bool,
) -> Outcome:
    """Show what a job would cost and who could run it; signs and sends nothing."""
    with make_client(connection) as client:
        made = client.plan(file, overrides=parse_overrides(sets, env))
    return Outcome(describe_plan(made), format_plan(made, is_long=explain))


def describe_plan(plan: Plan) -> dict[str, Any]:
    """Write a plan for machines."""
    prices = plan.prices
    return {
        "name": plan.spec.name,
        "image": {"archive": plan.spec.image.archive, "digest": plan.spec.image.digest},
        "tasks": plan.spec.units,
        "checks_max": prices.checks,
        "budget": encode_amount(plan.budget),
        "cost_max": encode_amount(plan.exposure),
        "task_price_max": encode_amount(prices.max_unit_price),
        "check_price_max": encode_amount(prices.max_check_price),
        "fee_max": encode_amount(prices.max_fee),
        "feasible": plan.is_feasible,
        "quote": dict(plan.quote),
        "chain_id": plan.market.domain.chain_id,
        "contract": f"0x{plan.market.domain.contract.hex()}",
        "coordinator": f"0x{plan.market.coordinator.hex()}",
        "job_hash": f"0x{plan.spec.compute_hash().hex()}",
    }


def format_plan(plan: Plan, *, is_long: bool = False) -> str:
    """Write a plan for people, one fact a line."""
    spec, prices = plan.spec, plan.prices
    image = spec.image
    rows = [
        ("image", f"{image.digest[:19]}…  {format_size(image.archive_bytes)}  {image.archive}"),
        *(
            ("input", f"{each.name}  {format_size(each.size_bytes)}  {each.cid}")
            for each in spec.inputs
        ),
        ("split", _format_split(plan)),
        ("matches", format_funnel(plan.quote.get("funnel")) or "the coordinator did not say"),
    ]
    if is_long:
        rows += [("", line) for line in format_relaxations(plan.quote)]
    rows += [
        ("checks", _format_checks(plan)),
        *([] if spec.verify.mode == "none" else [("equal", format_rule(spec.verify.comparison))]),
        ("cost", _format_cost(plan)),
        ("limit", f"at most {show_money(plan.exposure)}; what is not used comes back"),
        ("", f"a task at most {show_money(prices.max_unit_price)}"),
        ("privacy", "providers can read input and output; so can anyone who is given a CID"),
    ]
    return "\n".join(f"{name:<8} {text}".rstrip() for name, text in rows)


def format_funnel(funnel: object) -> str:
    """Write how many providers are left after each requirement: `3 online -> 1 vram`."""
    if not isinstance(funnel, list):
        return ""
    stages = [each for each in funnel if isinstance(each, dict)]
    # A stage where nobody falls says nothing; the first and the last frame the rest.
    told = [each for each in stages[1:-1] if each.get("fell", 1)]
    return " -> ".join(_format_stage(each) for each in [*stages[:1], *told, *stages[1:][-1:]])


def _format_stage(stage: dict[str, Any]) -> str:
    need = f" ({stage['need']})" if stage.get("need") else ""
    return f"{stage.get('left', '?')} {stage.get('stage', '?')}{need}"


def format_relaxations(quote: object) -> list[str]:
    """Write the smallest changes after which somebody could run the job."""
    relaxations = quote.get("relaxations") if isinstance(quote, dict) else None
    return [
        str(each.get("text", each) if isinstance(each, dict) else each)
        for each in relaxations or ()
    ]


def _format_split(plan: Plan) -> str:
    split = plan.spec.split
    if split is None:
        return "1 task"
    over = f" of {split.over}" if split.over else ""
    return f"{plan.spec.units} tasks of {split.size} {split.by}{over} ({split.items} in all)"


def _format_checks(plan: Plan) -> str:
    policy = plan.spec.verify
    if policy.mode == "none":
        return "none: nothing is done again, results are taken on trust"
    if policy.mode == "full":
        return f"every task is done again by a verifier, up to {plan.prices.checks} checks"
    critical = ", ".join(str(unit) for unit in policy.critical)
    return (
        f"a verifier does tasks again, drawn after all is committed; up to {plan.prices.checks}, "
        f"no fewer than {policy.units_min} of a provider's pool, "
        f"so that {policy.forged_share_ppm / 10_000:g} % forged is found "
        f"with {policy.confidence_ppm / 10_000:g} %"
    ) + (f"; always tasks {critical}" if critical else "")


def format_rule(rule: Comparison) -> str:
    """Say in words when two outputs count as equal."""
    match rule:
        case BytesRule():
            return "means the same bytes; machines of different kinds decide nothing"
        case ProgramRule():
            return f"means that your comparator says so: {' '.join(rule.command)}"
        case LlmRule():
            shown = f"fingerprints within {rule.distance_max}"
            if rule.fingerprint == "toploc":
                shown = (
                    f"TOPLOC's proofs within {rule.exponent_max} of the exponents and a mean "
                    f"mantissa error of {rule.mantissa_max}"
                )
            return (
                f"means that your replay ({' '.join(rule.command)}) finds a mean margin up to "
                f"{rule.margin_max} and {shown}"
            ) + ("; the same tokens within a class" if rule.exact_in_class else "")
        case ImageRule():
            text = (
                f"SSIM of the worst place from {rule.ssim_min} on, "
                f"all but {rule.max_mismatch} of the values within {rule.atol} levels"
            )
        case JsonRule():
            text = f"numbers within rtol {rule.rtol} and atol {rule.atol}"
        case _:
            text = (
                f"all but {rule.max_mismatch} of the entries "
                f"within rtol {rule.rtol} and atol {rule.atol}"
            )
            if rule.base:
                text += f", and within {rule.tau} of the change from '{rule.base}'"
    return f"means for {rule.files} as {rule.name}: {text}; other files by their bytes"


def _format_cost(plan: Plan) -> str:
    price = plan.quote.get("price")
    if not isinstance(price, dict) or not price.get("low"):
        return "no estimate"
    low, high = price.get("low"), price.get("high") or price.get("low")
    seconds = price.get("per_task_seconds")
    each = f" for a task of {seconds} s" if seconds else ""
    return f"about {show_amount(low)} to {show_money(high)}{each}"


def describe_mistake(mistake: Mistake) -> dict[str, Any]:
    """Write a mistake for machines."""
    return {
        "line": mistake.line,
        "code": mistake.code,
        "pointer": mistake.pointer,
        "message": mistake.text,
    }


def parse_overrides(sets: tuple[str, ...], env: tuple[str, ...]) -> dict[str, Any]:
    """Read `--set path=value` and `--env K=V`; values are YAML."""
    from gpumarket.yaml_text import YamlMistake, YamlText

    overrides: dict[str, Any] = {}
    for text in sets:
        path, equals, value = text.partition("=")
        if not equals:
            raise InvalidInput(f"--set needs path=value, got '{text}'")
        try:
            overrides[path] = YamlText(value).document
        except YamlMistake as mistake:
            raise InvalidInput(f"--set {path}: {mistake.text}") from mistake
    for text in env:
        name, equals, value = text.partition("=")
        if not equals:
            raise InvalidInput(f"--env needs NAME=value, got '{text}'")
        overrides[f"env.{name}"] = value
    return overrides
