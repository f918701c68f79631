"""``efface verify RUN``: same bytes, same reports, same base, same pictures?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from efface import registry
from efface.cli.asking import Placed
from efface.cli.shell import parse
from efface.errors import BadRequest, MissingInput
from efface.workbench import lineage, runs, smoke
from efface.workbench.models import host_for

if TYPE_CHECKING:
    from efface.cli.output import Output

__all__ = ["Verify", "run"]


@dataclass(frozen=True, kw_only=True)
class Verify(Placed):
    """Which run to check."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder; with --signature or --c2pa also a folder of an export or a card."""
    model: str | None = None
    """Another copy of the base model; by default the model that the run names."""
    signature: Path | None = None
    """Signature of the folder, as efface sign writes it; needs --key."""
    key: Path | None = None
    """The signer's public key, as PEM."""
    c2pa: bool = False
    """Check the C2PA manifests in or beside safetensors files, as efface sign --c2pa writes them;
    needs --certificate."""
    certificate: Path | None = None
    """Certificate of the authority that is trusted to name signers, as PEM."""


def run(arguments: list[str], output: Output) -> int:
    """Checks hashes, the record, reports and attacks, then the base, then redraws the smoke set.

    A broken file or another base is an error (exit code 2); a record or reports that are not the
    delta's, and other pictures, are a mismatch (1).
    """
    options = parse(Verify, arguments, prog="efface verify", description="Checks a run.")
    signed = [*_signed(options, output), *_manifests(options, output)]
    given = options.signature is not None or options.c2pa
    if given and not (options.source / runs.RECORD).is_file():
        output.result({"different": signed, "agrees": not signed})
        return 1 if signed else 0
    found = runs.open_run(options.source)
    output.say(f"hashes  equal ({runs.DELTA} is {found.delta.id})")
    apart = [*signed, *_record(found, output), *_reports(found, output), *_attacks(found, output)]
    recipe = runs.recipe_of(options.source)
    drawn = smoke.has_smoke(found.folder)
    *parents, _ = lineage.whole(found)
    loads = drawn or bool(parents)
    model = options.model or recipe.model
    placed = options.or_recorded(recipe, model, config_only=True)
    pipe = host_for(model, recipe.method, output, placed, pictures=loads)
    with lineage.on_top_of(parents, pipe):
        return _compared(found, pipe, output, apart, drawn=drawn)


def _signed(options: Verify, output: Output) -> list[str]:
    """Checks the folder's signature, and that its card is of the delta beside it.

    Raises:
        BadRequest: a signature without a key, or the reverse.
        MissingInput: the extra is not installed, or a file is not there.
    """
    if options.signature is None and options.key is None:
        return []
    if options.signature is None or options.key is None:
        raise BadRequest("a signature is checked by a key: give --signature FILE and --key FILE")
    from efface.exchange.cards import cards_of
    from efface.exchange.signing import signature_trouble

    trouble = signature_trouble(options.source, options.signature, key=options.key)
    apart = [f"the signature does not hold: {trouble}"] if trouble else []
    if not apart and (options.source / runs.DELTA).is_file():
        others = cards_of(options.source, runs.read_delta(options.source).id)[1]
        apart += [f"{card.name} is of another delta" for card in others]
    output.say(
        f"signed  DIFFERENT: {'; '.join(apart)}" if apart else "signed  every file, by that key"
    )
    return apart


def _manifests(options: Verify, output: Output) -> list[str]:
    """Checks C2PA manifests beside the folder's files.

    Raises:
        BadRequest: manifests without a certificate, or the reverse.
        MissingInput: the extra is not installed, or a file is not there.
    """
    if not options.c2pa and options.certificate is None:
        return []
    if not options.c2pa or options.certificate is None:
        raise BadRequest(
            "manifests are checked by a certificate that is trusted: give --c2pa and "
            "--certificate FILE"
        )
    from efface.exchange.manifests import check_manifests

    checked = check_manifests(options.source, certificate=options.certificate)
    apart = list(checked.trouble)
    if apart:
        output.say(f"c2pa    DIFFERENT: {'; '.join(apart)}")
    else:
        output.say(f"c2pa    {len(checked.files)} manifests hold, by {', '.join(checked.signers)}")
    return apart


def _read_or_made(found: runs.Run) -> bool:
    """Tells runs that no flag of ``efface erase`` makes pictures of."""
    recipe = runs.recipe_of(found.folder)
    return registry.reads_pictures(recipe.model) or recipe.kind not in ("erase", "stages")


