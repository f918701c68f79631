"""UCE and RECE for larger families, written out layer by layer: own encoding, own sums, `inverse`.

What reads text: keys and values and the pooled columns of SD XL; ``context_embedder`` and the
pooled projection of SD 3 and FLUX, and the first alone of AuraFlow. Biases are no part of it.
"""

import copy

import torch

from efface.concepts import wordings
from tests.reference import closed_form as reference
from tests.reference.language import ROWS

T5_LENGTH = {"sd3": 256, "flux": 512}


def readers(pipe, family):
    """Copies the weights that read tokens and those that read the pooled row, in float64."""
    found = _readers(pipe, family)
    return {branch: {n: w.clone() for n, w in layers.items()} for branch, layers in found.items()}


def _readers(pipe, family):
    if family in ("sd1", "sd2"):
        return {"tokens": reference.key_value_layers(pipe.unet)}
    if family == "sdxl":
        pooled = pipe.unet.add_embedding.linear_1.weight
        width = pipe.text_encoder_2.config.projection_dim
        return {
            "tokens": reference.key_value_layers(pipe.unet),
            "pooled": {"add_embedding": pooled.detach()[:, :width].double()},
        }
    if family == "pixart":
        return {"tokens": reference.key_value_layers(pipe.transformer)}
    if family in ROWS:
        layers = {name: pipe.transformer.get_submodule(name) for name in ROWS[family][0]}
        return {"tokens": {name: one.weight.detach().double() for name, one in layers.items()}}
    tokens = {"context_embedder": pipe.transformer.context_embedder.weight.detach().double()}
    if family == "auraflow":
        return {"tokens": tokens}
    pooled = pipe.transformer.time_text_embed.text_embedder.linear_1.weight
    return {
        "tokens": tokens,
        "pooled": {"text_embedder": pooled.detach().double()},
    }


def _ids(tokenizer, prompt, length=None):
    length = length or tokenizer.model_max_length
    return tokenizer(prompt, padding="max_length", max_length=length, return_tensors="pt").input_ids


def _clip(pipe, suffix, prompt):
    encoder, tokenizer = (
        getattr(pipe, f"{kind}{suffix}") for kind in ("text_encoder", "tokenizer")
    )
    with torch.no_grad():
        return encoder(_ids(tokenizer, prompt), output_hidden_states=True)


def _t5(pipe, suffix, prompt, length):
    encoder, tokenizer = (
        getattr(pipe, f"{kind}{suffix}") for kind in ("text_encoder", "tokenizer")
    )
    with torch.no_grad():
        return encoder(_ids(tokenizer, prompt, length))[0][0].double()


def _pair(pipe, prompt):
    both = [_clip(pipe, suffix, prompt).hidden_states[-2][0] for suffix in ("", "_2")]
    return torch.cat(both, dim=1).double()


def token_rows(pipe, family, prompt):
    """Gives, for each stream, the rows of a prompt and its last content position."""
    if family in ROWS:
        with torch.no_grad():
            return [ROWS[family][1](pipe, prompt)]
    content = len(pipe.tokenizer(prompt)["input_ids"]) - 2
    if family in ("sd1", "sd2"):
        return [reference.states(pipe, prompt)]
    if family == "sdxl":
        return [(_pair(pipe, prompt), content)]
    if family == "pixart":
        return [_captions(pipe, prompt)]
    if family == "auraflow":
        return [_without_padding(pipe, prompt)]
    suffix = "_3" if family == "sd3" else "_2"
    tokenizer = getattr(pipe, f"tokenizer{suffix}")
    last = len(tokenizer(prompt)["input_ids"]) - 2  # -1: no word, and no begin token either
    rows = _t5(pipe, suffix, prompt, T5_LENGTH[family])
    if family == "flux":
        return [(rows, last)]
    clip = torch.nn.functional.pad(_pair(pipe, prompt), (0, rows.shape[1] - 64))
    return [(clip, content), (rows * _factor(pipe), last)]


def _without_padding(pipe, prompt):
    """Gives what AuraFlow's pipeline embeds; rows of padding are zeros, which no map moves."""
    rows, mask, _, _ = pipe.encode_prompt(prompt, do_classifier_free_guidance=False)
    count = int(mask[0].unique_consecutive(return_counts=True)[1][0]) // rows.shape[2]
    return rows[0, :count].double(), count - 2