def _compared(found: runs.Run, pipe: Any, output: Output, apart: list[str], *, drawn: bool) -> int:
    """Compares base and pictures, with earlier requests in force."""
    apart += _base(found, pipe, output, whole=drawn)
    told: dict[str, Any] = {"delta": found.delta.id, "different": apart, "smoke": None}
    if not drawn:
        more = "" if _read_or_made(found) else " (efface erase --smoke keeps some)"
        output.say(f"smoke   no pictures were kept with this run{more}")
        output.result({**told, "agrees": not apart})
        return 1 if apart else 0
    with output.progress("redrawing the smoke set") as monitor:
        far = smoke.compare(found.folder, pipe, found.delta, monitor)
    close = far.mean <= smoke.TOLERANCE
    output.say(f"smoke   {_words(far, agrees=close)}")
    agrees = close and not apart
    output.result({**told, "agrees": agrees, "smoke": asdict(far)})
    return 0 if agrees else 1


def _record(found: runs.Run, output: Output) -> list[str]:
    """Compares run.json with what the delta says of itself."""
    apart = list(runs.other_facts(found))
    output.say(
        f"record  DIFFERENT: {'; '.join(apart)}" if apart else "record  equal to the delta's own"
    )
    return apart


def _reports(found: runs.Run, output: Output) -> list[str]:
    """Compares reports with those that were written, and the evaluation with the delta."""
    from efface.evaluation.record import FILE, Evaluation

    if runs.REPORTS not in found.record:
        told = "without hashes; efface evaluate adds them" if (found.folder / FILE).exists() else ""
        output.say(f"reports {told or 'none: the run was not measured'}")
        return []
    apart = [f"{name} is not what was written" for name in runs.other_reports(found)]
    try:
        after = Evaluation.load(found.folder).after
        if after is None or after.delta != found.delta.id:
            apart.append(f"{FILE} measured another delta")
    except (BadRequest, MissingInput) as error:
        apart.append(str(error))
    output.say(
        f"reports DIFFERENT: {'; '.join(apart)}; efface evaluate writes them again"
        if apart
        else f"reports equal: all {len(found.record[runs.REPORTS])} files"
    )
    return apart


def _attacks(found: runs.Run, output: Output) -> list[str]:
    """Compares attacks with those that were written; says nothing where there are none."""
    apart = [f"{name} is not what was written" for name in runs.other_attacks(found)]
    written = found.record.get(runs.ATTACKS) or {}
    there = {f"{runs.ATTACKS}/{one.name}" for one in (found.folder / runs.ATTACKS).glob("*.json")}
    if apart:
        output.say(f"attacks DIFFERENT: {'; '.join(apart)}; efface attack --overwrite makes others")
    elif strange := sorted(there - {*written}):
        more = " and others" if len(strange) > 1 else ""
        output.say(
            f"attacks without hashes: {strange[0]}{more}; efface attack --overwrite adds them"
        )
    elif written:
        output.say(f"attacks equal: all {len(written)} files")
    return apart


def _base(found: runs.Run, pipe: Any, output: Output, *, whole: bool) -> list[str]:
    """Applies the delta, which checks the weights that it touches, and the whole base if it can."""
    from efface.evaluation.identity import fingerprints, model_id
    from efface.evaluation.record import FILE, Evaluation

    measured = None
    if whole and (found.folder / FILE).is_file():
        measured = Evaluation.load(found.folder)
    with found.delta.apply(pipe):
        pass
    known = measured is not None and measured.identities
    if measured and known and model_id(pipe, fingerprints(pipe)) == measured.before.model:
        output.say("base    the model that was measured: every weight is equal")
        return []
    return _prints(found, pipe, output)


def _prints(found: runs.Run, pipe: Any, output: Output) -> list[str]:
    """Compares all networks by the prints that the delta holds; files written before hold none."""
    from efface.deltas.base_prints import base_prints, differing

    expected = found.delta.provenance.base_prints
    if not expected:
        output.say(
            "base    fits by samples of the weights that the delta touches; the others were not "
            "compared"
        )
        return []
    others = ", ".join(differing(base_prints(pipe), expected))
    if not others:
        output.say("base    the model that the delta was made for: every network, up to rounding")
        return []
    output.say(f"base    DIFFERENT: the delta fits, and other weights are not its base's: {others}")
    return [f"the base has other weights in: {others}"]


def _words(far: smoke.Difference, *, agrees: bool) -> str:
    if far.equal == far.pictures:
        return f"equal: all {far.pictures} pictures, every pixel"
    verdict = "close" if agrees else "DIFFERENT"
    return (
        f"{verdict}: {far.equal} of {far.pictures} pictures equal; the worst differs by "
        f"{far.mean:.2f} of 255 on average, {far.largest} at most"
    )