def _captions(pipe, prompt):
    """Gives what the pipeline embeds, past its transformer's own projection, without padding."""
    with torch.no_grad():
        rows, mask, _, _ = pipe.encode_prompt(
            prompt, do_classifier_free_guidance=False, max_sequence_length=24
        )
        projection = copy.deepcopy(pipe.transformer.caption_projection).double()
        count = int(mask.sum())
        return projection(rows[0].double())[:count], count - 2


def _factor(pipe):
    """Root mean square length of CLIP's rows of the empty prompt over that of T5's."""
    clip, t5 = _pair(pipe, ""), _t5(pipe, "_3", "", T5_LENGTH["sd3"])
    return ((clip**2).sum(1).mean() / (t5**2).sum(1).mean()) ** 0.5


def pooled_row(pipe, family, prompt):
    """Gives what the pooled layer reads, as one row."""
    if family == "flux":
        return _clip(pipe, "", prompt).pooler_output.double()
    suffixes = ("_2",) if family == "sdxl" else ("", "_2")
    return torch.cat([_clip(pipe, s, prompt).text_embeds for s in suffixes], dim=1).double()


def _legacy(source, target):
    """Last word to last word (or to the end token, in want of a token), end to end, padding on."""
    (c, last_c), (t, last_t) = source, target
    tail = min(len(c) - last_c, len(t) - last_t) - 1
    own = t[last_t] if last_t >= 0 else t[last_t + 1]
    return (
        torch.cat([c[last_c][None], c[last_c + 1 : last_c + 1 + tail]]),
        torch.cat([own[None], t[last_t + 1 : last_t + 1 + tail]]),
    )


def _whole(source, target):
    """Pairs rows by position; beyond a shorter target with its last row."""
    return source, target[[min(place, len(target) - 1) for place in range(len(source))]]


WIDTHS = {"sdxl": {"tokens": (32, 32)}, "sd3": {"tokens": (32, 32), "pooled": (32, 32)}}
"""Widths of the CLIP encoders whose values stand side by side in a row."""


def rows_to_move(pipe, family, branch, request):
    """Gives pairs of rows, pairs of all rows, and kept rows, by wording and stream; one erasure."""
    (erasure,) = request.erasures
    anchor = "" if erasure.anchor is None else erasure.anchor.name
    texts = wordings(erasure.concept)
    both = [(text, text.replace(erasure.concept.name, anchor) if anchor else "") for text in texts]
    keep = ["", *(text for one in request.keep for text in wordings(one))]
    if branch == "pooled":
        pairs = [tuple(pooled_row(pipe, family, text) for text in pair) for pair in both]
        return pairs, pairs, [pooled_row(pipe, family, text) for text in keep]
    streams = range(len(token_rows(pipe, family, "")))
    rows = {text: token_rows(pipe, family, text) for text in {*keep, *(t for p in both for t in p)}}
    pairs = [_legacy(rows[text][i], rows[target][i]) for text, target in both for i in streams]
    chased = [
        _whole(rows[text][i][0], rows[target][i][0]) for text, target in both for i in streams
    ]
    return pairs, chased, [rows[text][i][0] for text in keep for i in streams]


def _pulled(pipe, family, branch, text, chased):
    """Gives for each chased row that of the text at its position in its stream, or the pooled."""
    if branch == "pooled":
        return [pooled_row(pipe, family, text)] * len(chased)
    streams = [rows for rows, _ in token_rows(pipe, family, text)]
    return [
        _whole(source, streams[number % len(streams)])[1]
        for number, (source, _) in enumerate(chased)
    ]


def edited(pipe, family, request, *, method="uce", rounds=0, toward=None, strength=0.1):
    """Edits all readers with the methods' default settings; one erasure with or without anchor.

    Where there is a text to pull toward, each row is pulled to its stream's row there.
    """
    after = {}
    for branch, layers in readers(pipe, family).items():
        pairs, chased, kept = rows_to_move(pipe, family, branch, request)
        after[branch] = reference.uce(layers, pairs, kept, erase=1.0, keep=1.0, ridge=0.5)
        if method == "rece":
            pulled = toward if toward is None else _pulled(pipe, family, branch, toward, chased)
            after[branch] = reference.rece(
                layers,
                after[branch],
                chased,
                kept,
                rounds=rounds,
                strength=strength,
                keep=0.1,
                ridge=0.1,
                toward=pulled,
            )
    return after


def realera(pipe, family, request, *, keep=0.1, ridge=0.1):
    """Edits all readers from moments, with RealEra's default settings."""
    after = {}
    for branch, layers in readers(pipe, family).items():
        pairs, _, kept = rows_to_move(pipe, family, branch, request)
        clip = WIDTHS.get(family, {}).get(branch, ())
        streams = 2 if (family, branch) == ("sd3", "tokens") else 1
        after[branch] = reference.realera(
            layers,
            pairs,
            kept,
            near=(0.9, 1.0),
            distance=0.45,
            beyond=(0.5, 0.85),
            keep=keep,
            ridge=ridge,
            widths=[clip if place % streams == 0 else () for place in range(len(pairs))],
        )
    return after


def tokenizer_of(pipe, family, stream):
    """Gives the tokenizer of a stream of tokens, and whether it is T5's."""
    if family == "pixart":
        return pipe.tokenizer, True
    if family == "flux":
        return pipe.tokenizer_2, True
    return (pipe.tokenizer_3, True) if family == "sd3" and stream == 1 else (pipe.tokenizer, False)


def summary_places(tokenizer, is_t5, source, target):
    """Lists what TRCE moves: the end alone in CLIP; in T5 the differing words and all after them.

    Weights of one prompt add up to one. Differing words go to the last one of the target, or to
    its end token where it has nothing there and nothing before it.
    """
    mine, theirs = tokenizer(source)["input_ids"], tokenizer(target)["input_ids"]
    if not is_t5:
        return [(len(mine) - 1, len(theirs) - 1, 1.0)]
    shared = 0
    while shared < min(len(mine), len(theirs)) and mine[-1 - shared] == theirs[-1 - shared]:
        shared += 1
    same = 0
    while same < min(len(mine), len(theirs)) - shared and mine[same] == theirs[same]:
        same += 1
    there = len(theirs) - shared - 1
    there = there if there >= 0 else len(theirs) - 1
    found = [(own, there) for own in range(same, len(mine) - shared)]
    found += [(len(mine) - back, len(theirs) - back) for back in range(1, shared + 1)]
    return [(own, other, 1.0 / len(found)) for own, other in found]


def trce(pipe, family, request, *, keep, ridge):
    """Edits all readers as the note on TRCE says: layer by layer, row by row, both sides as means.

    Concepts keep the words around them in their targets; every wording names its concept.
    """
    texts = [
        (text, " ".join(text.replace(erasure.concept.name, _anchor(erasure)).split()))
        for erasure in request.erasures
        for text in wordings(erasure.concept)
    ]
    held = ["", *(text for one in request.keep for text in wordings(one))]
    after = {}
    for branch, layers in readers(pipe, family).items():
        if branch == "pooled":
            moved = [
                (pooled_row(pipe, family, text)[0], pooled_row(pipe, family, target)[0], 1.0)
                for text, target in texts
            ]
            kept = [row for text in held for row in pooled_row(pipe, family, text)]
        else:
            moved, kept = [], []
            rows = {t: token_rows(pipe, family, t) for t in {*held, *(x for p in texts for x in p)}}
            for stream in range(len(rows[""])):
                own = tokenizer_of(pipe, family, stream)
                for text, target in texts:
                    for here, there, weight in summary_places(*own, text, target):
                        c, t = rows[text][stream][0][here], rows[target][stream][0][there]
                        moved.append((c, t, weight))
                kept += [row for text in held for row in rows[text][stream][0]]
        after[branch] = {
            name: _weighed(weight, moved, kept, keep=keep, ridge=ridge)
            for name, weight in layers.items()
        }
    return after


def _anchor(erasure):
    return "" if erasure.anchor is None else erasure.anchor.name


def _weighed(weight, moved, kept, *, keep, ridge):
    """Solves one layer; erased and kept rows are both means."""
    total = sum(share for _, _, share in moved)
    system = ridge * torch.eye(weight.shape[1], dtype=torch.float64)
    pulled = ridge * weight
    for c, t, share in moved:
        system = system + share / total * torch.outer(c, c)
        pulled = pulled + share / total * torch.outer(weight @ t, c)
    for r in kept:
        system = system + keep / len(kept) * torch.outer(r, r)
        pulled = pulled + keep / len(kept) * torch.outer(weight @ r, r)
    return pulled @ torch.inverse(system)


def relative_change(before, after):
    """Sizes the change of all readers together."""
    flat = [
        {f"{branch}/{name}": w for branch, layers in side.items() for name, w in layers.items()}
        for side in (before, after)
    ]
    return reference.relative_change(*flat)
